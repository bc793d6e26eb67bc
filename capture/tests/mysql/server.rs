//! A private MariaDB in a temporary folder, on a Unix socket, stopped by its process number.
//!
//! Tests that only need a database share one server as long as any of them runs; tests that need settings of their own
//! start their own. `SYNCLINE_MARIADB` and `SYNCLINE_MYSQL` name a folder in which a newer MariaDB or a MySQL is unpacked with a C
//! library of its own (`deploy/mariadb-server`, `deploy/mysql-server`), on which the tests run instead.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use syncline_capture::mysql::{
    Address, Host, LogGap, MySqlConfig, SnapshotMode, SpecialValues, TablePatterns, Tls, Truncates,
};
use syncline_schemas::ident::SourceId;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

pub(crate) struct Server {
    folder: tempfile::TempDir,
    settings: Vec<String>,
    process: Mutex<Child>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

fn program(name: &str) -> PathBuf {
    let mut programs = ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name)).into_iter();
    programs.find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is missing; run deploy/packages mariadb"))
}

/// As a user without rights where the tests run as root, which the server refuses to be.
fn user() -> Vec<String> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root { vec!["--user=mysql".to_owned()] } else { Vec::new() }
}

/// Where MySQL is unpacked, if the tests are to run on it.
pub(crate) fn mysql() -> Option<PathBuf> {
    std::env::var_os("SYNCLINE_MYSQL").map(PathBuf::from)
}

/// Where a newer MariaDB is unpacked, if the tests are to run on it.
pub(crate) fn newer_mariadb() -> Option<PathBuf> {
    std::env::var_os("SYNCLINE_MARIADB").map(PathBuf::from)
}

/// A server that is unpacked in a folder, started with the C library beside it.
fn unpacked(root: &Path, name: &str, texts: &str) -> Command {
    let machine = std::env::consts::ARCH;
    let libraries = root.join(format!("usr/lib/{machine}-linux-gnu"));
    let loader = std::fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path());
    let is_loader = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux");
    let mut server = Command::new(loader.into_iter().find(is_loader).expect("a loader of programs"));
    let private = root.join("usr/lib/mysql/private");
    server.arg("--library-path").arg(format!("{}:{}", libraries.display(), private.display()));
    server.arg(root.join("usr/sbin").join(name)).args(["--no-defaults", "--secure-file-priv="]);
    let texts = root.join(texts);
    server.arg(format!("--lc-messages-dir={}", texts.display()));
    server.arg(format!("--character-sets-dir={}", texts.join("charsets").display()));
    server.arg(format!("--plugin-dir={}", root.join("usr/lib/mysql/plugin").display()));
    server
}

fn mysqld(root: &Path) -> Command {
    unpacked(root, "mysqld", "usr/share/mysql")
}

const TEXTS_OF_MARIADB: &str = "usr/share/mariadb";

fn mariadbd() -> Command {
    match newer_mariadb() {
        Some(root) => unpacked(&root, "mariadbd", TEXTS_OF_MARIADB),
        None => {
            let mut server = Command::new(program("mariadbd"));
            server.arg("--no-defaults");
            server
        }
    }
}

/// What makes a server's own tables in a folder.
fn installer(folder: &Path, settings: &[&str]) -> Command {
    if let Some(root) = mysql() {
        let mut installer = mysqld(&root);
        // How names are kept is settled once and for all.
        installer.arg("--initialize-insecure").args(settings.iter().filter(|name| name.starts_with("--lower-case")));
        installer
    } else if let Some(root) = newer_mariadb() {
        // What mariadb-install-db does, which would take the programs of the machine for its own.
        let data = folder.join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
        let mut statements = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n".to_owned();
        for part in ["mariadb_system_tables.sql", "mariadb_performance_tables.sql", "mariadb_system_tables_data.sql"] {
            statements += &std::fs::read_to_string(root.join(TEXTS_OF_MARIADB).join(part)).unwrap();
        }
        let script = folder.join("system.sql");
        std::fs::write(&script, statements).unwrap();
        let mut installer = mariadbd();
        installer.arg("--bootstrap").stdin(std::fs::File::open(script).unwrap());
        installer
    } else {
        let mut installer = Command::new(program("mariadb-install-db"));
        installer.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        installer
    }
}

/// MySQL has no tables of numbers: `seq_1_to_9` is one that is made up.
fn with_numbers(sql: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("seq_") {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (from, tail) = after.split_at(digits(after));
        let tail = tail.strip_prefix("_to_").expect("seq_1_to_9");
        let (to, tail) = tail.split_at(digits(tail));
        out.push_str(before);
        out.push_str(&format!(
            "(WITH RECURSIVE numbers(seq) AS (SELECT {from} UNION ALL SELECT seq + 1 FROM numbers WHERE seq < {to}) \
             SELECT seq FROM numbers) AS numbers"
        ));
        rest = tail;
    }
    out + rest
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

/// Where a server keeps its files. Servers that start at the same time would take each other's away.
fn folders(folder: &Path) -> [String; 2] {
    [format!("--datadir={}", folder.join("data").display()), format!("--tmpdir={}", folder.display())]
}

fn launch(folder: &Path, settings: &[String]) -> Child {
    let mut server = match mysql() {
        Some(root) => {
            let mut server = mysqld(&root);
            server.args(["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--mysqlx=OFF"]);
            server.arg("--cte-max-recursion-depth=1000000");
            server
        }
        None => {
            let mut server = mariadbd();
            server.args(["--binlog-format=ROW", "--gtid-strict-mode=ON", "--skip-log-error"]);
            server
        }
    };
    let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
    server
        .args(["--skip-networking", "--log-bin=bin", "--server-id=7", "--binlog-row-metadata=FULL"])
        .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"])
        .arg(format!("--socket={}", socket(folder).display()))
        .args(folders(folder))
        .args(user())
        .args(settings)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Server {
    /// The server that tests share.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(&[]));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts a server with settings beyond those that the reader needs.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("syncline-maria").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let installed = installer(folder.path(), settings).args(folders(folder.path())).args(user()).output().unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let process = Mutex::new(launch(folder.path(), &settings));
        let server = Self { folder, settings, process };
        server.wait();
        server
    }

    /// As [`Self::start`], and the server listens on TCP, too, and loses nothing that it has committed when it is killed; with its port.
    pub(crate) fn listening(settings: &[&str]) -> (Self, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port_setting = format!("--port={port}");
        let own = ["--skip-networking=0", "--bind-address=127.0.0.1", &port_setting];
        let safe = ["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"];
        (Self::start(&[&own[..], &safe, settings].concat()), port)
    }

    fn wait(&self) {
        eventually("the server to start", || self.try_sql("mysql", "SELECT 1").is_ok());
    }

    /// Ends it at once, or in its own time.
    pub(crate) fn end(&self, signal: rustix::process::Signal) {
        let mut process = self.process.lock().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&process), signal).unwrap();
        process.wait().unwrap();
    }

    /// Starts one that has ended with what it had.
    pub(crate) fn start_again(&self) {
        *self.process.lock().unwrap() = launch(self.folder.path(), &self.settings);
        self.wait();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        Address { host: Host::Unix(socket(self.folder.path())), port: 3306 }
    }

    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let sql = if mysql().is_some() { with_numbers(sql) } else { sql.to_owned() };
        let output = Command::new(program("mariadb"))
            .args(["--no-defaults", "-uroot", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"])
            .arg(format!("--socket={}", socket(self.folder.path()).display()))
            .args(["-e", &sql, database])
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
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.try_sql("mysql", &format!("CREATE DATABASE {name}")).unwrap();
        let config = MySqlConfig {
            source: SourceId::new("erp"),
            hosts: vec![self.address()],
            user: "root".to_owned(),
            password: None,
            tls: Tls::Disable,
            tables: TablePatterns::parse(&[format!("{name}.*")]).unwrap(),
            keys: std::collections::BTreeMap::new(),
            server_id: 1000 + number,
            special_values: SpecialValues::Stop,
            truncate: Truncates::Apply,
            log_gap: LogGap::Repair,
            snapshot: SnapshotMode::Never,
            copy_workers: 2,
            drain: false,
        };
        let database = Database { server: Arc::clone(self), name, config };
        database.sql(sql);
        database
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        if process.try_wait().unwrap().is_some() {
            return;
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(process), rustix::process::Signal::TERM)
            .unwrap();
        process.wait().unwrap();
    }
}

/// A database of a test.
pub(crate) struct Database {
    pub(crate) server: Arc<Server>,
    pub(crate) name: String,
    pub(crate) config: MySqlConfig,
}

impl Database {
    /// Runs statements; gives the rows, values separated by tabs.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.try_sql(&self.name, sql).unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }
}
