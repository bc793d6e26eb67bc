//! Every event that MySQL 8.0 to 9.x and MariaDB 10.6 to 12 know, and what is done with it: one table.
//!
//! There is no arm for the rest: a code that is not listed stops the source, also where the server says that it may be
//! ignored. What is listed as harmless says why no row can be missed with it.

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It is decoded, and what it says is followed.
    Applied(Part),
    /// It says nothing of rows, for this reason.
    Harmless(&'static str),
    /// It stops the source, for this reason and with this remedy.
    Refused(&'static str),
}

/// What an event that is applied has a part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// How the events that follow are to be read.
    Format,
    /// Which file comes next.
    Rotate,
    /// The server is alive and has nothing to say.
    Heartbeat,
    /// Which transaction begins.
    MySqlGtid,
    /// As [`Part::MySqlGtid`], with a tag.
    TaggedGtid,
    /// As [`Part::MySqlGtid`], of MariaDB.
    MariaDbGtid,
    /// A statement.
    Query,
    /// As [`Part::Query`], compressed.
    CompressedQuery,
    /// A transaction ends.
    Xid,
    /// A transaction ends its first phase, or both at once.
    XaPrepare,
    /// What the columns of a table are.
    TableMap,
    /// Rows.
    Rows(RowsForm),
    /// A whole transaction, compressed.
    Payload,
}

/// What an event of rows does, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsForm {
    pub(crate) change: Change,
    /// The second version: with room for more in its head.
    pub(crate) is_v2: bool,
    /// Rows are compressed, as MariaDB does it.
    pub(crate) is_compressed: bool,
    /// Of JSON a row after an update may say what was changed in it.
    pub(crate) is_partial: bool,
}

/// What happened to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Insert,
    Update,
    Delete,
}

const fn rows(change: Change, is_v2: bool, is_compressed: bool) -> Treatment {
    Treatment::Applied(Part::Rows(RowsForm { change, is_v2, is_compressed, is_partial: false }))
}

const PARTIAL: RowsForm = RowsForm { change: Change::Update, is_v2: true, is_compressed: false, is_partial: true };

const STATEMENT: &str = "it belongs to a change that is logged as a statement, of which the rows are not known; \
     SET GLOBAL binlog_format = 'ROW', and have `syncline replay --reread` copy the tables again";
const OLD: &str = "it is of a server before MySQL 5.6, which is not read";
const OF_STATEMENT: &str = "it is of use to a statement only, and that one stops the source where it changes rows";
const OF_GROUP: &str = "it says who is in the server's group, and nothing of rows";

/// The name of an event and what is done with it; none of a code that nobody knows.
pub(crate) const fn known(code: u8) -> Option<(&'static str, Treatment)> {
    match code {
        0..=42 => Some(shared(code)),
        160..=172 => Some(of_mariadb(code)),
        _ => None,
    }
}

/// Events of MySQL, most of which MariaDB has, too.
const fn shared(code: u8) -> (&'static str, Treatment) {
    use Change::{Delete, Insert, Update};
    use Treatment::{Applied, Harmless, Refused};
    match code {
        1 => ("START_EVENT_V3", Refused(OLD)),
        2 => ("QUERY_EVENT", Applied(Part::Query)),
        3 => ("STOP_EVENT", Harmless("the server was stopped; the next file goes on behind it")),
        4 => ("ROTATE_EVENT", Applied(Part::Rotate)),
        5 => ("INTVAR_EVENT", Harmless(OF_STATEMENT)),
        6 => ("LOAD_EVENT", Refused(STATEMENT)),
        7 => ("SLAVE_EVENT", Refused(OLD)),
        8 => ("CREATE_FILE_EVENT", Refused(STATEMENT)),
        9 => ("APPEND_BLOCK_EVENT", Refused(STATEMENT)),
        10 => ("EXEC_LOAD_EVENT", Refused(STATEMENT)),
        11 => ("DELETE_FILE_EVENT", Refused(STATEMENT)),
        12 => ("NEW_LOAD_EVENT", Refused(STATEMENT)),
        13 => ("RAND_EVENT", Harmless(OF_STATEMENT)),
        14 => ("USER_VAR_EVENT", Harmless(OF_STATEMENT)),
        15 => ("FORMAT_DESCRIPTION_EVENT", Applied(Part::Format)),
        16 => ("XID_EVENT", Applied(Part::Xid)),
        17 => ("BEGIN_LOAD_QUERY_EVENT", Refused(STATEMENT)),
        18 => ("EXECUTE_LOAD_QUERY_EVENT", Refused(STATEMENT)),
        19 => ("TABLE_MAP_EVENT", Applied(Part::TableMap)),
        20 => ("PRE_GA_WRITE_ROWS_EVENT", Refused(OLD)),
        21 => ("PRE_GA_UPDATE_ROWS_EVENT", Refused(OLD)),
        22 => ("PRE_GA_DELETE_ROWS_EVENT", Refused(OLD)),
        23 => ("WRITE_ROWS_EVENT_V1", rows(Insert, false, false)),
        24 => ("UPDATE_ROWS_EVENT_V1", rows(Update, false, false)),
        25 => ("DELETE_ROWS_EVENT_V1", rows(Delete, false, false)),
        26 => (
            "INCIDENT_EVENT",
            Refused(
                "the server lost changes that it should have logged; have `syncline replay --reread` copy the tables again",
            ),
        ),
        27 => ("HEARTBEAT_LOG_EVENT", Applied(Part::Heartbeat)),
        28 => ("IGNORABLE_LOG_EVENT", Harmless("it is the server's own word for an event without a meaning")),
        29 => ("ROWS_QUERY_LOG_EVENT", Harmless("it is the text of the statement whose rows follow")),
        30 => ("WRITE_ROWS_EVENT", rows(Insert, true, false)),
        31 => ("UPDATE_ROWS_EVENT", rows(Update, true, false)),
        32 => ("DELETE_ROWS_EVENT", rows(Delete, true, false)),
        33 => ("GTID_LOG_EVENT", Applied(Part::MySqlGtid)),
        34 => (
            "ANONYMOUS_GTID_LOG_EVENT",
            Refused(
                "a transaction has no GTID, so that nobody could go on behind it after a failover; set gtid_mode = ON \
                 and enforce_gtid_consistency = ON",
            ),
        ),
        35 => ("PREVIOUS_GTIDS_LOG_EVENT", Harmless("it says what earlier files hold")),
        36 => ("TRANSACTION_CONTEXT_EVENT", Harmless(OF_GROUP)),
        37 => ("VIEW_CHANGE_EVENT", Harmless(OF_GROUP)),
        38 => ("XA_PREPARE_LOG_EVENT", Applied(Part::XaPrepare)),
        39 => ("PARTIAL_UPDATE_ROWS_EVENT", Applied(Part::Rows(PARTIAL))),
        40 => ("TRANSACTION_PAYLOAD_EVENT", Applied(Part::Payload)),
        41 => ("HEARTBEAT_LOG_EVENT_V2", Applied(Part::Heartbeat)),
        42 => ("GTID_TAGGED_LOG_EVENT", Applied(Part::TaggedGtid)),
        _ => ("UNKNOWN_EVENT", Refused("the server says itself that it does not know what it is")),
    }
}

/// Events of MariaDB alone.
const fn of_mariadb(code: u8) -> (&'static str, Treatment) {
    use Change::{Delete, Insert, Update};
    use Treatment::{Applied, Harmless, Refused};
    match code {
        160 => ("ANNOTATE_ROWS_EVENT", Harmless("it is the text of the statement whose rows follow")),
        161 => ("BINLOG_CHECKPOINT_EVENT", Harmless("it says from which file on the server itself would recover")),
        162 => ("GTID_EVENT", Applied(Part::MariaDbGtid)),
        163 => ("GTID_LIST_EVENT", Harmless("it says what earlier files hold")),
        164 => (
            "START_ENCRYPTION_EVENT",
            Harmless(
                "the server's file is encrypted, and what it sends is not; the checksums of what follows prove it",
            ),
        ),
        165 => ("QUERY_COMPRESSED_EVENT", Applied(Part::CompressedQuery)),
        166 => ("WRITE_ROWS_COMPRESSED_EVENT_V1", rows(Insert, false, true)),
        167 => ("UPDATE_ROWS_COMPRESSED_EVENT_V1", rows(Update, false, true)),
        168 => ("DELETE_ROWS_COMPRESSED_EVENT_V1", rows(Delete, false, true)),
        169 => ("WRITE_ROWS_COMPRESSED_EVENT", rows(Insert, true, true)),
        170 => ("UPDATE_ROWS_COMPRESSED_EVENT", rows(Update, true, true)),
        171 => ("DELETE_ROWS_COMPRESSED_EVENT", rows(Delete, true, true)),
        _ => (
            "PARTIAL_ROW_DATA_EVENT",
            Refused(
                "it holds a part of a row, which this version does not put together; raise \
                 binlog_row_event_fragment_threshold, and have `syncline replay --reread` copy the tables again",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_nobody_has_listed_is_known_to_nobody() {
        let listed: Vec<u8> = (0..=u8::MAX).filter(|code| known(*code).is_some()).collect();
        assert_eq!(listed, (0..=42).chain(160..=172).collect::<Vec<_>>());
        let names: std::collections::BTreeSet<_> =
            listed.iter().filter_map(|code| known(*code)).map(|it| it.0).collect();
        assert_eq!(names.len(), listed.len(), "each has its own name");
    }

    #[test]
    fn the_table_in_the_documentation_says_what_is_done() {
        let page = include_str!("../../../../docs/mysql.md");
        for code in 0..=u8::MAX {
            let Some((name, treatment)) = known(code) else { continue };
            let (done, why) = match treatment {
                Treatment::Applied(_) => ("applied", ""),
                Treatment::Harmless(why) => ("harmless", why),
                Treatment::Refused(why) => ("stops", why),
            };
            let line = format!("| {code} | `{name}` | {done} | {why} |");
            assert!(page.contains(&line), "docs/mysql.md lacks the line\n{line}");
        }
    }
}
