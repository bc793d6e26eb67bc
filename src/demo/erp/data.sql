-- Opening books, generated on the server from the settings meridian.{items,customers,suppliers,orders,purchases,postings}.
-- Nothing is random: `pick` is a hash of the row's number, so that two loads are alike.

CREATE FUNCTION meridian.pick(n bigint, salt integer, choices integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (hashint8(n * 1000003 + salt) & 2147483647) % choices;

-- Codes with a GS1 check digit: 12 digits become 13.
CREATE FUNCTION meridian.ean13(n bigint) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN lpad(n::text, 12, '0') || ((10 - (
        SELECT sum((CASE WHEN i % 2 = 0 THEN 3 ELSE 1 END) * substr(lpad(n::text, 12, '0'), i, 1)::integer)
        FROM generate_series(1, 12) AS i) % 10) % 10)::text;

-- Six in seven articles are numbered by the house, the rest keep the maker's own mark.
CREATE FUNCTION meridian.art_no(n bigint) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN n % 7 = 0 THEN 'MX-' || lpad(n::text, 6, '0') || chr(65 + (n % 26)::integer)
                ELSE lpad((100000 + n)::text, 18, '0') END;

CREATE FUNCTION meridian.unit_of(n bigint) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (ARRAY['ST', 'ST', 'ST', 'ST', 'ST', 'ST', 'KG', 'L', 'M', 'ST'])[1 + meridian.pick(n, 1, 10)];

INSERT INTO meridian.wh_site
SELECT '0100', lpad(s::text, 4, '0'),
       (ARRAY['Nord', 'Ost', 'Sued', 'West'])[1 + s % 4] || CASE
           WHEN s < 4 THEN ' Distribution Centre' WHEN s < 32 THEN ' Branch ' || s
           WHEN s < 36 THEN ' In Transit' ELSE ' Quarantine' END,
       CASE WHEN s < 4 THEN 'ZL' WHEN s < 32 THEN 'FI' WHEN s < 36 THEN 'TR' ELSE 'SP' END,
       (ARRAY['NO', 'OS', 'SU', 'WE'])[1 + s % 4],
       (ARRAY['DE', 'PL', 'AT', 'NL'])[1 + s % 4],
       (ARRAY['Europe/Berlin', 'Europe/Warsaw', 'Europe/Vienna', 'Europe/Amsterdam'])[1 + s % 4],
       meridian.ean13(430000000000 + s),
       CASE WHEN s < 4 THEN '' ELSE lpad((s % 4)::text, 4, '0') END,
       CASE WHEN s < 32 THEN 1 ELSE 0 END, date '2004-03-01' + s * 90, '1900-01-01', timestamp '2026-01-01'
FROM generate_series(0, 39) AS s;

INSERT INTO meridian.art_master
SELECT c.comp_cd, meridian.art_no(n),
       (ARRAY['Ball Valve', 'Hex Bolt', 'Cable Tie', 'Seal Ring', 'Work Glove', 'LED Panel', 'Hose', 'Bearing', 'Lubricant', 'Relay'])
           [1 + meridian.pick(n, 2, 10)] || ' ' || (4 + meridian.pick(n, 3, 96)) || ' mm',
       (ARRAY['zinc plated', 'stainless', NULL, 'heavy duty', NULL])[1 + meridian.pick(n, 4, 5)],
       CASE WHEN n % 50 = 0 THEN repeat('Application notes of article ' || n || ': see data sheet. ', 120) END,
       CASE WHEN n % 97 = 0 THEN 'D' WHEN n % 53 = 0 THEN 'K' ELSE 'S' END,
       CASE meridian.pick(n, 5, 40) WHEN 0 THEN 'S' WHEN 1 THEN 'P' WHEN 2 THEN 'N' WHEN 3 THEN 'X' ELSE 'A' END,
       CASE WHEN n % 211 = 0 THEN 'X' ELSE ' ' END,
       meridian.unit_of(n), CASE meridian.unit_of(n) WHEN 'ST' THEN 0 ELSE 3 END,
       (1 + meridian.pick(n, 6, 40000)) / 1000.0, (1 + meridian.pick(n, 7, 90000)) / 1000.0,
       (50 + meridian.pick(n, 8, 90000)) / 1000.0, (100 + meridian.pick(n, 9, 250000)) / 1000.0, 'EUR',
       n % 20 = 0, n % 400 = 0, CASE WHEN n % 20 = 0 THEN 365 ELSE 0 END,
       (ARRAY['A', 'B', 'C', 'C', NULL])[1 + meridian.pick(n, 10, 5)],
       date '1900-01-01', date '9999-12-31', '', 'G' || lpad(meridian.pick(n, 11, 120)::text, 5, '0'), n,
       jsonb_build_object('color', (ARRAY['grey', 'black', 'blue'])[1 + meridian.pick(n, 12, 3)], 'reach', n % 9 = 0),
       timestamp '2019-01-01' + n * interval '7 minutes', timestamp '2026-01-01', 'LOAD', 0
FROM (VALUES ('0100', current_setting('meridian.items')::integer), ('0900', 50)) AS c (comp_cd, items),
     generate_series(1, c.items) AS n;

INSERT INTO meridian.art_ean
SELECT '0100', meridian.ean13(431000000000 + n), meridian.art_no(n), meridian.unit_of(n), 'X', timestamp '2026-01-01'
FROM generate_series(1, current_setting('meridian.items')::integer) AS n
UNION ALL
SELECT '0100', meridian.ean13(432000000000 + n), meridian.art_no(n), 'KAR', ' ', timestamp '2026-01-01'
FROM generate_series(3, current_setting('meridian.items')::integer, 3) AS n;

INSERT INTO meridian.art_unit
SELECT '0100', meridian.art_no(n), u.unit, meridian.unit_of(n), (ARRAY[6, 10, 12, 24, 50])[1 + meridian.pick(n, 13, 5)] * u.factor, 1,
       timestamp '2026-01-01'
FROM generate_series(1, current_setting('meridian.items')::integer) AS n, (VALUES ('KAR', 1), ('PAL', 40)) AS u (unit, factor)
WHERE n % 2 = 0;

INSERT INTO meridian.deb_account
SELECT '0100', lpad((20000 + n)::text, 10, '0'),
       (ARRAY['Hansen', 'Kowalski', 'Gruber', 'de Vries', 'Bauer', 'Novak', 'Lindt', 'Meyer'])[1 + meridian.pick(n, 14, 8)]
           || ' ' || (ARRAY['Installations', 'Metalworks', 'Facility Service', 'Trading', 'Plant Engineering'])[1 + meridian.pick(n, 15, 5)],
       'No. ' || n, lpad(meridian.pick(n, 16, 12)::text, 2, '0'), (ARRAY['10', '10', '20', '30'])[1 + meridian.pick(n, 17, 4)],
       (ARRAY['NO', 'OS', 'SU', 'WE'])[1 + n % 4], CASE WHEN n % 15 = 0 THEN lpad((20000 + n - 1)::text, 10, '0') ELSE '' END,
       1 + meridian.pick(n, 18, 9), 1000 * meridian.pick(n, 19, 200), CASE WHEN n % 83 = 0 THEN 'X' ELSE ' ' END,
       CASE WHEN n % 149 = 0 THEN 'X' ELSE ' ' END, NULL, timestamp '2026-01-01', 'LOAD'
FROM generate_series(1, current_setting('meridian.customers')::integer) AS n;

INSERT INTO meridian.vnd_account
SELECT '0100', lpad((7000 + n)::text, 8, '0'),
       (ARRAY['Norddraht', 'Alpine Fluid', 'Tekton', 'Polmet', 'Zuidlicht', 'Brandt & Sohn'])[1 + meridian.pick(n, 20, 6)] || ' ' || n,
       (ARRAY['DE', 'PL', 'AT', 'NL', 'CN', 'IT'])[1 + meridian.pick(n, 21, 6)],
       (ARRAY['EUR', 'EUR', 'EUR', 'PLN', 'USD'])[1 + meridian.pick(n, 22, 5)], (ARRAY['N030', 'N014', 'N060'])[1 + meridian.pick(n, 23, 3)],
       50 * meridian.pick(n, 24, 20), meridian.ean13(433000000000 + n), CASE WHEN n % 61 = 0 THEN 'X' ELSE ' ' END, ' ', timestamp '2026-01-01'
FROM generate_series(1, current_setting('meridian.suppliers')::integer) AS n;

INSERT INTO meridian.vnd_article
SELECT '0100', lpad((7001 + meridian.pick(n, 25 + r, current_setting('meridian.suppliers')::integer / 2)
                     + (r - 1) * (current_setting('meridian.suppliers')::integer / 2))::text, 8, '0'),
       meridian.art_no(n), '', date '1900-01-01', date '9999-12-31', 2 + meridian.pick(n, 27 + r, 60), meridian.pick(n, 30, 5) * 10,
       (ARRAY[0, 1, 6, 12])[1 + meridian.pick(n, 31, 4)], meridian.unit_of(n), (40 + meridian.pick(n, 32, 80000)) / 1000.0, 'EUR', r,
       'V' || r || '-' || n, timestamp '2026-01-01'
FROM generate_series(1, current_setting('meridian.items')::integer) AS n, (VALUES (1), (2)) AS ranks (r)
WHERE r = 1 OR n % 4 = 0;

-- Every article lies in the four centres, every eighth also in each branch; articles with lots lie there twice.
INSERT INTO meridian.stk_lot_level
SELECT '0100', lpad(s::text, 4, '0'), meridian.art_no(n), l.lot, q.phys, least(q.phys, meridian.pick(n * 64 + s, 33, 12)),
       CASE WHEN (n + s) % 31 = 0 THEN 2 ELSE 0 END, CASE WHEN (n + s) % 47 = 0 THEN 1.5 ELSE 0 END,
       (50 + meridian.pick(n, 8, 90000)) / 1000.0, 'A' || meridian.pick(n, 34, 80), date '1900-01-01',
       timestamp '2026-01-01', timestamp '2026-01-01', 'LOAD'
FROM generate_series(1, current_setting('meridian.items')::integer) AS n
CROSS JOIN generate_series(0, 31) AS s
CROSS JOIN LATERAL (VALUES (CASE WHEN n % 20 = 0 THEN 'L000000001' ELSE '' END), ('L000000002')) AS l (lot)
CROSS JOIN LATERAL (SELECT meridian.pick(n * 64 + s, 35, 400)::numeric AS phys) AS q
WHERE n % 97 <> 0 AND (s < 4 OR (n + s) % 8 = 0) AND (l.lot <> 'L000000002' OR (n % 20 = 0 AND s < 4));

INSERT INTO meridian.ord_head
SELECT '0100', lpad(nextval('meridian.ord_seq')::text, 10, '0'),
       lpad((20001 + meridian.pick(n, 36, current_setting('meridian.customers')::integer))::text, 10, '0'),
       (ARRAY['EDI', 'WEB', 'TEL', 'SHOP'])[1 + meridian.pick(n, 37, 4)]::meridian.ord_origin,
       CASE WHEN n % 3 = 0 THEN 'REF' || n ELSE '' END, date '2026-01-02' + meridian.pick(n, 38, 300),
       CASE WHEN n % 40 = 0 THEN 'H' WHEN n % 37 = 0 THEN 'E' ELSE 'O' END, 'EUR', lpad(meridian.pick(n, 39, 32)::text, 4, '0'),
       1 + meridian.pick(n, 40, 9), 0, NULL, timestamp '2026-01-02', timestamp '2026-01-02', 'LOAD'
FROM generate_series(1, current_setting('meridian.orders')::integer) AS n;

INSERT INTO meridian.ord_pos
SELECT h.comp_cd, h.ord_no, p * 10, CASE WHEN h.n % 101 = 0 THEN 'R' ELSE 'N' END, meridian.art_no(a.item), h.site_no, a.qty, 0, 0, 0,
       meridian.unit_of(a.item), h.ord_dt + 3 + meridian.pick(h.n, 41, 20), CASE WHEN h.n % 4 = 0 THEN h.ord_dt + 9 ELSE date '1900-01-01' END,
       h.stat, a.price, round(a.qty * a.price, 2), 'EUR', timestamp '2026-01-02'
FROM (SELECT *, ord_no::bigint AS n FROM meridian.ord_head) AS h
CROSS JOIN LATERAL generate_series(1, 1 + meridian.pick(h.n, 42, 5)) AS p
CROSS JOIN LATERAL (SELECT 1 + meridian.pick(h.n * 8 + p, 43, current_setting('meridian.items')::integer) AS item,
                           (1 + meridian.pick(h.n * 8 + p, 44, 24))::numeric AS qty,
                           (100 + meridian.pick(h.n * 8 + p, 45, 200000)) / 1000.0 AS price) AS a;

INSERT INTO meridian.pur_head
SELECT '0100', lpad(nextval('meridian.pur_seq')::text, 10, '0'),
       lpad((7001 + meridian.pick(n, 46, current_setting('meridian.suppliers')::integer))::text, 8, '0'),
       lpad(meridian.pick(n, 47, 4)::text, 4, '0'), date '2026-01-02' + meridian.pick(n, 48, 300),
       (ARRAY['E', 'F', 'S', 'B', 'B', 'B', 'B', 'B'])[1 + meridian.pick(n, 49, 8)], 'EUR', CASE WHEN n % 5 = 0 THEN 'PROP' || n ELSE '' END,
       timestamp '2026-01-02'
FROM generate_series(1, current_setting('meridian.purchases')::integer) AS n;

INSERT INTO meridian.pur_pos
SELECT h.comp_cd, h.pur_no, p * 10, h.vnd_no, meridian.art_no(a.item), h.site_no, a.qty, CASE WHEN h.stat = 'B' THEN a.qty END, 0, 0,
       meridian.unit_of(a.item), h.ord_dt + 14, CASE WHEN h.stat = 'B' THEN h.ord_dt + 16 ELSE date '1900-01-01' END, h.stat,
       (40 + meridian.pick(h.n * 8 + p, 50, 80000)) / 1000.0, 'EUR', timestamp '2026-01-02'
FROM (SELECT *, pur_no::bigint AS n FROM meridian.pur_head) AS h
CROSS JOIN LATERAL generate_series(1, 1 + meridian.pick(h.n, 51, 5)) AS p
CROSS JOIN LATERAL (SELECT 1 + meridian.pick(h.n * 8 + p, 52, current_setting('meridian.items')::integer) AS item,
                           (12 * (1 + meridian.pick(h.n * 8 + p, 53, 20)))::numeric AS qty) AS a;

INSERT INTO meridian.stk_posting
SELECT '0100', nextval('meridian.post_seq'), 1, m.code, meridian.art_no(1 + meridian.pick(n, 54, current_setting('meridian.items')::integer)),
       lpad(meridian.pick(n, 55, 32)::text, 4, '0'), '', '', 1 + meridian.pick(n, 56, 60), m.dr_cr, 'ST', '', '', 0, 0,
       date '2026-01-02' + meridian.pick(n, 57, 300), timestamp '2026-01-02' + n * interval '10 minutes', 'LOAD'
FROM generate_series(1, current_setting('meridian.postings')::integer) AS n
CROSS JOIN LATERAL (SELECT (ARRAY['WE', 'WA', 'WA', 'WA', 'ID', 'VS'])[1 + meridian.pick(n, 58, 6)] AS code,
                           (ARRAY['S', 'H', 'H', 'H', 'S', 'H'])[1 + meridian.pick(n, 58, 6)] AS dr_cr) AS m;

ANALYZE;
