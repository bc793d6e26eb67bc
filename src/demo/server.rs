//! A private PostgreSQL: made in a folder of its own, on a free port, gone with the demo.
//!
//! It runs as it would in production (`fsync` on, passwords checked), since the demo claims that nothing is lost. It is
//! a child process: stopped by its own pid, and in a process group of its own, so that Ctrl-C at the terminal reaches
//! us first and the order of stopping stays ours. The server refuses to run as root, therefore a root caller lends it
//! to the user `postgres` or `nobody`.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getuid};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use super::error::DemoError;
use super::process::{signal, tail};

/// A cold start on a slow disk takes a few seconds; more means that it will not start.
const START_MAX: Duration = Duration::from_secs(60);
/// A fast shutdown writes one checkpoint.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked whether it is there.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Name of the superuser, who owns the ERP's tables.
pub(crate) const OWNER: &str = "meridian";

/// A running private server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    guard: Child,
    port: u16,
    password: String,
    log: PathBuf,
}

impl Server {
    /// Makes a cluster in `folder`, which must not exist, and starts it with `settings` on top of our own.
    ///
    /// # Errors
    /// [`DemoError`] naming the missing program, the folder, or the end of the server's log.
    pub(crate) async fn start(folder: &Path, settings: &[(&str, &str)]) -> Result<Self, DemoError> {
        let programs = find_programs()?;
        let user = unprivileged_user()?;
        let password = random_password()?;
        let data = folder.join("data");
        let log = folder.join("server.log");
        fs::create_dir_all(folder).map_err(DemoError::file("make", folder))?;
        if let Some(user) = user {
            ensure_enterable(folder, user)?;
        }
        let password_file = folder.join("password");
        fs::write(&password_file, &password).map_err(DemoError::file("write", &password_file))?;
        fs::set_permissions(&password_file, Permissions::from_mode(0o600))
            .map_err(DemoError::file("protect", &password_file))?;
        for path in [folder, &password_file] {
            if let Some((uid, gid)) = user {
                chown(path, Some(uid), Some(gid)).map_err(DemoError::file("hand over", path))?;
            }
        }
        let log_file = fs::File::create(&log).map_err(DemoError::file("write", &log))?;
        let command = |program: &str, log_file: fs::File| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file).process_group(0);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let again = || log_file.try_clone().map_err(DemoError::file("write", &log));

        let mut initdb = command("initdb", again()?);
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
        let status = initdb.status().await.map_err(spawn("initdb"))?;
        fs::remove_file(&password_file).map_err(DemoError::file("remove", &password_file))?;
        if !status.success() {
            return Err(DemoError::Ended { program: "initdb".into(), status, tail: tail(&log), log });
        }

        let port = free_port()?;
        let mut postgres = command("postgres", again()?);
        postgres.arg("-D").arg(&data).arg("-p").arg(port.to_string()).arg("-k").arg("");
        let ours =
            [("listen_addresses", "127.0.0.1"), ("wal_level", "logical"), ("max_wal_size", "2GB"), ("timezone", "UTC")];
        for (name, value) in ours.iter().chain(settings) {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = postgres.spawn().map_err(spawn("postgres"))?;
        let guard = guard(&child).map_err(spawn("sh"))?;
        let mut server = Self { child, guard, port, password, log };
        server.wait_until_ready().await?;
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
    pub(crate) async fn stop(mut self) -> Result<(), DemoError> {
        signal(&self.child, Signal::INT);
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(waited) => {
                // Its pid is free for another process now, which is none of the guard's business.
                let _ = self.guard.start_kill();
                waited.map(drop).map_err(spawn("postgres"))
            }
            Err(_) => Err(DemoError::TooSlow {
                program: "postgres".into(),
                what: "stop",
                seconds: STOP_MAX.as_secs(),
                log: self.log.clone(),
            }),
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), DemoError> {
        let connection = self.connection("postgres");
        let ready = async {
            let mut poll = tokio::time::interval(POLL_EVERY);
            loop {
                poll.tick().await;
                if let Some(status) = self.child.try_wait().map_err(spawn("postgres"))? {
                    let (log, tail) = (self.log.clone(), tail(&self.log));
                    return Err(DemoError::Ended { program: "postgres".into(), status, tail, log });
                }
                if connect(&connection).await.is_ok() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(START_MAX, ready).await.unwrap_or_else(|_| {
            Err(DemoError::TooSlow {
                program: "postgres".into(),
                what: "start",
                seconds: START_MAX.as_secs(),
                log: self.log.clone(),
            })
        })
    }
}

/// A shell that tells a server to quit when this process is gone, however it went: the server is not ours to teach, and
/// may run as a user who cannot even see our executable.
fn guard(server: &Child) -> std::io::Result<Child> {
    let pid = server.id().unwrap_or_default().to_string();
    // The read ends with the pipe, whose other end nobody but us holds.
    Command::new("sh")
        .args(["-c", "read -r _; kill -QUIT \"$1\"", "sh", &pid])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// A server that nobody stopped in order is told to quit at once; it recovers from its log, should anyone care.
impl Drop for Server {
    fn drop(&mut self) {
        signal(&self.child, Signal::QUIT);
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

fn spawn(program: &str) -> impl FnOnce(std::io::Error) -> DemoError {
    let program = program.to_owned();
    |source| DemoError::Spawn { program, source }
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
    Err(DemoError::NoServer { searched: format!("/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, {}", path.display()) })
}

/// Whom to run as, as (uid, gid); `None` keeps the caller.
fn unprivileged_user() -> Result<Option<(u32, u32)>, DemoError> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let path = Path::new("/etc/passwd");
    let users = fs::read_to_string(path).map_err(DemoError::file("read", path))?;
    let ids = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).map(Some).ok_or(DemoError::NoUnprivilegedUser)
}

/// The server's user must be able to enter its folder, and with it every folder above.
fn ensure_enterable(folder: &Path, (uid, gid): (u32, u32)) -> Result<(), DemoError> {
    let mut above: Vec<&Path> = folder.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        // Asked of the system in that user's name, since modes alone do not say all of it.
        let entered = std::process::Command::new("true").current_dir(path).uid(uid).gid(gid).status();
        match entered {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(DemoError::Closed { path: path.to_owned(), uid });
            }
            Err(error) => return Err(spawn("true")(error)),
        }
    }
    Ok(())
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
