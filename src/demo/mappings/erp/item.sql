-- Articles. Numbers that are all digits lose their padding; the maker's own marks stay as they are.
SELECT comp_cd AS company_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       art_no AS item_no,
       trim(descr1 || ' ' || COALESCE(descr2, '')) AS description,
       CASE art_typ WHEN 'S' THEN 'stock' WHEN 'D' THEN 'service' WHEN 'K' THEN 'kit' END AS item_type,
       CASE WHEN del_flg = 'X' OR stat = 'X' THEN 'discontinued'
            WHEN stat = 'A' THEN 'active'
            WHEN stat = 'S' THEN 'blocked_sales'
            WHEN stat = 'P' THEN 'blocked_purchase'
            WHEN stat = 'N' THEN 'planned' END AS status,
       CASE trim(unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS base_uom,
       unit_dec AS base_uom_decimals,
       gross_wt AS weight_kg,
       vol_dm3 * 0.001 AS volume_m3,
       CAST(std_cost AS DECIMAL(28,9)) AS unit_cost,
       trim(curr) AS cost_currency,
       list_price AS price_list,
       lot_flg AS lot_tracked,
       ser_flg AS serial_tracked,
       NULLIF(shelf_days, 0) AS shelf_life_days,
       "class" AS abc_class,
       NULLIF(valid_fr, DATE '1900-01-01') AS lifecycle_from,
       NULLIF(valid_to, DATE '9999-12-31') AS lifecycle_to,
       CASE WHEN repl_art_no = '' THEN NULL
            WHEN translate(repl_art_no, '0123456789', '') = '' THEN ltrim(repl_art_no, '0')
            ELSE upper(trim(repl_art_no)) END AS superseded_by,
       trim(prod_grp) AS primary_hierarchy_node
FROM   meridian.art_master
WHERE  comp_cd = '0100'
