-- The warehouse system of the West: what lies where, by article, site, lot and status, and every movement of it.
-- It counts an article in the packs that it comes in, writes article numbers without the ERP's padding and in small letters,
-- and has codes of its own for sites. A stock row that is used up goes.

CREATE TABLE site (
    site_cd   char(4)           NOT NULL PRIMARY KEY,  -- WE03
    erp_site  char(4)           NOT NULL UNIQUE,       -- 0003
    upd_ts    timestamp(6)      NOT NULL
);

CREATE TABLE sku (
    sku       varchar(18)       NOT NULL PRIMARY KEY,
    seq_no    int unsigned      NOT NULL UNIQUE,
    pieces    smallint unsigned NOT NULL,              -- base units in a pack
    upd_ts    timestamp(6)      NOT NULL
);

CREATE TABLE stock (
    site_cd   char(4)           NOT NULL,
    sku       varchar(18)       NOT NULL,
    lot       varchar(12)       NOT NULL DEFAULT '',
    status    enum('OK', 'QC', 'BL') NOT NULL,         -- free, in inspection, blocked
    packs     decimal(12,3)     NOT NULL,
    upd_ts    timestamp(6)      NOT NULL,
    PRIMARY KEY (site_cd, sku, lot, status)
);

CREATE TABLE movement (
    mv_no     bigint unsigned   NOT NULL AUTO_INCREMENT PRIMARY KEY,
    kind      enum('OPENING', 'RECEIPT', 'PICK', 'CORRECTION', 'TRANSFER', 'RELEASE') NOT NULL,
    grp       bigint unsigned   NOT NULL,              -- what was booked together
    site_cd   char(4)           NOT NULL,
    sku       varchar(18)       NOT NULL,
    lot       varchar(12)       NOT NULL,
    status    enum('OK', 'QC', 'BL') NOT NULL,
    packs     decimal(12,3)     NOT NULL,              -- what came, or negative, what went
    mv_ts     timestamp(6)      NOT NULL
);
