//! What a read sees, said in the numbers of transactions.
//!
//! Both servers write a transaction to the log before other sessions see it (group commit: log, then engine), and the stream
//! may tell of it meanwhile, as long as a semi-synchronous replica takes to answer. So a read begins once it sees all that was
//! told, and what it may have seen besides is asked behind its beginning:
//!
//! ```text
//! MySQL     executed ⊇ told      gtid_executed takes a transaction in when the engine has committed it
//!           begin
//!           owned, executed      one that is seen and not executed yet is still owned; those are waited for
//! MariaDB   end of the log       all that was told lies before it
//!           begin                with its own place in the log, as commits have one order in log and engine
//!           gtid_binlog_pos      takes a transaction in when it is logged, so before it can be seen
//! ```

use super::DURING;
use crate::CaptureError;
use crate::mysql::gtid::GtidSet;
use crate::mysql::place::Place;
use crate::mysql::wire::Connection;

/// Characters of a server's number.
const SOURCE_LEN: usize = 36;
const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// A transaction that has begun and reads as of one moment.
pub(super) struct View {
    /// It has seen nothing that is not among these.
    pub(super) reached: GtidSet,
}

impl View {
    /// Begins one that sees all that was `told`; none where that takes another moment.
    pub(super) fn open(
        connection: &mut Connection,
        told: &GtidSet,
        is_mariadb: bool,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, CaptureError> {
        if is_mariadb { Self::of_mariadb(connection, told) } else { Self::of_mysql(connection, told, gives_up) }
    }

    fn of_mysql(
        connection: &mut Connection,
        told: &GtidSet,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, CaptureError> {
        if !executed(connection)?.contains(told) {
            return Ok(None);
        }
        connection.query(DURING, BEGIN)?;
        let owned = value(connection, "SELECT @@GLOBAL.gtid_owned")?;
        let owned = owned_set(connection, &owned)?;
        loop {
            let reached = executed(connection)?;
            // One that is neither was rolled back, so nobody has seen it.
            let still = value(connection, "SELECT @@GLOBAL.gtid_owned")?;
            let still = owned_set(connection, &still)?;
            if owned.iter().all(|gtid| reached.contains(gtid) || !still.contains(gtid)) {
                // Whatever was owned and is no more is among those that were executed by now.
                let reached = executed(connection)?;
                return Ok(Some(Self { reached }));
            }
            // A replica may take hours to apply one.
            if gives_up() {
                connection.query(DURING, "ROLLBACK")?;
                return Ok(None);
            }
            connection.pause(DURING)?;
        }
    }

    fn of_mariadb(connection: &mut Connection, told: &GtidSet) -> Result<Option<Self>, CaptureError> {
        let logged = binlog_pos(connection)?;
        if !logged.contains(told) {
            return Ok(None);
        }
        let rows = connection.query(DURING, "SHOW MASTER STATUS")?;
        let end = rows.first().and_then(|row| Place::of(row.text(0), row.text(1)));
        let end = end.ok_or_else(|| connection.protocol(DURING, "the server does not say where its log ends"))?;
        connection.query(DURING, BEGIN)?;
        let rows = connection.query(DURING, "SHOW SESSION STATUS LIKE 'binlog_snapshot_%'")?;
        let of = |name: &str| {
            let row = rows.iter().find(|row| row.text(0).eq_ignore_ascii_case(name));
            row.map(|row| row.text(1).to_owned()).unwrap_or_default()
        };
        let place = Place::of(&of("binlog_snapshot_file"), &of("binlog_snapshot_position"));
        let place = place.ok_or_else(|| connection.protocol(DURING, "the server does not say what a read sees"))?;
        if place < end {
            connection.query(DURING, "ROLLBACK")?;
            return Ok(None);
        }
        let reached = binlog_pos(connection)?;
        Ok(Some(Self { reached }))
    }
}

fn value(connection: &mut Connection, sql: &str) -> Result<String, CaptureError> {
    Ok(connection.query(DURING, sql)?.first().map(|row| row.text(0).to_owned()).unwrap_or_default())
}

fn executed(connection: &mut Connection) -> Result<GtidSet, CaptureError> {
    let text = value(connection, "SELECT @@GLOBAL.gtid_executed")?;
    text.parse().map(GtidSet::MySql).map_err(|reason: &str| connection.protocol(DURING, reason))
}

fn binlog_pos(connection: &mut Connection) -> Result<GtidSet, CaptureError> {
    let text = value(connection, "SELECT @@GLOBAL.gtid_binlog_pos")?;
    text.parse().map(GtidSet::MariaDb).map_err(|reason: &str| connection.protocol(DURING, reason))
}

/// `uuid:5#12:6#13`, each with the thread that has it; the next source follows without anything between.
fn owned_set(connection: &Connection, text: &str) -> Result<Vec<GtidSet>, CaptureError> {
    owned_of(text).map_err(|reason| connection.protocol(DURING, reason))
}

fn owned_of(text: &str) -> Result<Vec<GtidSet>, &'static str> {
    let mut owned = Vec::new();
    let is_between = |c: char| c == ',' || c.is_whitespace();
    let mut parts = text.trim_matches(is_between).split(':');
    let mut source = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('#') {
            Some((number, rest)) => {
                owned.push(format!("{source}:{number}").parse().map(GtidSet::MySql)?);
                // A thread's number has as many digits as it has, and a source may begin with digits, too.
                let next = rest.len().checked_sub(SOURCE_LEN).and_then(|at| rest.get(at..));
                source = next.map_or(source, str::to_owned);
            }
            // A tag.
            None => source = format!("{}:{part}", source.split(':').next().unwrap_or_default()),
        }
    }
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_owns_a_transaction_is_no_part_of_its_number() {
        const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let owned = owned_of(&format!("{A}:5#12:6#13:load:7#2,\n{A}:9#1{A}:8#11")).unwrap();
        let owned: Vec<String> = owned.iter().map(ToString::to_string).collect();
        assert_eq!(
            owned,
            [format!("{A}:5"), format!("{A}:6"), format!("{A}:load:7"), format!("{A}:9"), format!("{A}:8")]
        );
        assert!(owned_of("").unwrap().is_empty());
        assert!(owned_of("nonsense:5#1").is_err());
    }
}
