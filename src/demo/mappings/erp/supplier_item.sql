-- Terms of purchase; a blank site means every site, a lot size of zero any quantity.
SELECT comp_cd AS company_id,
       ltrim(vnd_no, '0') AS supplier_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       trim(site_no) AS location_id,
       CASE WHEN from_dt = DATE '1900-01-01' THEN DATE '1970-01-01' ELSE from_dt END AS valid_from,
       NULLIF(to_dt, DATE '9999-12-31') AS valid_to,
       CAST(CAST(lead_days AS DECIMAL(10,2)) AS INT) AS lead_time_days,
       'erp' AS lead_time_source,
       min_qty AS moq,
       CASE WHEN lot_qty > 0 THEN lot_qty END AS order_multiple,
       CASE trim(unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS purchase_uom,
       buy_price AS price,
       trim(curr) AS currency,
       "rank" AS priority,
       NULLIF(vnd_art_no, '') AS supplier_pn
FROM   meridian.vnd_article
WHERE  comp_cd = '0100'
