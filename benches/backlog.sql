-- A backlog: row changes on four tables of the demo's ERP, 60 % inserts, 30 % updates, 10 % deletes; most transactions
-- small (10 rows), a few of 50,000. Called as bench.backlog(rows); every transaction commits by itself.
CREATE SCHEMA bench;
CREATE TABLE bench.stock AS
SELECT row_number() OVER (ORDER BY comp_cd, site_no, art_no, lot_no) AS n, comp_cd, site_no, art_no, lot_no FROM meridian.stk_lot_level;
CREATE UNIQUE INDEX stock_n ON bench.stock (n);

-- Six inserts, three updates and one delete for each n; order numbers from 5000000000 on are the bench's own.
CREATE FUNCTION bench.changes(first bigint, last bigint, stock bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO meridian.ord_head
    SELECT '0100', lpad((5000000000 + n)::text, 10, '0'), lpad((20001 + n % 3000)::text, 10, '0'), 'EDI', 'BENCH' || n,
           date '2026-05-01' + (n % 90)::integer, 'O', 'EUR', lpad((n % 32)::text, 4, '0'), 1 + n % 9, 0, NULL,
           clock_timestamp() AT TIME ZONE 'UTC', clock_timestamp() AT TIME ZONE 'UTC', 'BENCH'
    FROM generate_series(first, last) AS n;
    INSERT INTO meridian.ord_pos
    SELECT '0100', lpad((5000000000 + n)::text, 10, '0'), p * 10, 'N', meridian.art_no(1 + (n * 7 + p) % 20000),
           lpad(((n + p) % 32)::text, 4, '0'), 1 + (n + p) % 24, 0, 0, 0, 'ST', date '2026-05-01' + (n % 90)::integer, '1900-01-01', 'O',
           round((100 + (n * 31 + p) % 200000) / 1000.0, 3), round((100 + (n * 31 + p) % 200000) / 500.0, 2), 'EUR',
           clock_timestamp() AT TIME ZONE 'UTC'
    FROM generate_series(first, last) AS n, unnest(ARRAY[1, 2, 4]) AS p;
    INSERT INTO meridian.stk_posting
    SELECT '0100', 5000000000 + n, p, 'WA', meridian.art_no(1 + (n * 7 + p) % 20000), lpad(((n + p) % 32)::text, 4, '0'), '', '',
           1 + (n + p) % 24, 'H', 'ST', 'SO', lpad((n % 1000000000)::text, 10, '0'), p * 10, n, date '2026-05-01',
           clock_timestamp() AT TIME ZONE 'UTC', 'BENCH'
    FROM generate_series(first, last) AS n, generate_series(1, 2) AS p;
    UPDATE meridian.stk_lot_level AS s
    SET qty_phys = s.qty_phys + 1, qty_resv = s.qty_resv + 1, last_mv_ts = clock_timestamp() AT TIME ZONE 'UTC', chg_usr = 'BENCH'
    FROM bench.stock AS b, generate_series(first, last) AS g(change), generate_series(0, 1) AS k
    WHERE b.n = 1 + (change * 7919 + k * 104729) % stock
      AND (s.comp_cd, s.site_no, s.art_no, s.lot_no) = (b.comp_cd, b.site_no, b.art_no, b.lot_no);
    UPDATE meridian.ord_pos SET qty_rsv = qty_ord, stat = 'P', chg_ts = clock_timestamp() AT TIME ZONE 'UTC'
    WHERE comp_cd = '0100' AND ord_no BETWEEN lpad((5000000000 + first)::text, 10, '0')::bpchar AND lpad((5000000000 + last)::text, 10, '0')::bpchar
      AND pos_no = 10;
    DELETE FROM meridian.ord_pos
    WHERE comp_cd = '0100' AND ord_no BETWEEN lpad((5000000000 + first)::text, 10, '0')::bpchar AND lpad((5000000000 + last)::text, 10, '0')::bpchar
      AND pos_no = 40;
END $$;

CREATE PROCEDURE bench.backlog(changes bigint) LANGUAGE plpgsql AS $$
DECLARE
    groups bigint := changes / 10;
    stock bigint := (SELECT count(*) FROM bench.stock);
    n bigint := 0;
    size bigint;
BEGIN
    WHILE n < groups LOOP
        -- Four large transactions, evenly spread, hold a fifth of all changes when a million are asked for.
        size := CASE WHEN n % (groups / 4) = groups / 8 THEN least(5000, groups / 20) ELSE 1 END;
        PERFORM bench.changes(n, n + size - 1, stock);
        n := n + size;
        COMMIT;
    END LOOP;
END $$;
