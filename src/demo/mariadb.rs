//! The private MariaDB of the warehouse, as [`super::server`] is the ERP's PostgreSQL: durable, and with passwords checked.
//!
//! Who works in the warehouse speaks to it through the server's own client: a process that reads statements and writes
//! rows, so that the demo needs no library for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::error::DemoError;
use super::private::{Private, Room, spawn};
use super::server::{free_port, random_password};

/// Name of the superuser, who owns the warehouse's tables.
const OWNER: &str = "meridian";
/// Where the server's programs lie that are in nobody's `PATH` but root's.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];
/// Who made the folder, the server, and who speaks to it.
const PROGRAMS: [&str; 3] = ["mariadb-install-db", "mariadbd", "mariadb"];
/// What docs/mysql.md asks for, and a log that is as durable as the tables.
const SETTINGS: [&str; 11] = [
    "--socket=",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--default-time-zone=+00:00",
    "--character-set-server=utf8mb4",
    "--server-id=1",
    "--log-bin=bin",
    "--sync-binlog=1",
    "--binlog-format=ROW",
    "--binlog-row-metadata=FULL",
    "--gtid-strict-mode=ON",
];

/// A running private server.
#[derive(Debug)]
pub(crate) struct MariaDb {
    private: Private,
    client: Client,
}

impl MariaDb {
    /// Makes a server in `folder`, which must not exist, and starts it.
    ///
    /// # Errors
    /// [`DemoError`] naming the missing program, the folder, or the end of the server's log.
    pub(crate) async fn start(folder: &Path) -> Result<Self, DemoError> {
        let [install, server, client] = find_programs()?;
        let room = Room::make("MariaDB", "mysql", folder)?;
        let folders = [
            "--no-defaults".to_owned(),
            format!("--datadir={}", folder.join("data").display()),
            format!("--tmpdir={}", folder.display()),
        ];
        let mut installer = room.command(&install)?;
        // Nobody is root there by a password, or without one.
        installer.args(&folders).args(["--auth-root-authentication-method=socket", "--skip-test-db"]);
        room.run("mariadb-install-db", installer).await?;

        let (port, password) = (free_port()?, random_password()?);
        let owner = format!(
            "CREATE USER {OWNER}@127.0.0.1 IDENTIFIED BY '{password}';
             GRANT ALL ON *.* TO {OWNER}@127.0.0.1 WITH GRANT OPTION;\n"
        );
        // It is run before anybody is let in.
        let owner = room.secret("owner.sql", &owner)?;
        let mut mariadbd = room.command(&server)?;
        mariadbd.args(&folders).args(SETTINGS);
        mariadbd.arg(format!("--port={port}")).arg(format!("--init-file={}", owner.display()));
        let private = room.start("mariadbd", Signal::TERM, mariadbd)?;
        let mut server = Self { private, client: Client { program: client, port, password } };
        let client = &server.client;
        let started = server.private.wait_until(async || client.run("log in", "SELECT 1").await.is_ok()).await;
        fs::remove_file(&owner).map_err(DemoError::file("remove", &owner))?;
        started?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.client.port
    }

    /// Runs statements as the owner, to `what` end messages say; gives the rows, a line each, with tabs between values.
    ///
    /// # Errors
    /// [`DemoError::Warehouse`] with the server's reason.
    pub(crate) async fn run(&self, what: &str, sql: &str) -> Result<String, DemoError> {
        self.client.run(what, sql).await
    }

    /// A connection of the owner's to a database.
    ///
    /// # Errors
    /// [`DemoError::Spawn`] where the client cannot be started.
    pub(crate) fn session(&self, database: &str) -> Result<Session, DemoError> {
        let mut child = self.client.command().arg(database).spawn().map_err(spawn("mariadb"))?;
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Ok(Session { child, to, from: BufReader::new(from).lines() })
    }

    /// Stops it in order and waits.
    ///
    /// # Errors
    /// [`DemoError::TooSlow`] where it does not stop; it is then told to quit at once.
    pub(crate) async fn stop(self) -> Result<(), DemoError> {
        self.private.stop().await
    }
}

/// How the owner logs in.
#[derive(Debug)]
struct Client {
    program: PathBuf,
    port: u16,
    password: String,
}

impl Client {
    /// A client that reads statements and writes rows at once, and ends with the first statement that is refused.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--default-character-set=utf8mb4"])
            .args(["--batch", "--skip-column-names", "--unbuffered"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={OWNER}"))
            .env("MYSQL_PWD", &self.password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    async fn run(&self, what: &str, sql: &str) -> Result<String, DemoError> {
        let mut child = self.command().spawn().map_err(spawn("mariadb"))?;
        let mut to = child.stdin.take().expect("a pipe");
        // A client that reads no more says on its standard error why.
        let _ = to.write_all(sql.as_bytes()).await;
        drop(to);
        let output = child.wait_with_output().await.map_err(spawn("mariadb"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(DemoError::Warehouse { what: what.to_owned(), reason })
    }
}

/// A connection that is asked one thing after the other.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Runs a statement that gives one row.
    ///
    /// # Errors
    /// [`DemoError::Warehouse`] with the server's reason; the connection is gone then.
    pub(crate) async fn row(&mut self, what: &str, statement: &str) -> Result<String, DemoError> {
        // Where it cannot be written there is no answer either.
        let _ = self.to.write_all(format!("{statement};\n").as_bytes()).await;
        if let Ok(Some(row)) = self.from.next_line().await {
            return Ok(row);
        }
        let mut reason = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut reason).await;
        }
        Err(DemoError::Warehouse { what: what.to_owned(), reason: reason.trim_end().to_owned() })
    }
}

/// [`PROGRAMS`] in `PATH`, or where Debian has them.
fn find_programs() -> Result<[PathBuf; 3], DemoError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    match PROGRAMS.map(find) {
        [Some(install), Some(server), Some(client)] => Ok([install, server, client]),
        _ => Err(DemoError::NoServer {
            server: "MariaDB",
            programs: "mariadb-install-db, mariadbd and mariadb",
            package: "mariadb-server",
            searched: format!("{}, {}", path.display(), FOLDERS.join(", ")),
        }),
    }
}
