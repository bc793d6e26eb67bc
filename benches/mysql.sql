-- A table of order lines and a backlog of changes to it: 50 % inserts, 32 % updates, 18 % deletes in transactions of 11 to 81 rows.
-- put(first, last) makes lines, backlog(changes) so many changes; every transaction commits by itself.
CREATE TABLE line (
    id bigint PRIMARY KEY, company char(4) NOT NULL, ord int unsigned NOT NULL, pos smallint NOT NULL, item varchar(24) NOT NULL,
    site varchar(8) NOT NULL, qty decimal(15,3) NOT NULL, reserved decimal(15,3) NOT NULL, price decimal(13,4), currency char(3) NOT NULL,
    due date, made datetime NOT NULL, changed timestamp(6) NOT NULL, state enum('open', 'picked', 'shipped', 'closed') NOT NULL,
    is_urgent tinyint NOT NULL, weight double, customer int NOT NULL, reference varchar(40), note varchar(200));
DELIMITER //
CREATE PROCEDURE put(first bigint, last bigint)
    INSERT INTO line
    SELECT n, ELT(1 + n % 3, '0100', '0200', '0300'), n DIV 5, n % 5, CONCAT('A', n % 20000), CONCAT('W0', n % 40), n % 9000 / 8, n % 7,
           n % 70000 / 16, 'EUR', DATE '2026-01-01' + INTERVAL n % 400 DAY, TIMESTAMP '2026-01-01 00:00:00' + INTERVAL n SECOND,
           TIMESTAMP '2026-01-01 00:00:00' + INTERVAL n * 1234567 MICROSECOND, 1 + n % 4, n % 2, IF(n % 5 = 0, NULL, n % 1000 / 7),
           n % 30000, CONCAT('PO-', n DIV 5), IF(n % 3 = 0, NULL, CONCAT('order line ', n))
    FROM (SELECT first + seq AS n FROM seq_0_to_9999999 WHERE seq <= last - first) AS numbers//

-- Each transaction has lines inserted at the end, some of the last ones changed, and the first ones deleted.
CREATE PROCEDURE backlog(changes bigint)
BEGIN
    DECLARE transactions, done, low, high, inserts, updates, deletes bigint DEFAULT 0;
    SELECT MIN(id), MAX(id) INTO low, high FROM line;
    WHILE done < changes DO
        SET inserts = LEAST(6 + transactions % 37, changes - done);
        SET updates = LEAST(4 + transactions % 23, changes - done - inserts);
        SET deletes = LEAST(1 + transactions % 17, changes - done - inserts - updates);
        START TRANSACTION;
        CALL put(high + 1, high + inserts);
        UPDATE line SET qty = qty + 1.5, changed = changed + INTERVAL 1 HOUR, state = 1 + transactions % 4
        WHERE id > high - 5000 AND id <= high - 5000 + updates;
        DELETE FROM line WHERE id >= low AND id < low + deletes;
        COMMIT;
        SET high = high + inserts, low = low + deletes;
        SET done = done + inserts + updates + deletes, transactions = transactions + 1;
    END WHILE;
END//
DELIMITER ;
