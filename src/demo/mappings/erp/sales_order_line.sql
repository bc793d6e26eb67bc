-- Lines of customers' orders. What a closed or cancelled line did not deliver counts as cancelled.
SELECT comp_cd AS company_id,
       ltrim(ord_no, '0') AS order_id,
       CAST(pos_no AS VARCHAR) AS line_id,
       CASE WHEN translate(art_no, '0123456789', '') = '' THEN ltrim(art_no, '0') ELSE upper(trim(art_no)) END AS item_id,
       site_no AS location_id,
       CASE pos_typ WHEN 'N' THEN 'normal' WHEN 'R' THEN 'return' END AS order_class,
       qty_ord AS qty_ordered,
       qty_dlv AS qty_shipped,
       CASE WHEN stat IN ('C', 'X') THEN qty_ord - qty_dlv ELSE qty_cxl END AS qty_cancelled,
       qty_rsv AS qty_reserved,
       wish_dt AS requested_date,
       NULLIF(conf_dt, DATE '1900-01-01') AS promised_date,
       CASE stat WHEN 'E' THEN 'draft' WHEN 'O' THEN 'open' WHEN 'P' THEN 'partial' WHEN 'D' THEN 'shipped' WHEN 'C' THEN 'closed'
                 WHEN 'X' THEN 'cancelled' WHEN 'H' THEN 'hold' END AS status,
       CAST(net_price AS DECIMAL(28,9)) AS unit_price,
       net_amt AS line_amount,
       trim(curr) AS currency,
       CASE trim(unit) WHEN 'ST' THEN 'EA' WHEN 'KG' THEN 'KGM' WHEN 'L' THEN 'LTR' WHEN 'M' THEN 'MTR' WHEN 'KAR' THEN 'CT' WHEN 'PAL' THEN 'PF' END AS uom_original,
       qty_ord AS qty_original
FROM   meridian.ord_pos
WHERE  comp_cd = '0100'
