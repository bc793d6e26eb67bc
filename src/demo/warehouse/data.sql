-- Opening books for @items articles of the ERP, as many as it has there. Nothing is random: `pick` is a hash.

CREATE FUNCTION pick(r bigint unsigned, salt int, choices int) RETURNS int DETERMINISTIC
    RETURN CRC32(CONCAT(r, ':', salt)) % choices;

INSERT INTO site
SELECT CONCAT('WE', LPAD(4 * seq - 1, 2, '0')), LPAD(4 * seq - 1, 4, '0'), '2026-01-01' FROM seq_1_to_8;

-- Every 97th article of the ERP is a service.
INSERT INTO sku
SELECT IF(seq % 7 = 0, CONCAT('mx-', LPAD(seq, 6, '0'), CHAR(97 + seq % 26 USING utf8mb4)), 100000 + seq), seq,
       ELT(1 + pick(seq, 1, 4), 1, 1, 6, 12), '2026-01-01'
FROM seq_1_to_1000000 WHERE seq <= @items AND seq % 97 <> 0;

-- Every article lies in the centre, every eighth also in each branch.
INSERT INTO stock
SELECT l.site_cd, k.sku, IF(k.seq_no % 20 = 0, 'L0001', ''), IF((k.seq_no + l.erp_site) % 31 = 0, 'QC', 'OK'),
       1 + pick(k.seq_no * 64 + l.erp_site, 2, 400), '2026-01-01'
FROM site AS l JOIN sku AS k ON l.erp_site = 3 OR (k.seq_no + l.erp_site) % 8 = 0;

INSERT INTO movement (kind, grp, site_cd, sku, lot, status, packs, mv_ts)
SELECT 'OPENING', 0, site_cd, sku, lot, status, packs, upd_ts FROM stock;
