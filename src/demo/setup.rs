//! Where the demo keeps its things and what it writes before anything starts: the configuration that anyone could have
//! written by hand, the mappings, and the command lines of its children.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::getuid;

use super::erp::{self, DATABASE, READER, SLOT};
use super::error::DemoError;
use super::live::Live;
use super::process::Program;
use super::server::{free_port, random_password};
use super::warehouse;

/// The environment variables that hold the readers' passwords; the configuration only names them.
const PASSWORD_VARIABLE: &str = "ERP_PASSWORD";
const WEST_PASSWORD_VARIABLE: &str = "WEST_PASSWORD";

/// The folder and the addresses of one demo.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The folder of everything.
    pub(crate) dir: PathBuf,
    executable: PathBuf,
    temporary: bool,
    listen: u16,
    planner: u16,
    /// The warehouse's port and its reader's password; tests have the ERP alone.
    west: Option<(u16, String)>,
}

impl Setup {
    /// Makes the folder: `dir`, which must be empty or missing, or a temporary one. `executable` is the `syncline` to run.
    ///
    /// # Errors
    /// [`DemoError`] naming the folder.
    pub(crate) fn new(dir: Option<PathBuf>, executable: PathBuf) -> Result<Self, DemoError> {
        let temporary = dir.is_none();
        let dir = match dir {
            Some(dir) => dir,
            None => temporary_folder()?,
        };
        let dir = std::path::absolute(&dir).map_err(DemoError::file("find", &dir))?;
        if temporary || !dir.exists() {
            fs::create_dir_all(&dir).map_err(DemoError::file("make", &dir))?;
            let_pass(&dir)?;
        }
        if fs::read_dir(&dir).map_err(DemoError::file("read", &dir))?.next().is_some() {
            return Err(DemoError::NotEmpty { path: dir });
        }
        Ok(Self { dir, executable, temporary, listen: free_port()?, planner: free_port()?, west: None })
    }

    /// Has the warehouse that listens at `port` be read as well, from the next [`Setup::write_files`] on.
    pub(crate) fn add_warehouse(&mut self, port: u16, reader_password: String) {
        self.west = Some((port, reader_password));
    }

    /// Where the ERP's server and the warehouse's have their files.
    pub(crate) fn servers(&self) -> [PathBuf; 2] {
        ["postgres", "mariadb"].map(|server| self.dir.join(server))
    }

    /// Removes a temporary folder; of one that was asked for, the servers' files only, which are of no use to anybody.
    ///
    /// # Errors
    /// [`DemoError::File`] where it cannot be removed.
    pub(crate) fn clean_up(&self) -> Result<(), DemoError> {
        let removed = if self.temporary { vec![self.dir.clone()] } else { self.servers().into() };
        for folder in removed.iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder).map_err(DemoError::file("remove", folder))?;
        }
        if !self.temporary {
            tell(&format!("kept       {}, as asked; what is in the lake:", self.dir.display()));
            tell(&format!("           {}", self.duckdb_query()));
        }
        Ok(())
    }

    /// Writes `syncline.toml` and the mappings.
    ///
    /// # Errors
    /// [`DemoError::File`] naming the path.
    pub(crate) fn write_files(&self, server_port: u16) -> Result<(), DemoError> {
        let mappings = self.dir.join("mappings");
        erp::write_mappings(&mappings)?;
        if self.west.is_some() {
            warehouse::write_mappings(&mappings)?;
        }
        let path = self.config();
        fs::write(&path, self.config_text(server_port)).map_err(DemoError::file("write", &path))
    }

    fn config_text(&self, server_port: u16) -> String {
        format!(
            r#"# Relative paths are relative to this file.

[daemon]
data_dir = "data"
listen = "{listen}"

[sources.erp]
type = "postgres"
url = "postgres://{READER}@127.0.0.1:{server_port}/{DATABASE}"
password = {{ env = "{PASSWORD_VARIABLE}" }}
tables = ["meridian.*"]
slot = "{SLOT}"
publication = "{SLOT}"
{west}
[mappings]
dir = "mappings"

[sinks.planning]
type = "planning"
url = "{planner}/pdx/v1"

[sinks.lake]
type = "lake"
url = "lake"
flush_every = "5s"
"#,
            listen = self.listen(),
            west = self.west.as_ref().map(|(port, _)| west_text(*port)).unwrap_or_default(),
            planner = self.planner_url(),
        )
    }

    /// The receiver of the planning deltas.
    pub(crate) fn planner(&self) -> Program {
        let arguments = vec![
            "planner".into(),
            "--listen".into(),
            format!("127.0.0.1:{}", self.planner),
            "--db".into(),
            self.dir.join("planner.sqlite").display().to_string(),
        ];
        let (executable, log) = (self.executable.clone(), self.dir.join("planner.log"));
        Program { executable, name: "syncline planner", arguments, environment: Vec::new(), log }
    }

    /// The daemon.
    pub(crate) fn daemon(&self, password: &str) -> Program {
        self.run("syncline run", &[], password)
    }

    /// The daemon, until everything is delivered.
    pub(crate) fn drain(&self, password: &str) -> Program {
        self.run("syncline run --drain", &["--drain", "--summary", "json"], password)
    }

    fn run(&self, name: &'static str, options: &[&str], password: &str) -> Program {
        let mut arguments = vec!["run".to_owned(), "--config".to_owned(), self.config().display().to_string()];
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let mut environment = vec![(PASSWORD_VARIABLE, password.to_owned())];
        environment.extend(self.west.iter().map(|(_, password)| (WEST_PASSWORD_VARIABLE, password.clone())));
        Program { executable: self.executable.clone(), name, arguments, environment, log: self.daemon_log() }
    }

    /// Where the daemon's messages go.
    pub(crate) fn daemon_log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Where the daemon's control API listens.
    pub(crate) fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.listen)
    }

    /// Where the planner listens.
    pub(crate) fn planner_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.planner)
    }

    /// What to watch the daemon with.
    pub(crate) fn live(&self) -> Live {
        Live::new(http(), &self.listen())
    }

    /// A question to the lake, to be pasted into a shell.
    pub(crate) fn duckdb_query(&self) -> String {
        let table = self.dir.join("lake/current/inventory_balance");
        format!(
            "duckdb -c \"INSTALL delta; LOAD delta; SELECT location_id, count(*) AS items, sum(on_hand) AS on_hand, \
             sum(available) AS available FROM delta_scan('file://{}') GROUP BY ALL ORDER BY ALL\"",
            table.display()
        )
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("syncline.toml")
    }
}

/// The warehouse's section of the configuration.
fn west_text(port: u16) -> String {
    let (source, database, reader) = (warehouse::SOURCE, warehouse::DATABASE, warehouse::READER);
    format!(
        r#"
[sources.{source}]
type = "mariadb"
url = "mariadb://{reader}@127.0.0.1:{port}/"
password = {{ env = "{WEST_PASSWORD_VARIABLE}" }}
tables = ["{database}.*"]
"#
    )
}

/// A folder of our own, under a name that nobody can take or link elsewhere before.
fn temporary_folder() -> Result<PathBuf, DemoError> {
    let dir = std::env::temp_dir().join(format!("syncline-demo-{}", random_password()?));
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(DemoError::file("make", &dir))?;
    Ok(dir)
}

/// Lets the server's user, who is another one where we are root, pass through a folder that we made.
fn let_pass(dir: &Path) -> Result<(), DemoError> {
    if getuid().is_root() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).map_err(DemoError::file("open", dir))?;
    }
    Ok(())
}

/// Prints a line; where standard output is gone, nobody misses it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A client for what runs on this machine: a proxy of the environment is for others.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client without settings of its own")
}

/// Whether a folder is one that the demo would take.
#[cfg(test)]
fn is_taken(dir: &Path) -> bool {
    matches!(Setup::new(Some(dir.to_owned()), PathBuf::from("syncline")), Err(DemoError::NotEmpty { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_files_in_it_is_not_touched() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(!is_taken(dir.path()));
        fs::write(dir.path().join("precious"), "data").expect("write");
        assert!(is_taken(dir.path()));
    }

    #[test]
    fn the_passwords_are_in_the_environment_and_never_in_a_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut setup = Setup::new(Some(dir.path().join("demo")), PathBuf::from("syncline")).expect("an empty folder");
        setup.write_files(5432).expect("write");
        let alone = fs::read_to_string(setup.config()).expect("read");
        assert!(alone.contains("password = { env = \"ERP_PASSWORD\" }") && !alone.contains("mariadb"), "{alone}");
        assert_eq!(setup.daemon("s3cret").environment.len(), 1);
        setup.add_warehouse(3306, "s3cret of the west".to_owned());
        setup.write_files(5432).expect("write");
        let config = fs::read_to_string(setup.config()).expect("read");
        assert!(
            config.contains("password = { env = \"WEST_PASSWORD\" }\ntables = [\"wms.*\"]\n\n[mappings]"),
            "{config}"
        );
        let daemon = setup.daemon("s3cret");
        assert_eq!(daemon.environment.len(), 2);
        assert!(!config.contains("s3cret") && !daemon.arguments.iter().any(|argument| argument.contains("s3cret")));
    }
}
