-- Vendors. A deleted account stays on the books as inactive.
SELECT comp_cd AS company_id,
       ltrim(vnd_no, '0') AS supplier_id,
       nm1 AS name,
       CASE WHEN del_flg = 'X' THEN 'inactive' WHEN blk_cd = 'X' THEN 'blocked' ELSE 'active' END AS status,
       trim(curr) AS currency,
       cntry AS country,
       NULLIF(gln, '') AS gln,
       trim(pay_terms) AS payment_terms,
       min_ord_val AS minimum_order_value
FROM   meridian.vnd_account
WHERE  comp_cd = '0100'
