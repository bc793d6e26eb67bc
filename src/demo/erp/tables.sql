-- The books of Meridian, a wholesaler of technical supplies: tables, columns and habits as an ERP of twenty years has them.
-- Company 0100 is the business, 0900 is for training and never leaves the building. Codes are padded, dates have
-- sentinels (1900-01-01 never, 9999-12-31 open), times are naive UTC, every row is stamped whether it changed or not.

CREATE SCHEMA meridian;

CREATE TYPE meridian.ord_origin AS ENUM ('EDI', 'WEB', 'TEL', 'SHOP');

CREATE TABLE meridian.art_master (
    comp_cd      char(4)       NOT NULL,
    art_no       varchar(18)   NOT NULL,             -- numeric ones zero-padded to 18, others as the maker writes them
    descr1       varchar(60)   NOT NULL,
    descr2       varchar(60),
    long_text    text,
    art_typ      char(1)       NOT NULL,             -- S stock, D service, K kit
    stat         char(1)       NOT NULL DEFAULT 'A', -- A active, S no sales, P no purchase, N new, X phased out
    del_flg      char(1)       NOT NULL DEFAULT ' ', -- X deleted
    unit         char(3)       NOT NULL,             -- ST, KG, L, M
    unit_dec     smallint      NOT NULL DEFAULT 0,
    gross_wt     numeric(12,3),
    vol_dm3      numeric(12,3),
    std_cost     numeric       NOT NULL,
    list_price   numeric(13,4) NOT NULL,
    curr         char(3)       NOT NULL DEFAULT 'EUR',
    lot_flg      boolean       NOT NULL DEFAULT false,
    ser_flg      boolean       NOT NULL DEFAULT false,
    shelf_days   integer       NOT NULL DEFAULT 0,   -- 0 does not expire
    "class"      char(1),
    valid_fr     date          NOT NULL DEFAULT '1900-01-01',
    valid_to     date          NOT NULL DEFAULT '9999-12-31',
    repl_art_no  varchar(18)   NOT NULL DEFAULT '',
    prod_grp     char(6)       NOT NULL,
    "order"      integer       NOT NULL,             -- running number in the catalogue
    attrs        jsonb         NOT NULL DEFAULT '{}',
    crt_ts       timestamp     NOT NULL,
    chg_ts       timestamp     NOT NULL,
    chg_usr      varchar(12)   NOT NULL,
    chg_cnt      integer       NOT NULL DEFAULT 0,
    PRIMARY KEY (comp_cd, art_no)
);
CREATE UNIQUE INDEX art_master_order ON meridian.art_master (comp_cd, "order");

CREATE TABLE meridian.art_ean (
    comp_cd      char(4)       NOT NULL,
    ean_no       varchar(14)   NOT NULL,             -- 13 digits as printed
    art_no       varchar(18)   NOT NULL,
    unit         char(3)       NOT NULL,
    main_flg     char(1)       NOT NULL DEFAULT ' ',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, ean_no)
);
CREATE INDEX art_ean_art ON meridian.art_ean (comp_cd, art_no);

CREATE TABLE meridian.art_unit (
    comp_cd      char(4)       NOT NULL,
    art_no       varchar(18)   NOT NULL,
    alt_unit     char(3)       NOT NULL,             -- KAR carton, PAL pallet
    base_unit    char(3)       NOT NULL,
    numer        integer       NOT NULL,             -- 1 alt_unit = numer / denom base_unit
    denom        integer       NOT NULL DEFAULT 1,
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, art_no, alt_unit)
);

CREATE TABLE meridian.wh_site (
    comp_cd      char(4)       NOT NULL,
    site_no      char(4)       NOT NULL,
    site_name    varchar(40)   NOT NULL,
    site_typ     char(2)       NOT NULL,             -- ZL distribution centre, FI branch, TR transit, SP quarantine
    region_cd    char(2)       NOT NULL,
    cntry        char(2)       NOT NULL,
    tz_name      varchar(40)   NOT NULL,
    gln          varchar(13)   NOT NULL DEFAULT '',
    supply_site  char(4)       NOT NULL DEFAULT '',
    mrp_flg      smallint      NOT NULL,             -- 1 its stock counts as supply
    open_dt      date          NOT NULL,
    close_dt     date          NOT NULL DEFAULT '1900-01-01',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, site_no)
);

CREATE TABLE meridian.deb_account (
    comp_cd      char(4)       NOT NULL,
    acct_no      char(10)      NOT NULL,
    nm1          varchar(50)   NOT NULL,
    nm2          varchar(50),
    cust_grp     char(2)       NOT NULL,
    sales_ch     char(2)       NOT NULL,             -- 10 wholesale, 20 web shop, 30 branch counter
    region_cd    char(2)       NOT NULL,
    head_acct    char(10)      NOT NULL DEFAULT '',
    prio         smallint      NOT NULL DEFAULT 5,
    credit_lim   numeric       NOT NULL,
    blk_cd       char(1)       NOT NULL DEFAULT ' ', -- X blocked
    del_flg      char(1)       NOT NULL DEFAULT ' ',
    memo         text,
    chg_ts       timestamp     NOT NULL,
    chg_usr      varchar(12)   NOT NULL,
    PRIMARY KEY (comp_cd, acct_no)
);

CREATE TABLE meridian.vnd_account (
    comp_cd      char(4)       NOT NULL,
    vnd_no       char(8)       NOT NULL,
    nm1          varchar(50)   NOT NULL,
    cntry        char(2)       NOT NULL,
    curr         char(3)       NOT NULL,
    pay_terms    char(4)       NOT NULL,
    min_ord_val  numeric(13,2) NOT NULL DEFAULT 0,
    gln          varchar(13)   NOT NULL DEFAULT '',
    blk_cd       char(1)       NOT NULL DEFAULT ' ',
    del_flg      char(1)       NOT NULL DEFAULT ' ',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, vnd_no)
);

CREATE TABLE meridian.vnd_article (
    comp_cd      char(4)       NOT NULL,
    vnd_no       char(8)       NOT NULL,
    art_no       varchar(18)   NOT NULL,
    site_no      char(4)       NOT NULL DEFAULT '',  -- blank for all sites
    from_dt      date          NOT NULL DEFAULT '1900-01-01',
    to_dt        date          NOT NULL DEFAULT '9999-12-31',
    lead_days    numeric       NOT NULL,
    min_qty      numeric(15,3) NOT NULL DEFAULT 0,
    lot_qty      numeric(15,3) NOT NULL DEFAULT 0,   -- 0 any quantity
    unit         char(3)       NOT NULL,
    buy_price    numeric(13,4) NOT NULL,
    curr         char(3)       NOT NULL,
    "rank"       smallint      NOT NULL DEFAULT 1,
    vnd_art_no   varchar(25)   NOT NULL DEFAULT '',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, vnd_no, art_no, site_no, from_dt)
);
CREATE INDEX vnd_article_art ON meridian.vnd_article (comp_cd, art_no);

CREATE TABLE meridian.stk_lot_level (
    comp_cd      char(4)       NOT NULL,
    site_no      char(4)       NOT NULL,
    art_no       varchar(18)   NOT NULL,
    lot_no       varchar(10)   NOT NULL DEFAULT '',
    qty_phys     numeric(15,3) NOT NULL DEFAULT 0,
    qty_resv     numeric(15,3) NOT NULL DEFAULT 0,
    qty_insp     numeric       NOT NULL DEFAULT 0,
    qty_blkd     numeric       NOT NULL DEFAULT 0,
    avg_cost     numeric       NOT NULL DEFAULT 0,
    bin_hint     varchar(12)   NOT NULL DEFAULT '',
    cnt_dt       date          NOT NULL DEFAULT '1900-01-01',
    last_mv_ts   timestamp     NOT NULL,
    chg_ts       timestamp     NOT NULL,
    chg_usr      varchar(12)   NOT NULL,
    PRIMARY KEY (comp_cd, site_no, art_no, lot_no)
);

CREATE SEQUENCE meridian.post_seq START 5000000;
CREATE TABLE meridian.stk_posting (
    comp_cd      char(4)       NOT NULL,
    post_no      bigint        NOT NULL,
    post_pos     smallint      NOT NULL DEFAULT 1,
    mv_code      char(2)       NOT NULL,             -- WE receipt, WA sale, UA out, UE in, ID count, VS scrap
    art_no       varchar(18)   NOT NULL,
    site_no      char(4)       NOT NULL,
    from_to_site char(4)       NOT NULL DEFAULT '',
    lot_no       varchar(10)   NOT NULL DEFAULT '',
    qty          numeric(15,3) NOT NULL,             -- always positive, dr_cr has the sign
    dr_cr        char(1)       NOT NULL,             -- S in, H out
    unit         char(3)       NOT NULL,
    ref_typ      char(2)       NOT NULL DEFAULT '',  -- SO, PO, CT
    ref_no       varchar(10)   NOT NULL DEFAULT '',
    ref_pos      smallint      NOT NULL DEFAULT 0,
    grp_no       bigint        NOT NULL DEFAULT 0,
    post_dt      date          NOT NULL,
    post_ts      timestamp     NOT NULL,
    "user"       varchar(12)   NOT NULL,
    PRIMARY KEY (comp_cd, post_no, post_pos)
);

CREATE SEQUENCE meridian.ord_seq START 1000000;
CREATE TABLE meridian.ord_head (
    comp_cd      char(4)             NOT NULL,
    ord_no       char(10)            NOT NULL,
    acct_no      char(10)            NOT NULL,
    origin       meridian.ord_origin NOT NULL,
    cust_ref     varchar(35)         NOT NULL DEFAULT '',
    ord_dt       date                NOT NULL,
    stat         char(1)             NOT NULL,       -- E entered, O open, P part delivered, D delivered, C closed, X cancelled, H credit hold
    curr         char(3)             NOT NULL DEFAULT 'EUR',
    site_no      char(4)             NOT NULL,
    prio         smallint            NOT NULL DEFAULT 5,
    net_sum      numeric(15,2)       NOT NULL DEFAULT 0,
    head_text    text,
    crt_ts       timestamp           NOT NULL,
    chg_ts       timestamp           NOT NULL,
    chg_usr      varchar(12)         NOT NULL,
    PRIMARY KEY (comp_cd, ord_no)
);
CREATE INDEX ord_head_open ON meridian.ord_head (ord_no) WHERE comp_cd = '0100' AND stat IN ('O', 'P');

CREATE TABLE meridian.ord_pos (
    comp_cd      char(4)       NOT NULL,
    ord_no       char(10)      NOT NULL,
    pos_no       smallint      NOT NULL,
    pos_typ      char(1)       NOT NULL DEFAULT 'N', -- N normal, R return
    art_no       varchar(18)   NOT NULL,
    site_no      char(4)       NOT NULL,
    qty_ord      numeric(15,3) NOT NULL,
    qty_dlv      numeric(15,3) NOT NULL DEFAULT 0,
    qty_cxl      numeric(15,3) NOT NULL DEFAULT 0,
    qty_rsv      numeric(15,3) NOT NULL DEFAULT 0,
    unit         char(3)       NOT NULL,
    wish_dt      date          NOT NULL,
    conf_dt      date          NOT NULL DEFAULT '1900-01-01',
    stat         char(1)       NOT NULL,
    net_price    numeric       NOT NULL,
    net_amt      numeric(15,2) NOT NULL,
    curr         char(3)       NOT NULL DEFAULT 'EUR',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, ord_no, pos_no)
);

CREATE SEQUENCE meridian.pur_seq START 400000;
CREATE TABLE meridian.pur_head (
    comp_cd      char(4)       NOT NULL,
    pur_no       char(10)      NOT NULL,
    vnd_no       char(8)       NOT NULL,
    site_no      char(4)       NOT NULL,
    ord_dt       date          NOT NULL,
    stat         char(1)       NOT NULL,             -- E entered, F released, S sent, B confirmed, T part received, W received, C closed, X cancelled
    curr         char(3)       NOT NULL,
    prop_no      varchar(20)   NOT NULL DEFAULT '',
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, pur_no)
);
CREATE INDEX pur_head_open ON meridian.pur_head (pur_no) WHERE comp_cd = '0100' AND stat IN ('S', 'B', 'T');

CREATE TABLE meridian.pur_pos (
    comp_cd      char(4)       NOT NULL,
    pur_no       char(10)      NOT NULL,
    pos_no       smallint      NOT NULL,
    vnd_no       char(8)       NOT NULL,
    art_no       varchar(18)   NOT NULL,
    site_no      char(4)       NOT NULL,
    qty_ord      numeric(15,3) NOT NULL,
    qty_conf     numeric(15,3),                      -- null until the vendor answers
    qty_rcv      numeric(15,3) NOT NULL DEFAULT 0,
    qty_cxl      numeric(15,3) NOT NULL DEFAULT 0,
    unit         char(3)       NOT NULL,
    need_dt      date          NOT NULL,
    conf_dt      date          NOT NULL DEFAULT '1900-01-01',
    stat         char(1)       NOT NULL,
    buy_price    numeric(13,4) NOT NULL,
    curr         char(3)       NOT NULL,
    chg_ts       timestamp     NOT NULL,
    PRIMARY KEY (comp_cd, pur_no, pos_no)
);

-- What the ERP tells its own batch jobs; nobody else cares.
CREATE TABLE meridian.sys_queue (
    job_id       bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_typ      varchar(20)   NOT NULL,
    payload      jsonb         NOT NULL,
    state        char(1)       NOT NULL DEFAULT 'N',
    crt_ts       timestamp     NOT NULL
);
