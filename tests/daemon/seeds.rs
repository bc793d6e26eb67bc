//! Seeds from a CSV file to the planner, without any database: corrections, mistakes, and kills in the middle of a reload.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::demo::process::Process;
use super::demo::setup::Setup;
use super::disasters::kill;
use super::world::{SYNCLINE, eventually};

const MAPPING: &str = "SELECT '0100' AS company_id, code AS from_uom, base AS to_uom, num, den,
       coalesce(valid_from, DATE '1970-01-01') AS valid_from
FROM   uom
WHERE  den > 0
";

/// A planner that runs, and a daemon that has nothing but seeds.
struct SeedWorld {
    setup: Setup,
    planner: Process,
    _dir: TempDir,
}

impl SeedWorld {
    async fn new(uom: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup::new(Some(dir.path().join("seeded")), PathBuf::from(SYNCLINE)).expect("an empty folder");
        for folder in ["seeds", "mappings/seeds"] {
            fs::create_dir_all(setup.dir.join(folder)).expect("make a folder");
        }
        let config = format!(
            r#"[daemon]
listen = "{}"

[seeds]
dir = "seeds"

[seeds.uom]
key   = ["code", "base"]
types = {{ num = "decimal(28,9)", den = "decimal(28,9)", valid_from = "date" }}

[mappings]
dir = "mappings"

[sinks.planning]
type = "planning"
url  = "{}/pdx/v1"
"#,
            setup.listen(),
            setup.planner_url()
        );
        fs::write(setup.config(), config).expect("write the configuration");
        fs::write(setup.dir.join("mappings/seeds/uom_conversion.sql"), MAPPING).expect("write the mapping");
        let planner = setup.planner().start().expect("the planner starts");
        let world = Self { setup, planner, _dir: dir };
        world.write(uom);
        eventually("the planner answers", || async {
            world.json(&world.setup.planner_url(), "/stats").await.is_some()
        })
        .await;
        world
    }

    /// Puts a new file in the place of the old one, as a careful operator does.
    fn write(&self, uom: &str) {
        let draft = self.setup.dir.join("seeds/.uom.csv.new");
        fs::write(&draft, uom).expect("write the file");
        fs::rename(&draft, self.setup.dir.join("seeds/uom.csv")).expect("rename the file");
    }

    fn daemon(&self) -> Process {
        self.setup.daemon("none").start().expect("the daemon starts")
    }

    async fn json(&self, base: &str, path: &str) -> Option<Value> {
        reqwest::get(format!("{base}{path}")).await.ok()?.json().await.ok()
    }

    /// What the daemon says of its seeds.
    async fn seeds(&self) -> Value {
        let status = self.json(&format!("http://{}", self.setup.listen()), "/status").await.unwrap_or_default();
        status["sources"]["seeds"].clone()
    }

    /// Factors that the planner holds, by unit.
    async fn delivered(&self) -> BTreeMap<String, f64> {
        let mut factors = BTreeMap::new();
        let mut after = String::new();
        loop {
            let mut url = reqwest::Url::parse(&self.setup.planner_url()).expect("a url");
            url.set_path("/entities/uom_conversion");
            url.query_pairs_mut().append_pair("limit", "10000").append_pair("after", &after);
            let page: Value = reqwest::get(url).await.expect("it answers").json().await.expect("JSON");
            for row in page["rows"].as_array().expect("rows") {
                let unit = row["key"]["from_uom"].as_str().expect("a unit").to_owned();
                let num = &row["data"]["num"];
                let num = num.as_f64().or_else(|| num.as_str()?.parse().ok()).expect("a number");
                assert_eq!(factors.insert(unit, num), None, "twice: {row}");
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return factors,
            }
        }
    }

    async fn stop(self) {
        self.planner.stop().await.expect("the planner stops");
    }

    /// Runs a command to its end: whether it went well, and all that it said.
    async fn command(&self, arguments: &[&str]) -> (bool, String) {
        let output = tokio::process::Command::new(SYNCLINE)
            .args(arguments)
            .arg("--config")
            .arg(self.setup.config())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the command runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn factors(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs.iter().map(|(unit, num)| ((*unit).to_owned(), *num)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_cell_repairs_the_delivered_row_without_a_restart() {
    let world = SeedWorld::new("code,base,num,den,valid_from\nCT,EA,12,1,\nPF,EA,480,1,2024-01-01\n").await;
    let daemon = world.daemon();
    eventually("both rows arrive", || async { world.delivered().await == factors(&[("CT", 12.0), ("PF", 480.0)]) })
        .await;

    world.write("code,base,num,den,valid_from\nCT,EA,10,1,\nPF,EA,480,1,2024-01-01\nBX,EA,6,1,\n");
    let corrected = factors(&[("BX", 6.0), ("CT", 10.0), ("PF", 480.0)]);
    eventually("the corrected row arrives", || async { world.delivered().await == corrected }).await;
    let seeds = world.seeds().await;
    assert_eq!((&seeds["reads"], &seeds["inserts"], &seeds["updates"]), (&2.into(), &1.into(), &1.into()), "{seeds}");

    world.write("code,base,num,den,valid_from\nCT,EA,ten,1,\nPF,EA,480,1,2024-01-01\nBX,EA\n");
    eventually("the mistake is told", || async { world.seeds().await["problem"].is_string() }).await;
    let problem = world.seeds().await["problem"].to_string();
    assert!(problem.contains("uom.csv:2: column num: is no decimal(28,9)"), "{problem}");
    assert!(problem.contains("uom.csv:4: has 2 cells where the header has 5 columns"), "{problem}");
    let (ok, text) = world.command(&["status"]).await;
    assert!(ok && text.contains("source seeds: older rows stay in force: 2 faults in the seeds:"), "{text}");
    assert_eq!(world.delivered().await, corrected, "the old rows are in force");

    world.write("code,base,num,den,valid_from\nCT,EA,11,1,\nPF,EA,480,1,2024-01-01\n");
    let mended = factors(&[("CT", 11.0), ("PF", 480.0)]);
    eventually("the mended file arrives", || async { world.delivered().await == mended }).await;
    assert!(world.seeds().await["problem"].is_null());
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_seed_is_refused_before_the_first_start_and_never_stops_a_later_one() {
    let good = "code,base,num,den,valid_from\nCT,EA,12,1,\n";
    let bad = "code,base,num,den,valid_from\nCT,EA,12,1,\nCT,EA,13,1,31.12.2024\n";
    let world = SeedWorld::new(bad).await;
    for command in [&["check"][..], &["run", "--drain"]] {
        let (ok, text) = world.command(command).await;
        assert!(!ok && text.contains("2 faults in the configuration"), "{text}");
        assert!(text.contains("uom.csv:3: column valid_from: is no date; write year-month-day"), "{text}");
        assert!(text.contains("uom.csv:3: column code, base: has the key of line 2"), "{text}");
    }
    world.write(good);
    let (ok, text) = world.command(&["check"]).await;
    assert!(ok && text.contains("uom.csv: seeds.uom, 1 row, key code, base"), "{text}");
    assert!(text.contains("mapping seeds/uom_conversion: fits seeds.uom"), "{text}");

    let (ok, text) = world.command(&["run", "--drain", "--summary", "json"]).await;
    assert!(ok && text.contains("\"reads\":1"), "{text}");
    assert_eq!(world.delivered().await, factors(&[("CT", 12.0)]));
    let (ok, text) = world.command(&["run", "--drain", "--summary", "json"]).await;
    assert!(ok && text.contains("\"rows\":0"), "an unchanged folder says nothing: {text}");

    world.write(bad);
    let (ok, text) = world.command(&["check"]).await;
    assert!(!ok && text.contains("error    source seeds: ") && text.contains("uom.csv:3: column valid_from"), "{text}");
    let daemon = world.daemon();
    eventually("the fault is told", || async { world.seeds().await["problem"].is_string() }).await;
    assert_eq!(world.delivered().await, factors(&[("CT", 12.0)]));
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(
        !ok && text.contains("source seeds: 2 faults in the seeds"),
        "a drain says that it is not complete: {text}"
    );
    world.stop().await;
}

/// More than a frame holds, all rows with one factor.
fn many(num: u32) -> String {
    let rows: String = (0..17_000).map(|i| format!("U{i},EA,{num},1,\n")).collect();
    format!("code,base,num,den,valid_from\n{rows}")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_daemon_is_killed_while_it_reloads() {
    let world = SeedWorld::new(&many(1)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok, "{text}");
    let kept = world.setup.dir.join("data/seeds");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&kept).expect("the kept contents");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    // Each life ends a little later: once the content is kept, once the first frame is on its way, once all are, once
    // the planner has some of it.
    for stage in 0..4_u32 {
        let before = names();
        let mut daemon = world.daemon();
        eventually("the folder is followed", || async { world.seeds().await["state"] == "streaming" }).await;
        world.write(&many(2 + stage));
        eventually("the reload is under way", || async {
            match stage {
                0 => names().iter().any(|name| !before.contains(name)),
                1 => world.seeds().await["frames"].as_u64() >= Some(1),
                2 => world.seeds().await["frames"].as_u64() >= Some(2),
                _ => world.delivered().await.values().any(|num| *num > 4.0),
            }
        })
        .await;
        kill(&mut daemon).await;
    }
    let (ok, text) = world.command(&["run", "--drain", "--summary", "json"]).await;
    assert!(ok, "{text}");
    let delivered = world.delivered().await;
    assert_eq!(delivered.len(), 17_000);
    assert!(delivered.values().all(|num| *num == 5.0));
    assert_eq!(names().len(), 1, "contents that nothing names are gone");
    let stats = world.json(&world.setup.planner_url(), "/stats").await.expect("the planner answers");
    assert_eq!(stats["went_backwards"], 0, "{stats}");
    world.stop().await;
}
