//! `[sources.<name>]` with `type = "mysql"` or `"mariadb"`, which mean the same: the server says which it is.

use std::path::Path;

use syncline_capture::mysql::{MySqlConfig, url as server_url};
use syncline_schemas::ident::SourceId;
use xxhash_rust::xxh3::xxh3_64;

use super::Faults;
use super::section::Section;
use super::sources::{Database, parsed_url, patterns, rooted};

/// Numbers that are made here begin with it, far from those that people give their servers by hand, by date or by
/// private address, and have [`SERVER_ID_BITS`] of their own behind it.
const SERVER_ID_FIRST: u32 = 1 << 30;
const SERVER_ID_BITS: u32 = 28;

/// Where the system says what this machine, or container, is called.
const MACHINE: &str = "/proc/sys/kernel/hostname";

/// Settings that only a PostgreSQL server knows, and what there is instead.
const FOREIGN: [(&str, &str); 7] = [
    ("slot", "a server keeps its log by binlog_expire_logs_seconds, whoever reads it"),
    ("publication", "`tables` alone says what is read"),
    ("columns", "the log has every column"),
    ("slot_warn", "a server keeps its log by binlog_expire_logs_seconds, whoever reads it"),
    ("slot_max", "a server keeps its log by binlog_expire_logs_seconds, whoever reads it"),
    ("spool_max", "a transaction comes when it is committed"),
    ("messages", "there are none in the log"),
];

pub(super) fn read(
    name: &str,
    section: &mut Section<'_>,
    folder: &Path,
    data_dir: &Path,
    faults: &mut Faults,
) -> Option<MySqlConfig> {
    let server = parsed_url(section, server_url::parse, faults);
    let tables = section.texts("tables", faults);
    if tables.is_none() && !section.has("tables") {
        section.fault(faults, "needs tables, as in tables = [\"shop.*\"]: a schema is a database of the server");
    }
    let tables = tables.and_then(|tables| patterns(&tables, faults));
    let database = Database::read(section, folder, faults);
    let server_id = server_id(name, section, data_dir, faults);
    for (key, instead) in FOREIGN {
        section.refuse(key, faults, &format!("is for PostgreSQL: {instead}; remove it"));
    }
    let (server, tables) = (server?, tables?);
    Some(MySqlConfig {
        source: SourceId::new(name),
        hosts: server.hosts,
        user: server.user,
        password: database.password.or(server.password),
        tls: rooted(server.tls, folder),
        tables,
        keys: database.keys,
        server_id,
        snapshot: database.snapshot,
        copy_workers: database.copy_workers,
        special_values: database.special_values,
        truncate: database.truncate,
        log_gap: database.log_gap,
        drain: false,
    })
}

/// The number that no other reader of the server may have.
fn server_id(name: &str, section: &mut Section<'_>, data_dir: &Path, faults: &mut Faults) -> u32 {
    let made = || {
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        // Where the system does not say, the folder and the name have to do.
        let machine = std::fs::read_to_string(MACHINE).unwrap_or_default();
        made_server_id(machine.trim_end(), &data_dir, name)
    };
    let Some(given) = section.count("server_id", faults) else { return made() };
    u32::try_from(given).unwrap_or_else(|_| {
        section.fault_of("server_id", faults, "is above 4294967295, the last that a server takes");
        made()
    })
}

/// The same at every start, and another one for another machine, data folder or source: servers end the older session of
/// two readers with one number, so that two daemons with one would interrupt each other for ever.
fn made_server_id(machine: &str, data_dir: &Path, name: &str) -> u32 {
    let of = format!("{machine}\0{}\0{name}", data_dir.display());
    let hash = xxh3_64(of.as_bytes()) >> (u64::BITS - SERVER_ID_BITS);
    SERVER_ID_FIRST | u32::try_from(hash).expect("so many bits are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_do_not_end_each_others_sessions_and_one_keeps_its_number() {
        let of = |machine: &str, folder: &str, name: &str| made_server_id(machine, Path::new(folder), name);
        let first = of("a", "/var/lib/syncline", "erp");
        assert_eq!(first, of("a", "/var/lib/syncline", "erp"));
        assert_eq!(first >> SERVER_ID_BITS, SERVER_ID_FIRST >> SERVER_ID_BITS);
        for other in [
            of("b", "/var/lib/syncline", "erp"),
            of("a", "/var/lib/syncline2", "erp"),
            of("a", "/var/lib/syncline", "shop"),
        ] {
            assert_ne!(first, other);
        }
    }
}
