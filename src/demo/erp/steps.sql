-- What happens in a working day: each function is one business step, called in a transaction of its own, with a number
-- from which it draws its choices. It returns how many rows it wrote; 0 where there was nothing to do.
-- Articles are locked before stock, and stock rows in the order of their key, so that steps wait for each other and rarely
-- deadlock.

SET search_path = meridian;

CREATE FUNCTION utc() RETURNS timestamp LANGUAGE sql STABLE RETURN now() AT TIME ZONE 'UTC';

CREATE FUNCTION any_article(r bigint, salt integer) RETURNS art_master LANGUAGE sql STABLE AS $$
    SELECT a FROM art_master a
    WHERE a.comp_cd = '0100' AND a."order" >= 1 + pick(r, salt, (SELECT max("order") FROM art_master WHERE comp_cd = '0100'))
      AND a.art_typ = 'S' AND a.del_flg = ' '
    ORDER BY a."order" LIMIT 1
$$;

CREATE FUNCTION any_site(r bigint, salt integer) RETURNS varchar LANGUAGE sql IMMUTABLE
    RETURN lpad((CASE WHEN pick(r, salt, 4) > 0 THEN pick(r, salt + 1, 4) ELSE pick(r, salt + 1, 32) END)::text, 4, '0');

CREATE FUNCTION any_account(r bigint, salt integer) RETURNS varchar LANGUAGE sql STABLE AS $$
    SELECT acct_no FROM deb_account
    WHERE comp_cd = '0100'
      AND acct_no >= lpad((20001 + pick(r, salt, (SELECT max(acct_no)::integer - 20000 FROM deb_account)))::text, 10, '0')::char(10)
    ORDER BY acct_no LIMIT 1
$$;

CREATE FUNCTION any_vendor(r bigint, salt integer) RETURNS varchar LANGUAGE sql STABLE AS $$
    SELECT vnd_no FROM vnd_account
    WHERE comp_cd = '0100'
      AND vnd_no >= lpad((7001 + pick(r, salt, (SELECT max(vnd_no)::integer - 7000 FROM vnd_account)))::text, 8, '0')::char(8)
    ORDER BY vnd_no LIMIT 1
$$;

CREATE FUNCTION any_open_order(r bigint) RETURNS ord_head LANGUAGE sql AS $$
    SELECT h FROM ord_head h
    WHERE h.comp_cd = '0100' AND h.stat IN ('O', 'P')
      AND h.ord_no >= lpad((1000000 + pick(r, 1, (SELECT last_value - 999999 FROM ord_seq)::integer))::text, 10, '0')::char(10)
    ORDER BY h.ord_no LIMIT 1 FOR UPDATE SKIP LOCKED
$$;

CREATE FUNCTION job(typ varchar, subject text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sys_queue (job_typ, payload, crt_ts) VALUES (typ, jsonb_build_object('subject', subject), utc())
$$;

-- Books a quantity at a site on its first lot, which may fall below zero; a row that does not exist is made.
CREATE FUNCTION book(site char, art varchar, mv varchar, delta numeric, released numeric, unit varchar,
                     typ varchar, ref char, pos integer, grp bigint, other char, r bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    lot varchar := coalesce((SELECT min(lot_no) FROM stk_lot_level WHERE comp_cd = '0100' AND site_no = site AND art_no = art), '');
BEGIN
    INSERT INTO stk_lot_level AS s (comp_cd, site_no, art_no, lot_no, qty_phys, qty_resv, last_mv_ts, chg_ts, chg_usr)
    VALUES ('0100', site, art, lot, delta, 0, utc(), utc(), 'STEP')
    ON CONFLICT (comp_cd, site_no, art_no, lot_no) DO UPDATE
    SET qty_phys = s.qty_phys + delta, qty_resv = greatest(s.qty_resv - released, 0), last_mv_ts = utc(), chg_ts = utc(), chg_usr = 'STEP';
    INSERT INTO stk_posting
    VALUES ('0100', nextval('post_seq'), 1, mv, art, site, other, lot, abs(delta), CASE WHEN delta < 0 THEN 'H' ELSE 'S' END, unit,
            typ, ref, pos, grp, utc()::date - CASE WHEN pick(r, 90, 20) = 0 THEN 3 ELSE 0 END, utc(), 'STEP');
    RETURN 2;
END $$;

CREATE FUNCTION step_order(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    no   char(10) := lpad(nextval('ord_seq')::text, 10, '0');
    site char(4) := any_site(r, 2);
    held boolean := pick(r, 4, 50) = 0;
    acct char(10) := any_account(r, 5);
    art  art_master;
    line record;
    written integer := 2;
BEGIN
    INSERT INTO ord_head
    VALUES ('0100', no, acct, (ARRAY['EDI', 'WEB', 'TEL', 'SHOP'])[1 + pick(r, 6, 4)]::ord_origin,
            CASE WHEN pick(r, 7, 3) = 0 THEN 'REF' || no ELSE '' END, utc()::date, CASE WHEN held THEN 'H' ELSE 'O' END, 'EUR', site,
            1 + pick(r, 8, 9), 0, NULL, utc(), utc(), 'STEP');
    FOR i IN 1 .. 1 + pick(r, 9, 6) LOOP
        art := any_article(r, 100 + i);
        INSERT INTO ord_pos
        SELECT '0100', no, i * 10, 'N', art.art_no, site, q, 0, 0, 0, art.unit, utc()::date + 2 + pick(r, 10, 14), date '1900-01-01',
               CASE WHEN held THEN 'H' ELSE 'O' END, art.list_price, round(q * art.list_price, 2), 'EUR', utc()
        FROM (SELECT 1 + pick(r, 200 + i, 20) AS q) AS quantity;
        written := written + 1;
    END LOOP;
    FOR line IN SELECT * FROM ord_pos WHERE comp_cd = '0100' AND ord_no = no AND NOT held ORDER BY art_no, pos_no LOOP
        UPDATE stk_lot_level s SET qty_resv = qty_resv + line.qty_ord, chg_ts = utc(), chg_usr = 'STEP'
        WHERE s.comp_cd = '0100' AND s.site_no = site AND s.art_no = line.art_no
          AND s.lot_no = (SELECT min(lot_no) FROM stk_lot_level m WHERE m.comp_cd = '0100' AND m.site_no = site AND m.art_no = line.art_no)
          AND s.qty_phys - s.qty_resv - s.qty_insp - s.qty_blkd >= line.qty_ord;
        IF FOUND THEN
            UPDATE ord_pos SET qty_rsv = qty_ord, conf_dt = wish_dt WHERE comp_cd = '0100' AND ord_no = no AND pos_no = line.pos_no;
            written := written + 2;
        END IF;
    END LOOP;
    UPDATE ord_head SET net_sum = (SELECT sum(net_amt) FROM ord_pos WHERE comp_cd = '0100' AND ord_no = no)
    WHERE comp_cd = '0100' AND ord_no = no;
    PERFORM job('ORDER_CONFIRMATION', no);
    RETURN written + 1;
END $$;

CREATE FUNCTION step_ship(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head ord_head := any_open_order(r);
    part boolean := pick(r, 2, 4) = 0;
    line record;
    q numeric;
    written integer := 1;
BEGIN
    IF head.ord_no IS NULL THEN RETURN 0; END IF;
    FOR line IN SELECT * FROM ord_pos WHERE comp_cd = '0100' AND ord_no = head.ord_no AND stat IN ('O', 'P') AND pos_typ = 'N'
                ORDER BY art_no, pos_no LOOP
        q := line.qty_ord - line.qty_dlv - line.qty_cxl;
        IF part AND q > 1 THEN q := ceil(q / 2); END IF;
        UPDATE ord_pos SET qty_dlv = qty_dlv + q, qty_rsv = greatest(qty_rsv - q, 0), chg_ts = utc(),
               stat = CASE WHEN qty_dlv + q + qty_cxl >= qty_ord THEN 'D' ELSE 'P' END
        WHERE comp_cd = '0100' AND ord_no = head.ord_no AND pos_no = line.pos_no;
        written := written + 1 + CASE WHEN q > 0 THEN
            book(line.site_no, line.art_no, 'WA', -q, least(line.qty_rsv, q), line.unit, 'SO', head.ord_no, line.pos_no, 0, '', r) ELSE 0 END;
    END LOOP;
    UPDATE ord_head SET chg_ts = utc(), chg_usr = 'STEP', stat = CASE
        WHEN EXISTS (SELECT FROM ord_pos WHERE comp_cd = '0100' AND ord_no = head.ord_no AND stat IN ('O', 'P') AND pos_typ = 'N') THEN 'P'
        WHEN pick(r, 3, 3) = 0 THEN 'C' ELSE 'D' END
    WHERE comp_cd = '0100' AND ord_no = head.ord_no;
    PERFORM job('DELIVERY_NOTE', head.ord_no);
    RETURN written + 1;
END $$;

CREATE FUNCTION step_cancel(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head ord_head := any_open_order(r);
    whole boolean := pick(r, 2, 2) = 0;
    line record;
    written integer := 0;
BEGIN
    IF head.ord_no IS NULL THEN RETURN 0; END IF;
    FOR line IN SELECT * FROM ord_pos WHERE comp_cd = '0100' AND ord_no = head.ord_no AND stat IN ('O', 'P') AND (whole OR pos_no = 10)
                ORDER BY art_no, pos_no LOOP
        UPDATE stk_lot_level s SET qty_resv = greatest(qty_resv - line.qty_rsv, 0), chg_ts = utc(), chg_usr = 'STEP'
        WHERE line.qty_rsv > 0 AND s.comp_cd = '0100' AND s.site_no = line.site_no AND s.art_no = line.art_no
          AND s.lot_no = (SELECT min(lot_no) FROM stk_lot_level m WHERE m.comp_cd = '0100' AND m.site_no = line.site_no AND m.art_no = line.art_no);
        UPDATE ord_pos SET stat = 'X', qty_cxl = qty_ord - qty_dlv, qty_rsv = 0, chg_ts = utc()
        WHERE comp_cd = '0100' AND ord_no = head.ord_no AND pos_no = line.pos_no;
        written := written + 2;
    END LOOP;
    IF whole THEN
        UPDATE ord_head SET stat = 'X', chg_ts = utc(), chg_usr = 'STEP' WHERE comp_cd = '0100' AND ord_no = head.ord_no;
        written := written + 1;
    END IF;
    RETURN written;
END $$;

CREATE FUNCTION step_amend(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head ord_head := any_open_order(r);
    written integer;
BEGIN
    IF head.ord_no IS NULL THEN RETURN 0; END IF;
    UPDATE ord_pos SET qty_ord = greatest(qty_dlv + qty_cxl + qty_rsv, qty_ord + pick(r, 2, 9) - 4, 1), wish_dt = wish_dt + pick(r, 3, 5),
           net_amt = round(greatest(qty_dlv + qty_cxl + qty_rsv, qty_ord + pick(r, 2, 9) - 4, 1) * net_price, 2), chg_ts = utc()
    WHERE comp_cd = '0100' AND ord_no = head.ord_no AND stat IN ('O', 'P');
    GET DIAGNOSTICS written = ROW_COUNT;
    UPDATE ord_head SET prio = 1 + pick(r, 4, 9), chg_ts = utc(), chg_usr = 'STEP',
           net_sum = (SELECT sum(net_amt) FROM ord_pos WHERE comp_cd = '0100' AND ord_no = head.ord_no)
    WHERE comp_cd = '0100' AND ord_no = head.ord_no;
    RETURN written + 1;
END $$;

CREATE FUNCTION step_purchase(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    no   char(10) := lpad(nextval('pur_seq')::text, 10, '0');
    site char(4) := lpad(pick(r, 2, 4)::text, 4, '0');
    sure boolean := pick(r, 3, 4) > 0;
    vnd  char(8) := any_vendor(r, 4);
    art  art_master;
    lines integer := 1 + pick(r, 5, 5);
BEGIN
    INSERT INTO pur_head VALUES ('0100', no, vnd, site, utc()::date, CASE WHEN sure THEN 'B' ELSE 'S' END, 'EUR', '', utc());
    FOR i IN 1 .. lines LOOP
        art := any_article(r, 100 + i);
        INSERT INTO pur_pos
        SELECT '0100', no, i * 10, vnd, art.art_no, site, q, CASE WHEN sure THEN q END, 0, 0, art.unit, utc()::date + 14,
               CASE WHEN sure THEN utc()::date + 16 ELSE date '1900-01-01' END, CASE WHEN sure THEN 'B' ELSE 'S' END, art.list_price, 'EUR', utc()
        FROM (SELECT 12 * (1 + pick(r, 200 + i, 20)) AS q) AS quantity;
    END LOOP;
    PERFORM job('PURCHASE_ORDER', no);
    RETURN lines + 2;
END $$;

-- The vendor's answer where it is still missing, otherwise the goods, in one or two deliveries.
CREATE FUNCTION step_receive(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head pur_head;
    part boolean := pick(r, 2, 3) = 0;
    line record;
    q numeric;
    written integer := 1;
BEGIN
    SELECT * INTO head FROM pur_head h
    WHERE h.comp_cd = '0100' AND h.stat IN ('S', 'B', 'T')
      AND h.pur_no >= lpad((400000 + pick(r, 1, (SELECT last_value - 399999 FROM pur_seq)::integer))::text, 10, '0')::char(10)
    ORDER BY h.pur_no LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN RETURN 0; END IF;
    IF head.stat = 'S' THEN
        UPDATE pur_pos SET stat = 'B', qty_conf = qty_ord, conf_dt = need_dt + 2, chg_ts = utc() WHERE comp_cd = '0100' AND pur_no = head.pur_no;
        UPDATE pur_head SET stat = 'B', chg_ts = utc() WHERE comp_cd = '0100' AND pur_no = head.pur_no;
        RETURN 2;
    END IF;
    FOR line IN SELECT * FROM pur_pos WHERE comp_cd = '0100' AND pur_no = head.pur_no AND stat IN ('B', 'T') ORDER BY art_no, pos_no LOOP
        q := line.qty_ord - line.qty_rcv - line.qty_cxl;
        IF part AND q > 1 THEN q := ceil(q / 2); END IF;
        UPDATE pur_pos SET qty_rcv = qty_rcv + q, chg_ts = utc(), stat = CASE WHEN qty_rcv + q + qty_cxl >= qty_ord THEN 'W' ELSE 'T' END
        WHERE comp_cd = '0100' AND pur_no = head.pur_no AND pos_no = line.pos_no;
        written := written + 1 + book(line.site_no, line.art_no, 'WE', q, 0, line.unit, 'PO', head.pur_no, line.pos_no, 0, '', r);
        IF pick(r, 3, 10) = 0 THEN
            UPDATE stk_lot_level SET qty_insp = greatest(qty_insp + CASE WHEN qty_insp > 0 THEN -qty_insp ELSE q END, 0)
            WHERE comp_cd = '0100' AND site_no = line.site_no AND art_no = line.art_no AND lot_no = '';
        END IF;
    END LOOP;
    UPDATE pur_head SET chg_ts = utc(), stat = CASE
        WHEN EXISTS (SELECT FROM pur_pos WHERE comp_cd = '0100' AND pur_no = head.pur_no AND stat IN ('B', 'T')) THEN 'T'
        WHEN pick(r, 4, 3) = 0 THEN 'C' ELSE 'W' END
    WHERE comp_cd = '0100' AND pur_no = head.pur_no;
    RETURN written;
END $$;

CREATE FUNCTION step_count(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    art art_master := any_article(r, 1);
    site char(4) := any_site(r, 2);
    delta integer := pick(r, 4, 9) - 4;
    written integer;
BEGIN
    UPDATE stk_lot_level SET cnt_dt = utc()::date, chg_ts = utc(), chg_usr = 'COUNT',
           qty_blkd = CASE WHEN pick(r, 5, 12) = 0 THEN 1 ELSE qty_blkd END
    WHERE comp_cd = '0100' AND site_no = site AND art_no = art.art_no;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written = 0 OR delta = 0 THEN RETURN written; END IF;
    RETURN written + book(site, art.art_no, 'ID', delta, 0, art.unit, 'CT', '', 0, 0, '', r);
END $$;

CREATE FUNCTION step_transfer(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    art art_master := any_article(r, 1);
    giver char(4) := lpad(pick(r, 2, 4)::text, 4, '0');
    taker char(4) := lpad((4 + pick(r, 3, 28))::text, 4, '0');
    grp bigint := nextval('post_seq');
    q integer := 1 + pick(r, 4, 12);
BEGIN
    RETURN book(giver, art.art_no, 'UA', -q, 0, art.unit, '', '', 0, grp, taker, r)
         + book(taker, art.art_no, 'UE', q, 0, art.unit, '', '', 0, grp, giver, r);
END $$;

-- Two lots of one article become one, or one becomes two: the sum stays, rows come and go.
CREATE FUNCTION step_lots(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    art varchar := art_no(20 * (1 + pick(r, 1, greatest((SELECT max("order") FROM art_master WHERE comp_cd = '0100') / 20, 1))));
    site char(4) := lpad(pick(r, 2, 4)::text, 4, '0');
    gone stk_lot_level;
BEGIN
    PERFORM FROM stk_lot_level WHERE comp_cd = '0100' AND site_no = site AND art_no = art ORDER BY lot_no FOR UPDATE;
    DELETE FROM stk_lot_level WHERE comp_cd = '0100' AND site_no = site AND art_no = art AND lot_no = 'L000000002' RETURNING * INTO gone;
    IF FOUND THEN
        INSERT INTO stk_lot_level AS s
        SELECT gone.comp_cd, site, art, 'L000000001', gone.qty_phys, gone.qty_resv, gone.qty_insp, gone.qty_blkd, gone.avg_cost,
               gone.bin_hint, gone.cnt_dt, utc(), utc(), 'STEP'
        ON CONFLICT (comp_cd, site_no, art_no, lot_no) DO UPDATE
        SET qty_phys = s.qty_phys + gone.qty_phys, qty_resv = s.qty_resv + gone.qty_resv, qty_insp = s.qty_insp + gone.qty_insp,
            qty_blkd = s.qty_blkd + gone.qty_blkd, chg_ts = utc(), chg_usr = 'STEP';
        RETURN 2;
    END IF;
    INSERT INTO stk_lot_level (comp_cd, site_no, art_no, lot_no, qty_phys, last_mv_ts, chg_ts, chg_usr)
    SELECT comp_cd, site_no, art_no, 'L000000002', floor(qty_phys / 2), utc(), utc(), 'STEP' FROM stk_lot_level
    WHERE comp_cd = '0100' AND site_no = site AND art_no = art AND lot_no = 'L000000001';
    UPDATE stk_lot_level SET qty_phys = qty_phys - floor(qty_phys / 2), chg_ts = utc(), chg_usr = 'STEP'
    WHERE comp_cd = '0100' AND site_no = site AND art_no = art AND lot_no = 'L000000001';
    RETURN 2;
END $$;

CREATE FUNCTION new_article(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    n integer := (SELECT max("order") + 1 FROM art_master WHERE comp_cd = '0100');
    old art_master := any_article(r, 1);
BEGIN
    INSERT INTO art_master (comp_cd, art_no, descr1, art_typ, stat, unit, unit_dec, std_cost, list_price, prod_grp, "order", crt_ts, chg_ts, chg_usr)
    VALUES ('0100', art_no(n), old.descr1 || ' new', 'S', 'N', old.unit, old.unit_dec, old.std_cost, old.list_price, old.prod_grp, n, utc(), utc(), 'STEP')
    ON CONFLICT DO NOTHING;
    INSERT INTO art_ean VALUES ('0100', ean13(434000000000 + nextval('post_seq')), art_no(n), old.unit, 'X', utc());
    INSERT INTO vnd_article (comp_cd, vnd_no, art_no, lead_days, unit, buy_price, curr, chg_ts)
    SELECT comp_cd, vnd_no, art_no(n), lead_days, unit, buy_price, curr, utc() FROM vnd_article
    WHERE comp_cd = '0100' AND art_no = old.art_no LIMIT 1
    ON CONFLICT DO NOTHING;
    UPDATE art_master SET repl_art_no = art_no(n), stat = 'X', chg_ts = utc(), chg_usr = 'STEP', chg_cnt = chg_cnt + 1
    WHERE comp_cd = '0100' AND art_no = old.art_no AND pick(r, 2, 3) = 0;
    RETURN 4;
END $$;

CREATE FUNCTION step_master(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    art art_master := any_article(r, 1);
    acct char(10) := any_account(r, 2);
    vnd char(8) := any_vendor(r, 3);
BEGIN
    CASE pick(r, 4, 12)
        WHEN 0 THEN RETURN new_article(r);
        WHEN 1 THEN UPDATE deb_account SET blk_cd = CASE blk_cd WHEN 'X' THEN ' ' ELSE 'X' END, chg_ts = utc() WHERE comp_cd = '0100' AND acct_no = acct;
        WHEN 2 THEN UPDATE deb_account SET credit_lim = credit_lim + 500, memo = repeat('called again; ', 300), chg_ts = utc() WHERE comp_cd = '0100' AND acct_no = acct;
        WHEN 3 THEN UPDATE vnd_article SET lead_days = 1 + pick(r, 5, 90), buy_price = round(buy_price * 1.01, 4), chg_ts = utc() WHERE comp_cd = '0100' AND art_no = art.art_no;
        WHEN 4 THEN UPDATE vnd_account SET min_ord_val = 50 * pick(r, 6, 30), chg_ts = utc() WHERE comp_cd = '0100' AND vnd_no = vnd;
        WHEN 5 THEN UPDATE art_master SET stat = (ARRAY['A', 'A', 'S', 'P'])[1 + pick(r, 7, 4)], chg_ts = utc(), chg_cnt = chg_cnt + 1 WHERE comp_cd = '0100' AND art_no = art.art_no;
        WHEN 6 THEN UPDATE art_master SET long_text = repeat(md5(r::text) || ' see data sheet; ', 200), chg_ts = utc() WHERE comp_cd = '0100' AND art_no = art.art_no;
        WHEN 7 THEN UPDATE art_ean SET ean_no = ean13(434000000000 + nextval('post_seq')), chg_ts = utc() WHERE comp_cd = '0100' AND art_no = art.art_no AND main_flg = 'X';
        WHEN 8 THEN DELETE FROM art_ean WHERE comp_cd = '0100' AND art_no = art.art_no AND main_flg = ' ';
        WHEN 9 THEN DELETE FROM vnd_article WHERE comp_cd = '0100' AND art_no = art.art_no AND "rank" > 1;
        WHEN 10 THEN UPDATE art_unit SET numer = numer + 1, chg_ts = utc() WHERE comp_cd = '0100' AND art_no = art.art_no AND alt_unit = 'PAL';
        ELSE UPDATE art_master SET list_price = round(list_price * 1.03, 4), attrs = attrs || '{"repriced": true}', chg_ts = utc() WHERE comp_cd = '0100' AND art_no = art.art_no;
    END CASE;
    RETURN 1;
END $$;

-- What an ERP writes all day without meaning anything: stamps, counters, its own queue.
CREATE FUNCTION step_noise(r bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    art art_master := any_article(r, 1);
    written integer;
BEGIN
    UPDATE art_master SET chg_ts = utc(), chg_cnt = chg_cnt + 1, chg_usr = 'MRPRUN' WHERE comp_cd = '0100' AND art_no = art.art_no;
    UPDATE stk_lot_level SET chg_ts = utc(), chg_usr = 'MRPRUN' WHERE comp_cd = '0100' AND site_no = lpad(pick(r, 2, 4)::text, 4, '0')::char(4) AND art_no = art.art_no;
    PERFORM job('MRP', art.art_no);
    DELETE FROM sys_queue WHERE job_id IN (SELECT job_id FROM sys_queue ORDER BY job_id LIMIT 8 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written + 3;
END $$;

-- The price list of the year over every article, and a cost run over the stock that changes nothing planning cares about.
CREATE FUNCTION mass_update(r bigint, wanted integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    prices integer;
    costs integer;
BEGIN
    UPDATE art_master SET list_price = round(list_price * (0.95 + pick(r, 1, 10) / 100.0), 4) + 0.01, chg_ts = utc(), chg_usr = 'PRICERUN', chg_cnt = chg_cnt + 1
    WHERE comp_cd = '0100' AND "order" <= wanted * 2 / 5;
    GET DIAGNOSTICS prices = ROW_COUNT;
    UPDATE stk_lot_level SET avg_cost = avg_cost + 0.001, chg_ts = utc(), chg_usr = 'COSTRUN'
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM stk_lot_level ORDER BY comp_cd, site_no, art_no, lot_no LIMIT wanted - prices FOR UPDATE));
    GET DIAGNOSTICS costs = ROW_COUNT;
    RETURN prices + costs;
END $$;
