//! A private PostgreSQL in a temporary folder, on a free port and a Unix socket, stopped by its process number.
//!
//! Tests that only need a database share one server as long as any of them runs; tests that need settings of their own
//! start their own.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use syncline_capture::postgres::{
    Columns, Host, LogGap, Mapped, PostgresConfig, SnapshotMode, SpecialValues, SpoolConfig, TablePatterns, Tls,
    Truncates,
};
use syncline_schemas::ident::SourceId;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    process: Mutex<Child>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    /// The server that tests share.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(
                &[("wal_level", "logical"), ("max_replication_slots", "40"), ("max_wal_senders", "40")],
                |_| {},
            ));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts a server; `prepare` may change files in its data folder first.
    pub(crate) fn start(settings: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let binaries = find_binaries();
        let folder = tempfile::Builder::new().prefix("syncline-pg").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&binaries.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        run(initdb.arg("--wal-segsize=4").arg("-D").arg(&data));
        prepare(&data);
        run(Command::new("chown").arg("-R").arg(format!("--reference={}", data.display())).arg(&data));

        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Little work_mem has every transaction that is not small streamed while it is in progress.
        let defaults = [
            ("fsync", "off"),
            ("listen_addresses", "127.0.0.1"),
            ("max_connections", "100"),
            ("logical_decoding_work_mem", "64kB"),
        ];
        let all = defaults.iter().chain(settings);
        let settings: Vec<_> = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = Mutex::new(launch(&binaries, folder.path(), port, &settings));
        let server = Self { folder, binaries, port, settings, process };
        server.wait_until_it_answers();
        server
    }

    /// Stops the server and starts it again on the same data; `prepare` may change files in its data folder between.
    pub(crate) fn restart(&self, prepare: impl FnOnce(&Path)) {
        let mut process = self.process.lock().unwrap();
        stop(&mut process);
        prepare(&self.folder.path().join("data"));
        *process = launch(&self.binaries, self.folder.path(), self.port, &self.settings);
        drop(process);
        self.wait_until_it_answers();
    }

    /// Where its socket is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_it_answers(&self) {
        eventually("the server to start", || self.psql("postgres", "SELECT 1").is_ok());
    }

    pub(crate) fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(installed().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql])
            .arg("-h")
            .arg(self.folder.path())
            .arg("-p")
            .arg(self.port.to_string())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Creates a database and gives it with a source that reads all its tables.
    pub(crate) fn database(self: &Arc<Self>, sql: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        let config = PostgresConfig {
            source: SourceId::new("erp"),
            host: Host::Unix(self.folder.path().to_owned()),
            port: self.port,
            database: name.clone(),
            user: "postgres".to_owned(),
            password: None,
            tls: Tls::Disable,
            tables: TablePatterns::parse(&["public.*"]).unwrap(),
            mapped: Mapped::default(),
            columns: Columns::All,
            slot: format!("slot_{name}"),
            publication: "syncline".to_owned(),
            snapshot: SnapshotMode::Initial,
            copy_workers: 2,
            drain_to: None,
            special_values: SpecialValues::Stop,
            truncate: Truncates::Apply,
            messages: None,
            keys: std::collections::BTreeMap::new(),
            slot_warn: u64::MAX,
            slot_max: None,
            log_gap: LogGap::Repair,
            spool: Some(SpoolConfig { folder: self.folder.path().join(format!("spool_{name}")), max: u64::MAX }),
        };
        let database = Database { server: Arc::clone(self), name, config };
        database.sql(sql);
        database
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(self.process.get_mut().unwrap());
    }
}

fn launch(binaries: &Path, folder: &Path, port: u16, settings: &[(String, String)]) -> Child {
    let mut postgres = unprivileged(&binaries.join("postgres"));
    postgres.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).arg("-p").arg(port.to_string());
    for (name, value) in settings {
        postgres.arg("-c").arg(format!("{name}={value}"));
    }
    let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
    postgres.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn stop(process: &mut Child) {
    // SIGINT is PostgreSQL's fast shutdown.
    rustix::process::kill_process(rustix::process::Pid::from_child(process), rustix::process::Signal::INT).unwrap();
    process.wait().unwrap();
}

/// A database of a test.
pub(crate) struct Database {
    pub(crate) server: Arc<Server>,
    name: String,
    pub(crate) config: PostgresConfig,
}

impl Database {
    /// Runs statements; a single statement string is one transaction. Gives the rows, values separated by `|`.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql).unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }

    /// Publications have row filters and schemas since PostgreSQL 15; what tests them has nothing to test before.
    pub(crate) fn has_row_filters(&self) -> bool {
        self.sql("SELECT current_setting('server_version_num')::int >= 150000") == "t"
    }

    /// As [`Database::sql`], of what may fail.
    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.server.psql(&self.name, sql)
    }

    /// The slot's confirmed position.
    pub(crate) fn confirmed(&self) -> syncline_capture::postgres::Lsn {
        let sql =
            format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'", self.config.slot);
        self.sql(&sql).parse().unwrap()
    }

    /// The same source over TCP.
    pub(crate) fn over_tcp(&self, host: &str) -> PostgresConfig {
        PostgresConfig { host: Host::Tcp(host.to_owned()), ..self.config.clone() }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A slot without a reader keeps the shared server's log.
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = '{}' AND NOT active",
            self.config.slot
        );
        let _ = self.server.psql(&self.name, &sql);
    }
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::yield_now();
    }
}

/// The folder of the server's programs: `SYNCLINE_POSTGRES`, or the newest that is installed.
fn find_binaries() -> PathBuf {
    std::env::var_os("SYNCLINE_POSTGRES").map_or_else(installed, PathBuf::from)
}

pub(crate) fn installed() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (Debian: postgresql-15)");
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop().expect("PostgreSQL is installed with its server (Debian: postgresql-15)")
}

/// The server refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
