//! A slot that nobody confirms makes the server keep its log until its disk is full.

use std::sync::Arc;

use syncline_capture::{Progress, StopSignal, postgres};

use crate::log::{MemoryLog, Reader};
use crate::server::{Server, eventually};

#[test]
fn a_slot_is_dropped_before_the_log_that_is_kept_for_it_fills_the_disk() {
    let mut database = Server::shared()
        .database("CREATE TABLE t (id int PRIMARY KEY, fill text); ALTER TABLE t ALTER fill SET STORAGE EXTERNAL");
    database.config.slot_max = Some(4 << 20);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    // As when our own disk is full: nothing becomes durable, so nothing is confirmed.
    log.hold(true);
    database.sql("INSERT INTO t SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 3000) i");
    // The tables are looked at again soon after one of them was described again.
    let mut id = 0;
    eventually("the source to end", || {
        id += 1;
        database
            .sql(&format!("ALTER TABLE t ALTER COLUMN fill SET STATISTICS {}; INSERT INTO t VALUES (-{id})", id % 100));
        reader.has_ended()
    });
    let error = reader.end().unwrap_err().to_string();
    assert!(error.contains("MiB of log, more than slot_max") && error.contains("restart"), "{error}");

    let (progress, stop) = (Progress::default(), StopSignal::default());
    let held = log.resume().unwrap().position;
    assert!(postgres::reads_slot(&database.config, &held));
    postgres::guard(&database.config, &progress, &stop, None);
    let slots = || {
        database.sql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", database.config.slot))
    };
    eventually("the slot to be gone", || slots() == "0");
}
