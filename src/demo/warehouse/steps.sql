-- A working day in the warehouse: each step is one transaction over several tables, and draws its choices from a number.

DELIMITER //

-- Variables, where an expression would be computed for every row that is looked at.
CREATE FUNCTION any_sku(r bigint unsigned, salt int) RETURNS varchar(18) READS SQL DATA
BEGIN
    DECLARE least int DEFAULT 1 + pick(r, salt, (SELECT MAX(seq_no) FROM sku));
    RETURN (SELECT sku FROM sku WHERE seq_no >= least ORDER BY seq_no LIMIT 1);
END//

CREATE FUNCTION any_site(r bigint unsigned, salt int) RETURNS char(4) DETERMINISTIC
    RETURN CONCAT('WE', LPAD(3 + IF(pick(r, salt, 3) > 0, 0, 4 * pick(r, salt + 1, 8)), 2, '0'))//

-- Books what came or went; what is used up leaves no row.
CREATE PROCEDURE book(what varchar(12), together bigint unsigned, place char(4), article varchar(18), batch varchar(12), state char(2), delta decimal(12,3))
BEGIN
    INSERT INTO stock VALUES (place, article, batch, state, delta, NOW(6))
    ON DUPLICATE KEY UPDATE packs = packs + delta, upd_ts = NOW(6);
    DELETE FROM stock WHERE site_cd = place AND sku = article AND lot = batch AND status = state AND packs = 0;
    INSERT INTO movement (kind, grp, site_cd, sku, lot, status, packs, mv_ts) VALUES (what, together, place, article, batch, state, delta, NOW(6));
END//

-- At most `wanted` packs of the first lot that has any; `found` is 0 where there are none.
CREATE PROCEDURE choose(place char(4), article varchar(18), state char(2), wanted int, OUT batch varchar(12), OUT found decimal(12,3))
BEGIN
    SET batch = '', found = 0;
    SELECT lot, LEAST(packs, wanted) INTO batch, found FROM stock
    WHERE site_cd = place AND sku = article AND status = state AND packs > 0 ORDER BY lot LIMIT 1 FOR UPDATE;
END//

CREATE PROCEDURE receive(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE i int DEFAULT 0;
    DECLARE place char(4) DEFAULT any_site(r, 1);
    WHILE i < 1 + pick(r, 2, 4) DO
        CALL book('RECEIPT', r, place, any_sku(r, 100 + i), IF(pick(r, 200 + i, 5) = 0, CONCAT('L', LPAD(pick(r, 300 + i, 9000), 4, '0')), ''),
                  IF(pick(r, 400 + i, 6) = 0, 'QC', 'OK'), 1 + pick(r, 500 + i, 60));
        SET i = i + 1, written = written + 2;
    END WHILE;
END//

CREATE PROCEDURE pick_order(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE i int DEFAULT 0;
    DECLARE place char(4) DEFAULT any_site(r, 1);
    DECLARE article varchar(18);
    DECLARE batch varchar(12);
    DECLARE found decimal(12,3);
    WHILE i < 1 + pick(r, 2, 5) DO
        SET article = any_sku(r, 100 + i);
        CALL choose(place, article, 'OK', 1 + pick(r, 200 + i, 40), batch, found);
        IF found > 0 THEN
            CALL book('PICK', r, place, article, batch, 'OK', -found);
            SET written = written + 2;
        END IF;
        SET i = i + 1;
    END WHILE;
END//

-- Somebody counts and finds more or fewer: also halves of a pack.
CREATE PROCEDURE correct(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE place char(4) DEFAULT any_site(r, 1);
    DECLARE article varchar(18) DEFAULT any_sku(r, 2);
    DECLARE batch varchar(12);
    DECLARE found decimal(12,3);
    CALL choose(place, article, 'OK', 1, batch, found);
    CALL book('CORRECTION', r, place, article, batch, 'OK', IF(found > 0 AND pick(r, 3, 2) = 0, -found, 0.5 * (1 + pick(r, 4, 4))));
    SET written = written + 2;
END//

CREATE PROCEDURE transfer(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE article varchar(18) DEFAULT any_sku(r, 1);
    DECLARE batch varchar(12);
    DECLARE found decimal(12,3);
    CALL choose('WE03', article, 'OK', 1 + pick(r, 2, 20), batch, found);
    IF found > 0 THEN
        CALL book('TRANSFER', r, 'WE03', article, batch, 'OK', -found);
        CALL book('TRANSFER', r, CONCAT('WE', LPAD(7 + 4 * pick(r, 3, 7), 2, '0')), article, batch, 'OK', found);
        SET written = written + 4;
    END IF;
END//

-- What was in inspection is free now, or blocked.
CREATE PROCEDURE inspect(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE least varchar(18) DEFAULT any_sku(r, 1);
    DECLARE article varchar(18);
    DECLARE batch varchar(12);
    DECLARE amount decimal(12,3) DEFAULT 0;
    SELECT sku, lot, packs INTO article, batch, amount FROM stock
    WHERE site_cd = 'WE03' AND status = 'QC' AND sku >= least ORDER BY sku, lot LIMIT 1 FOR UPDATE;
    IF amount > 0 THEN
        CALL book('RELEASE', r, 'WE03', article, batch, 'QC', -amount);
        CALL book('RELEASE', r, 'WE03', article, batch, IF(pick(r, 2, 4) = 0, 'BL', 'OK'), amount);
        SET written = written + 4;
    END IF;
END//

-- The maker packs otherwise: all that lies there of an article counts anew.
CREATE PROCEDURE repack(r bigint unsigned, INOUT written int)
BEGIN
    DECLARE article varchar(18) DEFAULT any_sku(r, 1);
    UPDATE sku SET pieces = ELT(1 + pick(r, 2, 4), 1, 6, 12, 24), upd_ts = NOW(6) WHERE sku = article;
    SET written = written + 1;
END//

-- Makes one step and says how many rows it wrote, or -1 where it lost a deadlock and nothing was done.
CREATE PROCEDURE step(r bigint unsigned)
BEGIN
    DECLARE drawn int DEFAULT pick(r, 0, 100);
    DECLARE written int DEFAULT 0;
    DECLARE EXIT HANDLER FOR 1205, 1213
    BEGIN
        ROLLBACK;
        SELECT -1;
    END;
    START TRANSACTION;
    IF drawn < 25 THEN CALL receive(r, written);
    ELSEIF drawn < 65 THEN CALL pick_order(r, written);
    ELSEIF drawn < 77 THEN CALL correct(r, written);
    ELSEIF drawn < 90 THEN CALL transfer(r, written);
    ELSEIF drawn < 97 THEN CALL inspect(r, written);
    ELSE CALL repack(r, written);
    END IF;
    COMMIT;
    SELECT written;
END//

DELIMITER ;
