-- Printed bar codes: 13 digits, a GTIN once padded to 14.
SELECT 'GTIN' AS scheme,
       lpad(trim(ean_no), 14, '0') AS value,
       comp_cd AS company_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       CASE trim(unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS uom
FROM   meridian.art_ean
WHERE  comp_cd = '0100'
