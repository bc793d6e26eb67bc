//! The private PostgreSQL of the ERP: made in a folder of its own, on a free port, gone with the demo.
//!
//! It runs as it would in production (`fsync` on, passwords checked), since the demo claims that nothing is lost.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use super::error::DemoError;
use super::private::{Private, Room};

/// Name of the superuser, who owns the ERP's tables.
pub(crate) const OWNER: &str = "meridian";

/// A running private server.
#[derive(Debug)]
pub(crate) struct Server {
    private: Private,
    port: u16,
    password: String,
}

impl Server {
    /// Makes a cluster in `folder`, which must not exist, and starts it with `settings` on top of our own.
    ///
    /// # Errors
    /// [`DemoError`] naming the missing program, the folder, or the end of the server's log.
    pub(crate) async fn start(folder: &Path, settings: &[(&str, &str)]) -> Result<Self, DemoError> {
        let programs = find_programs()?;
        let room = Room::make("PostgreSQL", "postgres", folder)?;
        let password = random_password()?;
        let data = folder.join("data");
        let password_file = room.secret("password", &password)?;
        let mut initdb = room.command(&programs.join("initdb"))?;
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password_file).args([
            "--username",
            OWNER,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
        ]);
        let made = room.run("initdb", initdb).await;
        fs::remove_file(&password_file).map_err(DemoError::file("remove", &password_file))?;
        made?;

        let port = free_port()?;
        let mut postgres = room.command(&programs.join("postgres"))?;
        postgres.arg("-D").arg(&data).arg("-p").arg(port.to_string()).arg("-k").arg("");
        let ours =
            [("listen_addresses", "127.0.0.1"), ("wal_level", "logical"), ("max_wal_size", "2GB"), ("timezone", "UTC")];
        for (name, value) in ours.iter().chain(settings) {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        // A fast shutdown writes one checkpoint.
        let private = room.start("postgres", Signal::INT, postgres)?;
        let mut server = Self { private, port, password };
        let connection = server.connection("postgres");
        server.private.wait_until(async || connect(&connection).await.is_ok()).await?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How a client of a database logs in as the owner; holds the password.
    pub(crate) fn connection(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={OWNER} password={} dbname={database}", self.port, self.password)
    }

    /// Stops it with a checkpoint and waits.
    ///
    /// # Errors
    /// [`DemoError::TooSlow`] where it does not stop; it is then told to quit at once.
    pub(crate) async fn stop(self) -> Result<(), DemoError> {
        self.private.stop().await
    }
}

/// A client and the task that carries its bytes; the task ends with the client.
#[derive(Debug)]
pub(crate) struct Session {
    /// To work with.
    pub(crate) client: Client,
    carrier: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// Logs in.
///
/// # Errors
/// The server's or the system's reason.
pub(crate) async fn connect(connection: &str) -> Result<Session, tokio_postgres::Error> {
    let (client, carried) = tokio_postgres::connect(connection, NoTls).await?;
    // An error of the connection reaches the client with its next statement.
    let carrier = tokio::spawn(async move { drop(carried.await) });
    Ok(Session { client, carrier })
}

/// The folder that has both programs: the newest of Debian's and Red Hat's, then PATH.
pub(crate) fn find_programs() -> Result<PathBuf, DemoError> {
    let mut packaged: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|v| v.parse().ok());
            packaged.extend(version.map(|version: u32| (version, entry.path().join("bin"))));
        }
    }
    packaged.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = packaged.into_iter().map(|(_, folder)| folder).chain(std::env::split_paths(&path));
    for folder in candidates {
        if folder.join("initdb").is_file() && folder.join("postgres").is_file() {
            return Ok(folder);
        }
    }
    Err(DemoError::NoServer {
        server: "PostgreSQL",
        programs: "initdb and postgres",
        package: "postgresql",
        searched: format!("/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, {}", path.display()),
    })
}

/// Ports that the system gives to no outgoing connection: one of its own range may be taken before we listen.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that is free now; no two calls of a process give the same one soon.
pub(crate) fn free_port() -> Result<u16, DemoError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that start together begin at other places.
    let place = std::process::id().wrapping_mul(7_919);
    for _ in PORTS {
        let nth = place.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(nth).expect("within the range");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(DemoError::NoPort)?;
    listener.local_addr().map(|address| address.port()).map_err(DemoError::NoPort)
}

/// 128 bits from the system, in hex.
pub(crate) fn random_password() -> Result<String, DemoError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 16];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(DemoError::file("read", path))?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::process::getuid;

    use super::*;

    /// A folder that the server's user may enter, unlike the usual private one.
    pub(crate) fn open_folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("open it");
        dir
    }

    #[tokio::test]
    async fn a_folder_that_the_servers_user_cannot_enter_is_named_with_the_remedy() {
        // Only root lends the server to another user.
        if !getuid().is_root() {
            return;
        }
        let dir = open_folder();
        let private = dir.path().join("private");
        fs::create_dir(&private).expect("made");
        fs::set_permissions(&private, Permissions::from_mode(0o700)).expect("closed");
        let folder = private.join("demo/postgres");
        let text = Server::start(&folder, &[]).await.expect_err("closed").to_string();
        assert!(text.contains(&format!("cannot enter {};", private.display())), "{text}");
        assert!(text.contains(&format!("chmod o+x {}", private.display())) && text.contains("--dir"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_why() {
        let dir = open_folder();
        let error =
            Server::start(&dir.path().join("pg"), &[("wal_level", "logicality")]).await.expect_err("no such level");
        let text = error.to_string();
        assert!(matches!(error, DemoError::Ended { .. }) && text.contains("wal_level"), "{text}");
    }
}
