//! Values that the stream brings in binary form.

use syncline_schemas::frame::Op;

use crate::log::following;
use crate::server::{Database, eventually};

impl Database {
    /// What the server was asked to stream.
    fn asked(&self) -> String {
        let slot = &self.config.slot;
        self.sql(&format!(
            "SELECT coalesce(min(query), '') FROM pg_stat_activity JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = '{slot}'"
        ))
    }

    /// Waits until values come in binary form.
    pub(crate) fn wait_for_binary(&self) {
        eventually("values come in binary form", || self.asked().contains("binary 'true'"));
    }
}

#[test]
fn keys_that_change_and_values_that_are_left_out_are_told_in_binary_form_as_in_text() {
    let (database, log, reader) = following(
        "CREATE TABLE t (id int, day date, big text, PRIMARY KEY (id, day)); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE full_t (id bigint PRIMARY KEY, amount numeric(9,2), big text);
         ALTER TABLE full_t REPLICA IDENTITY FULL; ALTER TABLE full_t ALTER big SET STORAGE EXTERNAL",
    );
    database.wait_for_binary();
    let before = log.row_count();
    database.sql("INSERT INTO t VALUES (1, '2024-02-29', repeat('x', 9000)); UPDATE t SET id = 1; UPDATE t SET id = 2");
    database.sql("INSERT INTO full_t VALUES (1, -5.25, repeat('y', 9000)); UPDATE full_t SET id = 2; UPDATE full_t SET amount = 7; DELETE FROM full_t");
    log.wait_for_rows(before + 9);
    reader.stop();
    let rows = log.rows().split_off(before);
    let ops: Vec<Op> = rows.iter().map(|row| row.op).collect();
    let wanted = [Op::Insert, Op::Update, Op::MoveOut, Op::MoveIn];
    assert_eq!(ops, [&wanted[..], &[Op::Insert, Op::MoveOut, Op::MoveIn, Op::Update, Op::Delete]].concat());
    assert_eq!(rows[3].key, [Some("2".to_owned()), Some("2024-02-29".to_owned())]);
    assert_eq!(
        (rows[1].absent.as_slice(), rows[3].absent.as_slice()),
        (&["big".to_owned()][..], &["big".to_owned()][..])
    );
    assert_eq!(rows[6].value("amount"), Some("-5.25"));
    assert_eq!((rows[6].value("big").map(str::len), rows[7].value("big").map(str::len)), (Some(9000), Some(9000)));
    assert_eq!(log.state().len(), 1);
}

#[test]
fn a_column_without_a_binary_form_has_everything_received_as_text_and_nothing_is_lost() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2))");
    database.wait_for_binary();
    database.sql("INSERT INTO t VALUES (1, 1.5)");
    database.sql("BEGIN; INSERT INTO t VALUES (2, 2.5); ALTER TABLE t ADD span interval; INSERT INTO t VALUES (3, 3.5, '1 day'); COMMIT");
    log.wait_for_rows(3);
    assert!(!database.asked().contains("binary"), "{}", database.asked());
    database.sql("INSERT INTO t VALUES (4, 4.5, '2 days')");
    log.wait_for_rows(4);
    reader.stop();
    let rows = log.rows();
    assert_eq!(rows.iter().map(|row| row.value("n").unwrap()).collect::<Vec<_>>(), ["1.50", "2.50", "3.50", "4.50"]);
    assert_eq!((rows[2].value("span"), rows[3].value("span")), (Some("1 day"), Some("2 days")));
    assert_eq!(log.state().len(), 4);
}
