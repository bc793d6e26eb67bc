-- Stock by lot; lots of one article at one site add up. What lies in the West is known to the warehouse there.
SELECT s.comp_cd AS company_id,
       CASE WHEN translate(s.art_no, '0123456789', '') = '' THEN ltrim(s.art_no, '0') ELSE upper(trim(s.art_no)) END AS item_id,
       s.site_no AS location_id,
       s.qty_phys AS on_hand,
       s.qty_resv AS reserved,
       CAST(s.qty_insp AS DECIMAL(28,9)) AS quality_hold,
       CAST(s.qty_blkd AS DECIMAL(28,9)) AS blocked
FROM   meridian.stk_lot_level s
JOIN   meridian.wh_site w ON w.comp_cd = s.comp_cd AND w.site_no = s.site_no
WHERE  s.comp_cd = '0100' AND w.region_cd <> 'WE'
