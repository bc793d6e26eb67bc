-- Customers' accounts; a deleted one stays on the books as inactive.
SELECT comp_cd AS company_id,
       ltrim(acct_no, '0') AS customer_id,
       trim(nm1 || ' ' || COALESCE(nm2, '')) AS name,
       cust_grp AS segment,
       CASE sales_ch WHEN '10' THEN 'wholesale' WHEN '20' THEN 'web' WHEN '30' THEN 'counter' END AS channel,
       region_cd AS region,
       CASE WHEN del_flg = 'X' THEN 'inactive' WHEN blk_cd = 'X' THEN 'blocked' ELSE 'active' END AS status,
       NULLIF(ltrim(trim(head_acct), '0'), '') AS parent_customer_id,
       prio AS priority
FROM   meridian.deb_account
WHERE  comp_cd = '0100'
