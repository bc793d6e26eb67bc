-- What the planner should hold of the warehouse's stock, as its own server computes it, apart from the mapping.
SELECT '0100', UPPER(s.sku), l.erp_site, SUM(s.packs * k.pieces),
       SUM(IF(s.status = 'QC', s.packs, 0) * k.pieces), SUM(IF(s.status = 'BL', s.packs, 0) * k.pieces)
FROM   stock AS s, sku AS k, site AS l
WHERE  k.sku = s.sku AND l.site_cd = s.site_cd
GROUP  BY s.sku, l.erp_site
