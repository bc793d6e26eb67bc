-- What lies in the West, by lot and status, on top of what the ERP has reserved and ordered for the same sites.
SELECT '0100' AS company_id,
       upper(s.sku) AS item_id,
       l.erp_site AS location_id,
       convert(s.packs, k.pieces, 1) AS on_hand,
       convert(CASE WHEN s.status = 'QC' THEN s.packs ELSE 0 END, k.pieces, 1) AS quality_hold,
       convert(CASE WHEN s.status = 'BL' THEN s.packs ELSE 0 END, k.pieces, 1) AS blocked
FROM   wms.stock s
JOIN   wms.sku k  ON k.sku = s.sku
JOIN   wms.site l ON l.site_cd = s.site_cd
