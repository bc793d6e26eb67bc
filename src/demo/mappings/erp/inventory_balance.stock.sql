-- Stock by lot; lots of one article at one site add up.
SELECT comp_cd AS company_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       site_no AS location_id,
       qty_phys AS on_hand,
       qty_resv AS reserved,
       CAST(qty_insp AS DECIMAL(28,9)) AS quality_hold,
       CAST(qty_blkd AS DECIMAL(28,9)) AS blocked
FROM   meridian.stk_lot_level
WHERE  comp_cd = '0100'
