-- Orders placed with vendors.
SELECT comp_cd AS company_id,
       ltrim(pur_no, '0') AS po_id,
       ltrim(vnd_no, '0') AS supplier_id,
       ord_dt AS order_date,
       CASE stat WHEN 'E' THEN 'draft' WHEN 'F' THEN 'approved' WHEN 'S' THEN 'sent' WHEN 'B' THEN 'confirmed' WHEN 'T' THEN 'partial'
                 WHEN 'W' THEN 'received' WHEN 'C' THEN 'closed' WHEN 'X' THEN 'cancelled' END AS status,
       trim(curr) AS currency,
       site_no AS ship_to,
       NULLIF(prop_no, '') AS recommendation_ref
FROM   meridian.pur_head
WHERE  comp_cd = '0100'
