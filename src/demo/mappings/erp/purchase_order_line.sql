-- Lines of orders placed with vendors. What a closed or cancelled line did not bring counts as cancelled.
SELECT comp_cd AS company_id,
       ltrim(pur_no, '0') AS po_id,
       CAST(pos_no AS VARCHAR) AS line_id,
       ltrim(vnd_no, '0') AS supplier_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       site_no AS location_id,
       qty_ord AS qty_ordered,
       qty_conf AS qty_confirmed,
       qty_rcv AS qty_received,
       CASE WHEN stat IN ('C', 'X') THEN qty_ord - qty_rcv ELSE qty_cxl END AS qty_cancelled,
       need_dt AS need_by,
       NULLIF(conf_dt, DATE '1900-01-01') AS promised_date,
       COALESCE(NULLIF(conf_dt, DATE '1900-01-01'), need_dt) AS expected_receipt,
       CASE stat WHEN 'E' THEN 'draft' WHEN 'F' THEN 'approved' WHEN 'S' THEN 'sent' WHEN 'B' THEN 'confirmed' WHEN 'T' THEN 'partial'
                 WHEN 'W' THEN 'received' WHEN 'C' THEN 'closed' WHEN 'X' THEN 'cancelled' END AS status,
       buy_price AS price,
       trim(curr) AS currency
FROM   meridian.pur_pos
WHERE  comp_cd = '0100'
