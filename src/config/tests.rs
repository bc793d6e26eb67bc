//! Settings that would have no effect, or only at some later time, are faults with their place.

use std::fs;
use std::path::Path;

use syncline_capture::mysql::{MySqlConfig, SnapshotMode, SpecialValues, Tls, Truncates};
use syncline_schemas::ident::TableId;

use super::*;

const SOURCE: &str = "[sources.erp]\ntype = \"postgres\"\nurl = \"postgres://syncline@127.0.0.1/erp\"\n";
const MAPPINGS: &str = "[mappings]\ndir = \"mappings\"\n";
const DISCARD: &str = "[sinks.null]\ntype = \"discard\"\n";
const PLANNING: &str = "[sinks.planning]\ntype = \"planning\"\nurl = \"http://127.0.0.1:7080/pdx/v1\"\n";
const SUPPLIER: &str = "SELECT 'C1' AS company_id, nr AS supplier_id, name AS name FROM lieferant";

/// A folder with one good mapping.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("mappings/erp")).expect("made");
    fs::write(folder.path().join("mappings/erp/supplier.sql"), SUPPLIER).expect("written");
    folder
}

fn read(folder: &Path, sections: &[&str]) -> Result<Config, String> {
    let file = folder.join("syncline.toml");
    fs::write(&file, sections.concat()).expect("written");
    Config::read(&file).map_err(|faults| faults.to_string())
}

fn faults(folder: &Path, sections: &[&str]) -> String {
    read(folder, sections).expect_err("it has faults")
}

#[test]
fn a_source_of_planning_outputs_is_refused_with_every_fault_and_holds_no_setting_of_a_database() {
    let folder = folder();
    fs::write(folder.path().join("hook.key"), "hunter2!").expect("written");
    let plan = |rest: &str| {
        let base = "[sources.plan]\ntype = \"planning_outputs\"\nurl = \"http://127.0.0.1:7080/pdx/v1\"\n";
        faults(folder.path(), &[&format!("{base}{rest}\n"), DISCARD])
    };
    let text = plan("outputs = [\"forecast\", \"item\"]\npoll_every = \"1ms\"\nslot = \"a\"");
    assert!(text.contains("syncline.toml:4: sources.plan.outputs has \"item\"; outputs are forecast, "), "{text}");
    assert!(text.contains("syncline.toml:5: sources.plan.poll_every is less than 100ms"), "{text}");
    assert!(text.contains("syncline.toml:6: sources.plan.slot: unknown key"), "{text}");
    let text = plan("webhook = { signing_key = { file = \"hook.key\" } }\ntoken = { env = \"NOT_SET_ANYWHERE\" }");
    assert!(
        text.contains("sources.plan.webhook has a signing_key that is no key") && !text.contains("hunter2"),
        "{text}"
    );
    assert!(text.contains("NOT_SET_ANYWHERE, which is not set"), "{text}");
    assert!(plan("webhook = {}").contains("sources.plan.webhook needs signing_key"));
    let sound = "[sources.plan]\ntype = \"planning_outputs\"\nurl = \"http://127.0.0.1:7080/pdx/v1\"\n\
                 outputs = [\"safety_stock\", \"forecast\", \"forecast\"]\n";
    let config = read(folder.path(), &[sound, DISCARD]).expect("sound");
    let [SourceConfig::Outputs(source)] = &config.sources[..] else { panic!("one source") };
    assert_eq!((&source.outputs[..], source.webhook_key.is_none()), (&["forecast", "safety_stock"][..], true));
}

const SHOP: &str = "[sources.shop]\ntype = \"mysql\"\nurl = \"mysql://syncline@db.example/\"\ntables = [\"shop.*\"]\n";

fn mysql(config: &Config) -> &MySqlConfig {
    let [SourceConfig::MySql(source)] = &config.sources[..] else { panic!("one source of MySQL") };
    source
}

fn ports(source: &MySqlConfig) -> Vec<u16> {
    source.hosts.iter().map(|address| address.port).collect()
}

#[test]
fn a_source_of_mysql_is_read_with_all_that_can_be_said_of_it() {
    let folder = folder();
    fs::write(folder.path().join("password"), "hunter2\n").expect("written");
    let config = read(folder.path(), &[SHOP, DISCARD]).expect("sound");
    let source = mysql(&config);
    assert_eq!((source.source.as_str(), ports(source), source.user.as_str()), ("shop", vec![3306], "syncline"));
    assert_eq!(source.tls, Tls::VerifyFull { ca_file: None }, "never in clear text over a network");
    assert_eq!((source.snapshot, source.copy_workers, source.drain), (SnapshotMode::Initial, 4, false));
    assert_eq!((source.special_values, source.truncate), (SpecialValues::Stop, Truncates::Apply));
    assert!((1_073_741_824..1_342_177_280).contains(&source.server_id), "{}", source.server_id);
    let again = read(folder.path(), &[SHOP, DISCARD]).expect("sound");
    assert_eq!(mysql(&again).server_id, source.server_id, "the same at every start");

    let whole = "[sources.shop]\ntype = \"mariadb\"\n\
                 url = \"mariadb://syncline@db.example:3307,other.example/?sslrootcert=ca.pem\"\n\
                 password = { file = \"password\" }\ntables = [\"shop.*\", \"!shop.log\"]\nserver_id = 4294967295\n\
                 snapshot = \"never\"\ncopy_workers = 2\nspecial_values = \"null\"\ntruncate = \"stop\"\n\
                 keys = { \"shop.bin\" = [\"aisle\", \"number\"] }\n";
    let config = read(folder.path(), &[whole, DISCARD]).expect("sound");
    let source = mysql(&config);
    assert_eq!((ports(source), source.server_id, source.copy_workers), (vec![3307, 3306], u32::MAX, 2));
    assert_eq!(source.tls, Tls::VerifyFull { ca_file: Some(folder.path().join("ca.pem")) });
    assert_eq!(source.password.as_ref().map(|password| password.reveal()), Some("hunter2"));
    assert_eq!((source.snapshot, source.special_values), (SnapshotMode::Never, SpecialValues::Null));
    assert_eq!(source.truncate, Truncates::Stop);
    assert_eq!(source.keys[&TableId::new("shop", "bin")], ["aisle", "number"]);
}

#[test]
fn a_setting_that_only_one_kind_of_database_has_is_refused_with_what_there_is_instead() {
    let folder = folder();
    let refused = |rest: &str| faults(folder.path(), &[SHOP, rest, DISCARD]);
    let text = refused("slot = \"a\"\nslot_max = \"1GiB\"\nmessages = [\"*\"]\nslott = 1\n");
    for wanted in [
        ":5: sources.shop.slot is for PostgreSQL: a server keeps its log by binlog_expire_logs_seconds",
        ":6: sources.shop.slot_max is for PostgreSQL: a server keeps its log by binlog_expire_logs_seconds",
        ":7: sources.shop.messages is for PostgreSQL: there are none in the log; remove it",
        ":8: sources.shop.slott: unknown key",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let source = format!("{SOURCE}server_id = 7\n");
    let text = faults(folder.path(), &[&source, DISCARD]);
    assert!(text.contains(":4: sources.erp.server_id is for MySQL and MariaDB: "), "{text}");
}

#[test]
fn a_source_of_mysql_that_could_not_be_read_is_refused_with_every_fault_at_its_line() {
    let folder = folder();
    let refused = |url: &str, rest: &str| {
        let section = format!("[sources.shop]\ntype = \"mysql\"\nurl = \"{url}\"\n{rest}\n");
        faults(folder.path(), &[&section, DISCARD])
    };
    let tables = "tables = [\"shop.*\"]";
    let text = refused("postgres://a:hunter2@db/shop", &format!("{tables}\nserver_id = 4294967296"));
    assert!(text.contains(":3: sources.shop.url : url scheme: \"postgres\" is not mysql"), "{text}");
    assert!(text.contains(":5: sources.shop.server_id is above 4294967295") && !text.contains("hunter2"), "{text}");
    let text = refused("mysql://a@db/shop", "");
    assert!(text.contains(":3: sources.shop.url : url database: ") && text.contains("tables = [\"shop.*\"]"), "{text}");
    assert!(text.contains(":1: sources.shop needs tables, as in tables = [\"shop.*\"]"), "{text}");
    let text = refused("mysql://a@db/", "tables = [\"orders\"]\nserver_id = 0");
    assert!(text.contains(":4: sources.shop.tables : table pattern \"orders\" has no schema"), "{text}");
    assert!(text.contains(":5: sources.shop.server_id is a integer; write a whole number above 0"), "{text}");
    let text = faults(folder.path(), &["[sources.shop]\ntype = \"oracle\"\nsid = 1\n", DISCARD]);
    assert!(
        text.contains(":2: sources.shop.type is \"oracle\"; it is one of \"postgres\", \"mysql\", \"mariadb\", "),
        "{text}"
    );
    assert!(!text.contains("sid"), "nobody knows whether it takes that: {text}");
    let text = faults(folder.path(), &["[sources.shop]\nurl = \"mysql://a@db/\"\n", DISCARD]);
    assert!(text.contains(":1: sources.shop needs type: "), "{text}");
}

#[test]
fn a_target_without_mappings_is_refused_since_it_would_never_get_a_row() {
    let folder = folder();
    let lake = "[sinks.lake]\ntype = \"lake\"\nurl = \"lake\"\n";
    let text = faults(folder.path(), &[SOURCE, DISCARD, PLANNING, lake]);
    assert!(text.contains("no [mappings] section: sinks.planning and sinks.lake would never get a row"), "{text}");
    assert!(read(folder.path(), &[SOURCE, DISCARD]).expect("measuring needs none").mappings.is_empty());
    assert_eq!(read(folder.path(), &[SOURCE, MAPPINGS, PLANNING]).expect("sound").mappings.len(), 1);
}

#[test]
fn a_mapping_beside_the_folders_of_the_sources_is_told_where_it_belongs() {
    let folder = folder();
    fs::write(folder.path().join("mappings/supplier.sql"), SUPPLIER).expect("written");
    let text = faults(folder.path(), &[SOURCE, MAPPINGS, PLANNING]);
    assert!(text.starts_with("1 fault "), "{text}");
    assert!(text.contains("mappings/supplier.sql: ") && text.contains("mappings/<source>/supplier.sql"), "{text}");
}

#[test]
fn a_folder_of_mappings_may_be_a_link() {
    let folder = folder();
    let shared = folder.path().join("shared");
    fs::rename(folder.path().join("mappings/erp"), &shared).expect("moved");
    std::os::unix::fs::symlink(&shared, folder.path().join("mappings/erp")).expect("linked");
    assert_eq!(read(folder.path(), &[SOURCE, MAPPINGS, PLANNING]).expect("sound").mappings.len(), 1);
}

#[test]
fn what_a_planning_sink_would_refuse_later_is_refused_with_its_line() {
    let folder = folder();
    let refused = |sink: &str, line: usize, words: &[&str]| {
        let text = faults(folder.path(), &["[daemon]\nname = \"erp\"\n", SOURCE, MAPPINGS, PLANNING, sink]);
        assert!(text.contains(&format!("syncline.toml:{line}: sinks.planning.")), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused("partitions = 5000\n", 11, &["partitions is 5000; must be at most 1024"]);
    refused("partitions = 5000000000\n", 11, &["partitions is ", "at most 1024"]);
    let secret = PLANNING.replace("127.0.0.1", "me:hunter2@127.0.0.1");
    let text = faults(folder.path(), &[SOURCE, MAPPINGS, &secret]);
    assert!(text.contains("syncline.toml:8: sinks.planning.url holds a user name or password"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let text = faults(folder.path(), &[SOURCE, MAPPINGS, &PLANNING.replace("http:", "ftp:")]);
    assert!(text.contains("syncline.toml:8: sinks.planning.url has the scheme ftp"), "{text}");
}

#[test]
fn a_pipeline_without_a_name_is_refused_where_the_name_is_set() {
    let folder = folder();
    let text = faults(folder.path(), &["[daemon]\nname = \"\"\n", SOURCE, MAPPINGS, DISCARD]);
    assert!(text.contains("syncline.toml:2: daemon.name is empty"), "{text}");
}

#[test]
fn a_kind_of_change_that_does_not_exist_is_refused_with_those_that_do() {
    let folder = folder();
    let mappings = |words: &str| format!("{MAPPINGS}stop_at = [{words}]\n");
    let read = |words: &str| read(folder.path(), &[SOURCE, &mappings(words), PLANNING]);
    let shapes = read("\"dropped_column\", \"changed_type\"").expect("sound").shapes;
    assert_eq!(shapes.stop_at, [ShapeChange::DroppedColumn, ShapeChange::ChangedType].into());
    assert!(shapes.misfits_aside, "as without it");
    let text = read("\"renamed_column\"").expect_err("unknown");
    assert!(
        text.to_string()
            .contains("syncline.toml:6: mappings.stop_at has \"renamed_column\"; it may have added_column,"),
        "{text}"
    );
}

#[test]
fn a_source_whose_name_leads_out_of_its_folder_is_refused() {
    let dir = folder();
    for name in ["..", "a/b", "a b"] {
        let section = SOURCE.replace("[sources.erp]", &format!("[sources.\"{name}\"]"));
        let faults = faults(dir.path(), &[&section, "[sinks.out]\ntype = \"discard\"\n"]);
        assert!(faults.contains("is no good for a folder"), "{name}: {faults}");
    }
}

#[test]
fn faults_of_a_profile_are_told_with_its_own_lines_beside_those_of_the_sink() {
    let folder = folder();
    let sink = |profile: &str, rest: &str| {
        format!("[sinks.fp]\ntype = \"profile\"\nprofile = \"{profile}\"\nurl = \"http://127.0.0.1:8000\"\n{rest}")
    };
    let read = |sink: &str| read(folder.path(), &[SOURCE, MAPPINGS, sink]).map(|_| ());
    read(&sink("frepple", "basic = { user = \"u\", password = { file = \"mappings/erp/supplier.sql\" } }\n"))
        .expect("sound");
    let text = read(&sink("freple", "")).expect_err("no such profile");
    assert!(text.contains("syncline.toml:8: sinks.fp.profile is no profile; write one of frepple"), "{text}");
    let text = read(&sink("frepple", "entities = [\"price\"]\n")).expect_err("no flow for it");
    assert!(text.contains("sinks.fp.entities has nothing that frepple has a flow for; there are item, "), "{text}");
    fs::write(
        folder.path().join("own.toml"),
        "dialect = \"frepple\"\n[flow.item]\npath = \"/i/\"\nkey = [\"n\"]\nrow = { n = \"nr\" }\n",
    )
    .expect("written");
    let text = read(&sink("own.toml", "retries = 3\n")).expect_err("two files with faults");
    for part in [
        "own.toml:5: flow.item.row.n names nr, which item has not",
        "own.toml:2: flow.item needs delete",
        ":10: sinks.fp.retries: unknown key",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_setting_of_another_store_than_that_of_the_url_is_refused_with_its_line() {
    let folder = folder();
    fs::write(folder.path().join("key"), "aHVudGVyMg==").expect("written");
    let lake = |url: &str, rest: &str| {
        let sink = format!("[sinks.lake]\ntype = \"lake\"\nurl = \"{url}\"\n{rest}\n");
        read(folder.path(), &[SOURCE, MAPPINGS, &sink]).map(|_| ()).map_err(|text| text.to_string())
    };
    let key = "account = \"acme\"\naccount_key = { file = \"key\" }";
    lake("az://warehouse/erp", key).expect("sound");
    lake("abfss://warehouse@acme.dfs.core.windows.net/erp", "sas_token = { file = \"key\" }").expect_err("no token");
    for (url, rest, wanted) in [
        ("s3://warehouse/erp", key, ":9: sinks.lake.account is for az://, abfss://, and the url begins with s3://"),
        (
            "lake",
            "timeout = \"5s\"",
            ":9: sinks.lake.timeout is for s3://, az://, abfss://, gs://, and the url begins with file://",
        ),
        ("gs://warehouse", "region = \"eu\"", ":9: sinks.lake.region is for s3://, and the url begins with gs://"),
        (
            "az://warehouse",
            "account_key = { file = \"key\" }",
            "sinks.lake account is needed, as the url does not name it",
        ),
        (
            "abfss://warehouse@other.dfs.core.windows.net/",
            key,
            ":9: sinks.lake.account is \"acme\", and the url names \"other\"",
        ),
        ("az://warehouse?sv=1&sig=hunter2", key, ":8: sinks.lake.url holds ? or #"),
        (
            "ftp://warehouse",
            "",
            ":8: sinks.lake.url ftp://warehouse/ has the scheme \"ftp\"; a lake lies under file://",
        ),
        ("s3://warehouse", "tls = { certificate = \"a.pem\" }", ":9: sinks.lake.tls needs ca"),
        ("s3://warehouse", "tls = { ca = \"absent.pem\" }", "absent.pem: No such file"),
        ("s3://warehouse", "acount = \"acme\"", "sinks.lake.acount: unknown key; did you mean account?"),
    ] {
        let text = lake(url, rest).expect_err(wanted);
        assert!(text.contains(wanted) && !text.contains("hunter2"), "{wanted}\n{text}");
    }
}
