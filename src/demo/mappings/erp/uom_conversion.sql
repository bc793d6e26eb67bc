-- Cartons and pallets in base units; whole numbers in the ERP, so the factor is exact.
SELECT comp_cd AS company_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       CASE trim(alt_unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS from_uom,
       CASE trim(base_unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS to_uom,
       numer AS num,
       denom AS den,
       'art_unit' AS source_rule
FROM   meridian.art_unit
WHERE  comp_cd = '0100'
