-- Customers' orders.
SELECT comp_cd AS company_id,
       ltrim(ord_no, '0') AS order_id,
       ltrim(acct_no, '0') AS customer_id,
       lower(CAST(origin AS VARCHAR)) AS channel,
       NULLIF(cust_ref, '') AS external_ref,
       ord_dt AS order_date,
       CASE stat WHEN 'E' THEN 'draft' WHEN 'O' THEN 'open' WHEN 'P' THEN 'partial' WHEN 'D' THEN 'shipped' WHEN 'C' THEN 'closed'
                 WHEN 'X' THEN 'cancelled' WHEN 'H' THEN 'hold' END AS status,
       trim(curr) AS currency,
       site_no AS ship_from,
       prio AS priority
FROM   meridian.ord_head
WHERE  comp_cd = '0100'
