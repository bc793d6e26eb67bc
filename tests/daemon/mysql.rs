//! A MariaDB from its tables to the planner: rights, kills while it is copied and followed, and what it does not offer.
//!
//! The oracle is the server itself, running the mapping's sum over the final tables. With `SYNCLINE_MYSQL` or
//! `SYNCLINE_MARIADB`, as of the tests of capture, all of it is about a MySQL or a newer MariaDB.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use syncline_capture::mysql::Host;
use tempfile::TempDir;

use self::server::{Database, Server};
use super::demo::process::Process;
use super::demo::setup::Setup;
use super::disasters::{Random, kill, seed};
use super::world::{SYNCLINE, eventually, get};

#[path = "../../capture/tests/mysql/server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the server of other tests, which look at more of it")]
mod server;

const MAPPING: &str = "SELECT s.company AS company_id, s.article AS item_id, s.site AS location_id,
       convert(s.qty, u.num, 1) AS on_hand
FROM   stock s
JOIN   unit u ON u.code = s.unit
WHERE  s.company = '0100'
";
/// The same, as the server computes it.
const ORACLE: &str = "SELECT s.article, s.site, SUM(s.qty * u.num) FROM stock s JOIN unit u ON u.code = s.unit \
                      WHERE s.company = '0100' GROUP BY s.article, s.site";
/// Rows of several frames, of which some do not count.
const TABLES: &str = "CREATE TABLE unit (code varchar(4) PRIMARY KEY, num int NOT NULL);
INSERT INTO unit VALUES ('EA', 1), ('CT', 12), ('PF', 480);
CREATE TABLE stock (id int PRIMARY KEY, company char(4) NOT NULL, article varchar(10) NOT NULL, site varchar(4) NOT NULL,
                    unit varchar(4) NOT NULL, qty decimal(12,3) NOT NULL, note varchar(200) CHARACTER SET latin1);
INSERT INTO stock SELECT seq, IF(seq % 9 = 0, '0200', '0100'), CONCAT('A', seq % 211), CONCAT('S', seq % 7),
                         ELT(1 + seq % 4, 'EA', 'CT', 'PF', 'XX'), seq / 8, REPEAT('ä', seq % 50) FROM seq_1_to_40000;
CREATE TABLE secret (id int PRIMARY KEY);";
const PASSWORD: &str = "kein Geheimnis";
/// Transactions of the day that is killed into.
const STEPS: u64 = 120;
const KILLS: u64 = 6;

/// A distributor's stock on a MariaDB, the planner, and what it takes to run the daemon.
struct Shop {
    setup: Setup,
    planner: Process,
    database: Arc<Database>,
    _dir: TempDir,
}

impl Shop {
    /// The user of the daemon is there, and may do nothing.
    async fn new(settings: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = Arc::new(Server::start(settings));
        let database = server.database(TABLES);
        database.sql(&format!("CREATE USER syncline@localhost IDENTIFIED BY '{PASSWORD}'"));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup::new(Some(dir.path().join("shop")), PathBuf::from(SYNCLINE)).expect("an empty folder");
        fs::create_dir_all(setup.dir.join("mappings/shop")).expect("make a folder");
        let Host::Unix(socket) = &database.config.hosts[0].host else { panic!("it listens on a socket") };
        let config = format!(
            r#"[daemon]
listen = "{listen}"

[sources.shop]
type     = "mariadb"
url      = "mariadb://syncline@localhost/?socket={socket}"
password = {{ env = "ERP_PASSWORD" }}
tables   = ["{database}.*", "!{database}.secret"]

[mappings]
dir = "mappings"

[sinks.planning]
type = "planning"
url  = "{planner}/pdx/v1"
"#,
            listen = setup.listen(),
            socket = socket.display(),
            database = database.name,
            planner = setup.planner_url()
        );
        fs::write(setup.config(), config).expect("write the configuration");
        fs::write(setup.dir.join("mappings/shop/inventory_balance.sql"), MAPPING).expect("write the mapping");
        let planner = setup.planner().start().expect("the planner starts");
        let shop = Self { setup, planner, database: Arc::new(database), _dir: dir };
        let stats = format!("{}/stats", shop.setup.planner_url());
        eventually("the planner answers", || async { get(&stats).await.is_ok() }).await;
        shop
    }

    /// What `check --sql` prints, and whether it saw everything.
    async fn script(&self) -> (bool, String) {
        let output = self.output(&["check", "--sql"]).await;
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    }

    /// Gives the user what it needs, as a DBA would.
    async fn grant(&self) {
        let (_, script) = self.script().await;
        self.run_as_root(&script);
    }

    fn run_as_root(&self, script: &str) {
        self.database.server.try_sql("mysql", script).unwrap_or_else(|error| panic!("{script}\n{error}"));
    }

    fn daemon(&self) -> Process {
        self.setup.daemon(PASSWORD).start().expect("the daemon starts")
    }

    async fn drain(&self) -> Value {
        let output = self.setup.drain(PASSWORD).output().await.unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str(output.lines().last().expect("a summary")).expect("the summary is JSON")
    }

    async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(SYNCLINE);
        command.args(arguments).arg("--config").arg(self.setup.config());
        command.env("ERP_PASSWORD", PASSWORD).kill_on_drop(true).output().await.expect("the command runs")
    }

    /// Runs a command to its end: whether it went well, and all that it said.
    async fn command(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.output(arguments).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    async fn assert_refused(&self, arguments: &[&str], wanted: &str) {
        let (ok, text) = self.command(arguments).await;
        assert!(!ok && text.contains(wanted), "{arguments:?}: {text}");
    }

    /// What the daemon says; null while it does not answer.
    async fn status(&self) -> Value {
        let Ok(answer) = get(&format!("http://{}/status", self.setup.listen())).await else { return Value::Null };
        answer.json::<Value>().await.unwrap_or_default()
    }

    /// What it says of the source.
    async fn source(&self) -> Value {
        self.status().await["sources"]["shop"].take()
    }

    /// Waits until nothing is copied and all that was read is folded; gives the status then.
    async fn settled(&self) -> Value {
        let is_settled =
            |status: &Value| status["sources"]["shop"]["state"] == "streaming" && status["transform"]["behind"] == 0;
        eventually("all to be folded", || async { is_settled(&self.status().await) }).await;
        self.status().await
    }

    /// Some rows change, and the server forgets that it logged so.
    fn change_and_purge(&self) {
        self.database.sql("DELETE FROM stock WHERE id IN (2, 5); FLUSH BINARY LOGS");
        self.database.sql("INSERT INTO stock VALUES (99999, '0100', 'A1', 'S1', 'EA', 5, ''); FLUSH BINARY LOGS");
        let logs = || self.database.sql("SHOW BINARY LOGS");
        let newest = logs().lines().last().and_then(|line| line.split('\t').next()).expect("a file").to_owned();
        // A file that the last session still holds is not purged.
        server::eventually("the log to be purged", || {
            self.database.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
            logs().lines().count() == 1
        });
    }

    /// What the planner holds by item and location, without what is zero: sums of which nothing is left stay there.
    async fn delivered(&self) -> BTreeMap<(String, String), String> {
        let mut held = BTreeMap::new();
        let mut after = String::new();
        loop {
            let mut url = reqwest::Url::parse(&self.setup.planner_url()).expect("a url");
            url.set_path("/entities/inventory_balance");
            url.query_pairs_mut().append_pair("limit", "10000").append_pair("after", &after);
            let page: Value = get(url.as_str()).await.expect("it answers").json().await.expect("JSON");
            for row in page["rows"].as_array().expect("rows") {
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let key = (text(&row["key"]["item_id"]), text(&row["key"]["location_id"]));
                let on_hand = plain(&text(&row["data"]["on_hand"]));
                if on_hand != "0" {
                    assert_eq!(held.insert(key, on_hand), None, "twice: {row}");
                }
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return held,
            }
        }
    }

    /// What the server says that it should hold.
    fn expected(&self) -> BTreeMap<(String, String), String> {
        let rows = self.database.sql(ORACLE);
        let row = |line: &str| {
            let values: Vec<&str> = line.split('\t').collect();
            ((values[0].to_owned(), values[1].to_owned()), plain(values[2]))
        };
        rows.lines().map(row).filter(|(_, on_hand)| on_hand != "0").collect()
    }

    /// They agree sum by sum, and no row of the planner was ever replaced by an older one.
    async fn assert_planner_equals_source(&self) {
        let (expected, delivered) = (self.expected(), self.delivered().await);
        assert!(expected.len() > 500, "{} sums", expected.len());
        let differ = expected.iter().filter(|(key, value)| delivered.get(*key) != Some(*value)).take(5);
        let differ: Vec<_> = differ.map(|(key, value)| (key, value, delivered.get(key))).collect();
        assert!(differ.is_empty() && delivered.len() == expected.len(), "{} rows: {differ:?}", delivered.len());
        let stats = get(&format!("{}/stats", self.setup.planner_url())).await.expect("an answer");
        let stats: Value = stats.json().await.expect("JSON");
        assert_eq!(stats["went_backwards"], 0, "{stats}");
    }

    async fn stop(self) {
        self.planner.stop().await.expect("the planner stops");
    }
}

/// A decimal without zeros at its end.
fn plain(decimal: &str) -> String {
    let digits = if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.') } else { decimal };
    digits.to_owned()
}

/// One transaction of the day: rows change, come, go, move to other keys and other sums; now and then a joined row changes, much
/// at once, or nothing after all.
fn step(k: u64) -> String {
    let mut sql = format!(
        "START TRANSACTION; UPDATE stock SET qty = qty + 1.125 WHERE id % 397 = {k};
         INSERT INTO stock VALUES (100000 + {k}, '0100', CONCAT('B', {k} % 5), 'S1', 'CT', 3.25, NULL);
         DELETE FROM stock WHERE id IN ({k} * 11, 100000 + {k} - 50);
         UPDATE stock SET id = id + 200000 WHERE id = {k} * 13;
         UPDATE stock SET site = 'S9', company = IF(company = '0100', '0200', '0100') WHERE id = {k} * 17;"
    );
    if k.is_multiple_of(10) {
        sql.push_str("UPDATE unit SET num = num + 1 WHERE code = 'CT';");
    }
    if k.is_multiple_of(40) {
        sql.push_str("UPDATE stock SET qty = qty + 1, note = REPEAT('ß', 100);");
    }
    sql.push_str(if k % 7 == 3 { "ROLLBACK" } else { "COMMIT" });
    sql
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_mariadb_is_lost_or_doubled_when_the_daemon_is_killed_while_it_copies_and_follows() {
    let shop = Shop::new(&[]).await;
    shop.grant().await;
    // Killed once it has begun to copy; whether it is through by then does not matter.
    let mut daemon = shop.daemon();
    eventually("the copy goes on", || async { shop.source().await["reads"].as_u64() >= Some(1) }).await;
    kill(&mut daemon).await;

    let done = Arc::new(AtomicU64::new(0));
    let traffic = tokio::task::spawn_blocking({
        let (database, done) = (Arc::clone(&shop.database), Arc::clone(&done));
        move || {
            for k in 1..=STEPS {
                database.sql(&step(k));
                done.store(k, Ordering::Release);
            }
        }
    });
    let mut random = Random(seed());
    for nth in 0..KILLS {
        let mut daemon = shop.daemon();
        let moment = nth * STEPS / KILLS + random.below(STEPS / KILLS);
        eventually("the day goes on", || std::future::ready(done.load(Ordering::Acquire) >= moment)).await;
        kill(&mut daemon).await;
    }
    let daemon = shop.daemon();
    traffic.await.expect("the traffic is done");
    let expected = shop.expected();
    eventually("all of the day arrives", || async { shop.delivered().await == expected }).await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");

    shop.database.sql("UPDATE unit SET num = 24 WHERE code = 'CT'; DELETE FROM stock WHERE id % 3 = 0");
    let drained = shop.drain().await;
    assert!(drained["deletes"].as_u64() > Some(10_000) && drained["reads"] == 0, "{drained}");
    shop.assert_planner_equals_source().await;
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_whose_log_was_purged_is_read_anew_and_costs_the_targets_only_what_changed() {
    let shop = Shop::new(&[]).await;
    shop.grant().await;
    shop.drain().await;
    shop.assert_planner_equals_source().await;
    shop.change_and_purge();
    let closed = shop.drain().await;
    assert!(closed["reads"].as_u64() >= Some(39_999), "all rows were read: {closed}");
    assert_eq!(closed["deltas"], 3, "three sums are others: {closed}");
    shop.assert_planner_equals_source().await;
    let said = fs::read_to_string(shop.setup.daemon_log()).expect("the daemon's log");
    assert!(said.contains("changes are lost to the log"), "{said}");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_mariadb_that_is_doubted_is_read_anew_and_only_what_was_wrong_is_told() {
    let shop = Shop::new(&[]).await;
    shop.grant().await;
    let mut daemon = shop.daemon();
    let copied = shop.expected();
    eventually("the tables to be copied", || async { shop.delivered().await == copied }).await;
    let before = shop.settled().await;
    let table = format!("{}.stock", shop.database.name);
    let reads = |status: &Value| status["sources"]["shop"]["reads"].as_u64().expect("a number");
    for table in [&table, &format!("{}.unit", shop.database.name)] {
        let (ok, text) = shop.command(&["snapshot", "shop", table]).await;
        assert!(ok && text.starts_with(&format!("reading {table} of shop anew")), "{text}");
        shop.settled().await;
    }
    let after = shop.settled().await;
    assert_eq!(reads(&after), reads(&before) + 40_003, "each row once more");
    assert_eq!(after["transform"]["deltas"], before["transform"]["deltas"], "and none of them is another");
    for (table, wanted) in
        [("stock", "a table is named with its schema"), ("elsewhere.stock", "elsewhere.stock is not read")]
    {
        shop.assert_refused(&["snapshot", "shop", table], wanted).await;
    }
    // What nobody tells of.
    shop.database
        .sql("SET sql_log_bin = 0; DELETE FROM stock WHERE id IN (2, 5); UPDATE stock SET qty = qty + 1 WHERE id = 6");
    let (ok, text) = shop.command(&["snapshot", "shop", &table]).await;
    assert!(ok, "{text}");
    kill(&mut daemon).await;
    let daemon = shop.daemon();
    let expected = shop.expected();
    eventually("what was wrong is mended", || async { shop.delivered().await == expected }).await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    shop.assert_planner_equals_source().await;
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_whose_log_was_purged_is_read_again_by_hand_where_it_is_to_stop() {
    let shop = Shop::new(&[]).await;
    let config = fs::read_to_string(shop.setup.config()).expect("the configuration");
    let careful = config.replace("[mappings]", "log_gap = \"stop\"\n\n[mappings]");
    fs::write(shop.setup.config(), careful).expect("write the configuration");
    shop.grant().await;
    shop.drain().await;
    shop.assert_planner_equals_source().await;
    shop.change_and_purge();
    shop.assert_refused(&["run", "--drain"], "have `syncline replay --reread` copy the tables again").await;

    let (ok, text) = shop.command(&["replay", "--reread"]).await;
    assert!(ok && text.contains("the daemon reads all of shop again"), "{text}");
    let again = shop.drain().await;
    assert!(again["reads"].as_u64() >= Some(39_999), "all rows were read: {again}");
    shop.assert_planner_equals_source().await;
    let said = fs::read_to_string(shop.setup.daemon_log()).expect("the daemon's log");
    let told = said.lines().rfind(|line| line.contains("folded again; what differs is on its way")).unwrap_or_default();
    assert!(told.contains("deltas=3"), "three sums are others: {told}\n{again}");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dba_is_told_what_a_mariadb_and_its_user_lack_and_grants_no_more_than_that() {
    let shop = Shop::new(&["--binlog-row-metadata=MINIMAL", "--binlog-row-image=MINIMAL"]).await;
    let (ok, text) = shop.command(&["check"]).await;
    assert!(!ok, "{text}");
    // A MySQL says to everybody where its log ends.
    let monitor = "error    source shop: user `syncline`@`localhost` lacks the right BINLOG MONITOR";
    assert_eq!(text.contains(monitor), server::mysql().is_none(), "{text}");
    for wanted in [
        "error    source shop: user `syncline`@`localhost` lacks the right REPLICATION SLAVE, without which the log is not sent",
        "error    source shop: user `syncline`@`localhost` lacks the right SELECT",
        "error    source shop: setting binlog_row_metadata is \"MINIMAL\"",
        "warning  source shop: setting binlog_row_image is \"MINIMAL\"",
        "info     mapping shop/inventory_balance: is checked when its sources can be read",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    shop.assert_refused(&["run", "--drain"], "binlog_row_metadata").await;

    let (ok, script) = shop.script().await;
    assert!(ok, "nothing is out of sight: {script}");
    shop.run_as_root(&script);
    let (ok, text) = shop.command(&["check"]).await;
    assert!(ok && text.contains("ok       source shop: ") && text.contains("ready for `syncline run`"), "{text}");
    let fits = format!("ok       mapping shop/inventory_balance: fits {0}.stock, {0}.unit", shop.database.name);
    assert!(text.contains(&fits), "{text}");
    let grants = shop.database.sql("SHOW GRANTS FOR syncline@localhost");
    assert!(!grants.contains("ALL PRIVILEGES") && !grants.contains("INSERT"), "{grants}");
    shop.drain().await;
    shop.assert_planner_equals_source().await;

    // What stands in comments takes it back.
    let undo = script.lines().filter_map(|line| line.strip_prefix("--   "));
    shop.run_as_root(&undo.collect::<Vec<_>>().join("\n"));
    shop.assert_refused(&["check"], "lacks the right REPLICATION SLAVE").await;
    assert_eq!(shop.database.sql("SELECT @@GLOBAL.binlog_row_metadata"), "MINIMAL");
    shop.run_as_root("DROP USER syncline@localhost");
    shop.assert_refused(&["check"], "error    source shop: ").await;
    let (ok, script) = shop.script().await;
    assert!(!ok && script.contains("-- CREATE USER `syncline`@`localhost` IDENTIFIED BY '...';"), "{script}");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_says_how_far_it_is_and_refuses_at_once_what_only_postgresql_has() {
    let shop = Shop::new(&[]).await;
    shop.grant().await;
    let daemon = shop.daemon();
    eventually("it is followed", || async { shop.source().await["state"] == "streaming" }).await;
    let position = || async { shop.source().await["position"].as_str().unwrap_or_default().to_owned() };
    shop.database.sql("INSERT INTO unit VALUES ('XX', 2)");
    let done = if server::mysql().is_some() { "gtid_executed" } else { "gtid_binlog_pos" };
    let now = shop.database.sql(&format!("SELECT @@GLOBAL.{done}"));
    eventually("the position is that of the server", || async { position().await == now }).await;
    eventually("nothing is left to read", || async { shop.source().await["behind_bytes"] == 0 }).await;
    let (ok, text) = shop.command(&["status"]).await;
    assert!(ok && text.contains(&now), "{text}");
    let asof = shop.database.sql("SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')");
    let ready = format!("http://{}/ready?asof={asof}", shop.setup.listen());
    let is_ready = || async { get(&ready).await.is_ok_and(|answer| answer.status().is_success()) };
    eventually("all that was committed by now is known to be everywhere", is_ready).await;
    shop.assert_planner_equals_source().await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    shop.assert_refused(&["run", "--until", "shop=0-7-1"], "MySQL and MariaDB have no position to wait for").await;
    shop.stop().await;
}
