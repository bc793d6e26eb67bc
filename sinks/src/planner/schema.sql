-- The receiver's file. `records` is clustered by key: a page of an entity is one run of the tree, and an update one descent.
CREATE TABLE IF NOT EXISTS flows (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    live       INTEGER NOT NULL DEFAULT 0,
    tombstones INTEGER NOT NULL DEFAULT 0,
    version    BLOB
);
CREATE TABLE IF NOT EXISTS records (
    flow    INTEGER NOT NULL,
    key     TEXT NOT NULL,
    version BLOB NOT NULL,
    data    TEXT,
    PRIMARY KEY (flow, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    flow       INTEGER NOT NULL,
    partition  INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    batch      INTEGER NOT NULL,
    source     TEXT,
    partitions INTEGER,
    version    BLOB,
    PRIMARY KEY (flow, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    idempotency_key TEXT PRIMARY KEY,
    flow            INTEGER NOT NULL,
    partition       INTEGER NOT NULL,
    batch           INTEGER NOT NULL,
    digest          BLOB NOT NULL,
    receipt         TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (flow, partition, batch);
CREATE TABLE IF NOT EXISTS loads (
    id              TEXT PRIMARY KEY,
    flow            INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    source          TEXT NOT NULL,
    cut             BLOB NOT NULL,
    sweep           INTEGER NOT NULL,
    scope           TEXT NOT NULL,
    receipt         TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS load_parts (
    load    TEXT NOT NULL,
    number  INTEGER NOT NULL,
    sha256  BLOB NOT NULL,
    records INTEGER NOT NULL,
    digest  BLOB NOT NULL,
    receipt TEXT NOT NULL,
    PRIMARY KEY (load, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS load_keys (
    load TEXT NOT NULL,
    key  TEXT NOT NULL,
    PRIMARY KEY (load, key)
) WITHOUT ROWID;
