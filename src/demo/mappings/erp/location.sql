-- Sites: centres and branches are supply; what is under way or in quarantine is not.
SELECT comp_cd AS company_id,
       site_no AS location_id,
       site_name AS name,
       CASE site_typ WHEN 'ZL' THEN 'dc' WHEN 'FI' THEN 'store' WHEN 'TR' THEN 'transit' WHEN 'SP' THEN 'quarantine' END AS type,
       NULLIF(trim(supply_site), '') AS parent_location_id,
       region_cd AS region,
       cntry AS country,
       tz_name AS tz,
       NULLIF(gln, '') AS gln,
       mrp_flg = 1 AS nettable,
       CASE WHEN close_dt = DATE '1900-01-01' THEN 'active' ELSE 'closed' END AS status
FROM   meridian.wh_site
WHERE  comp_cd = '0100'
