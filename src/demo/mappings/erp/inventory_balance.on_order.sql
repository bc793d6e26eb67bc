-- What vendors have confirmed and not yet delivered, on top of the stock at the same site.
SELECT comp_cd AS company_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       site_no AS location_id,
       qty_ord - qty_rcv - qty_cxl AS on_order
FROM   meridian.pur_pos
WHERE  comp_cd = '0100' AND stat IN ('B', 'T') AND qty_ord > qty_rcv + qty_cxl
