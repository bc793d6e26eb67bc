-- Postings. The ERP keeps the sign apart: S adds to the site's stock, H takes from it.
SELECT comp_cd AS company_id,
       CAST(post_no AS VARCHAR) || '-' || CAST(post_pos AS VARCHAR) AS movement_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       site_no AS location_id,
       NULLIF(trim(from_to_site), '') AS counter_location_id,
       CASE mv_code WHEN 'WE' THEN 'receipt_po' WHEN 'WA' THEN 'issue_sale' WHEN 'UA' THEN 'transfer_out'
                    WHEN 'UE' THEN 'transfer_in' WHEN 'ID' THEN 'count' WHEN 'VS' THEN 'scrap' END AS movement_type,
       CASE WHEN dr_cr = 'S' THEN qty ELSE -qty END AS qty_delta,
       qty AS qty_original,
       CASE trim(unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS uom_original,
       CASE trim(ref_typ) WHEN 'SO' THEN 'sales_order' WHEN 'PO' THEN 'purchase_order' WHEN 'CT' THEN 'count' END AS reference_type,
       NULLIF(ltrim(ref_no, '0'), '') AS reference_id,
       CASE WHEN ref_pos > 0 THEN CAST(ref_pos AS VARCHAR) END AS reference_line,
       CASE WHEN grp_no > 0 THEN CAST(grp_no AS VARCHAR) END AS movement_group_id,
       post_dt AS posting_date,
       post_ts AS event_ts
FROM   meridian.stk_posting
WHERE  comp_cd = '0100'
