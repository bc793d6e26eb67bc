//! Questions to the lake, whose answers other readers give as well.

use serde_json::Value;

use super::demo::erp::Scale;
use super::lake::compare_python;
use super::world::{World, eventually};

const NAME: &str = "SELECT name FROM location ORDER BY company_id, location_id";

async fn ask(world: &World, arguments: &[&str]) -> Value {
    let said = world.said(&[&["query", "--format", "json"], arguments].concat()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_never_gets_an_answer_that_differs_from_what_other_readers_see() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.assert_refused(&["query", "SELECT 1"], "nothing was flushed to lake yet").await;
    world.drain().await;
    let answers = world.setup.dir.join("answers");
    std::fs::create_dir(&answers).expect("a folder");
    for table in ["item", "location", "inventory_balance", "sales_order_line"] {
        let sql = format!("SELECT * FROM {table}");
        for ending in ["json", "csv", "parquet"] {
            let file = answers.join(format!("{table}.{ending}")).display().to_string();
            assert_eq!(world.said(&["query", &sql, "--output", &file]).await, "");
        }
    }
    compare_python("compare_query.py", &[&world.setup.dir.join("lake"), &answers]);
    let parts = std::fs::read_dir(&answers).expect("listed").filter(|entry| {
        let entry = entry.as_ref().expect("an entry");
        entry.path().extension().is_some_and(|ending| ending == "part")
    });
    assert_eq!(parts.count(), 0, "nothing half written is left");

    let counted = ask(&world, &["SELECT count(*) AS n FROM history.item"]).await;
    let read = ask(&world, &["SELECT count(_version) AS n FROM history.item WHERE _version > ''"]).await;
    assert_eq!(counted, read, "from the table's log, and from its rows");
    let exact = ask(&world, &["SELECT 0.1 + 0.2 AS sum"]).await;
    assert_eq!(exact[0]["sum"].to_string(), "0.3", "no floats");
    let shown = world.said(&["query", "SELECT company_id, name FROM location ORDER BY 2 LIMIT 2"]).await;
    assert!(shown.contains("| company_id | name") && shown.ends_with("(2 rows)\n"), "{shown}");
    let many = world.said(&["query", "SELECT a.item_id FROM item a, item b LIMIT 1001"]).await;
    assert!(many.contains("(the first 1,000 rows; --format csv, json or ndjson prints all of them"), "{many}");
    let listed = world.said(&["query", "SHOW TABLES", "--format", "csv"]).await;
    assert!(listed.contains("lake,current,item,") && listed.contains("lake,history,location,"), "{listed}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_an_earlier_moment_never_sees_what_was_done_later() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    let before = ask(&world, &[NAME]).await;
    world.said(&["snapshot", "lake", "--tag", "cycle-31"]).await;
    // By the server's clock, which is what commits are dated by.
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = world.query_number(sql).await;
    let moment = chrono::DateTime::from_timestamp_micros(micros).expect("a time").to_rfc3339();
    world.execute("UPDATE meridian.wh_site SET site_name = trim(site_name) || ' new'").await;
    world.drain().await;
    let after = ask(&world, &[NAME]).await;
    assert_ne!(after, before);
    for at in ["cycle-31", &moment] {
        assert_eq!(ask(&world, &["--at", at, NAME]).await, before, "{at}");
        let columns = "SELECT * FROM location LIMIT 1";
        let (then, now) = (ask(&world, &["--at", at, columns]).await, ask(&world, &[columns]).await);
        let names = |rows: &Value| rows[0].as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names(&then), names(&now), "{at}");
    }
    assert_eq!(ask(&world, &["--at", "2000-01-01T00:00:00Z", NAME]).await, Value::Array(Vec::new()));
    let changed = "SELECT count(*) AS n FROM snapshots.\"cycle-31\".location AS a JOIN location AS b USING (company_id, location_id) \
                   WHERE a._version <> b._version";
    let sites = before.as_array().map(Vec::len);
    assert_eq!(ask(&world, &[changed]).await[0]["n"].as_u64(), sites.map(|sites| sites as u64));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_changes_nothing_and_says_what_is_wrong() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    let stray = world.setup.dir.join("stray.csv").display().to_string();
    let copy = format!("COPY item TO '{stray}'");
    for sql in
        ["DROP TABLE item", "INSERT INTO item SELECT * FROM item", "SET datafusion.execution.batch_size = 1", &copy]
    {
        world.assert_refused(&["query", sql], "only questions are taken").await;
    }
    assert!(!std::path::Path::new(&stray).exists());
    for (arguments, wanted) in [
        (&["query", "SELECT * FROM itm"] as &[&str], "there is no table current.itm"),
        (&["query", "SELECT * FROM snapshots.\"cycle-9\".item"], "there is no snapshot cycle-9"),
        (&["query", "SELECT * FROM '/etc/passwd'"], "there is no table"),
        (&["query", "SELECT nme FROM item"], "nme"),
        (&["query", "SELEC 1"], "SELEC"),
        (&["query", "SELECT 1", "--at", "cycle-9"], "there is no snapshot cycle-9"),
        (&["query", "SELECT 1", "--at", "today at 10:00"], "is no time"),
        (&["query", "SELECT 1", "--lake", "planning"], "there is no lake planning; there is lake"),
        (&["query", "SELECT 1", "--format", "parquet"], "say which with --output"),
        (&["query", "SELECT 1", "--output", "/tmp/answer"], "does not say what to write"),
        (&["query", "SELECT 1", "--output", "/nowhere/answer.csv"], "cannot write /nowhere/answer.csv"),
    ] {
        world.assert_refused(arguments, wanted).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_met_can_be_charted_from_the_lake_alone() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.reconfigure("flush_every = \"5s\"\n", "flush_every = \"1s\"\noperations_every = \"1s\"\n");
    let daemon = world.daemon();
    let holds = async |sql: &str| {
        let output = world.command(&["query", "--format", "json", sql]).await;
        let rows: Option<Vec<Value>> = serde_json::from_slice(&output.stdout).ok();
        rows.is_some_and(|rows| rows[0]["holds"] == true)
    };
    let looks = "SELECT count(DISTINCT observed_at) > 2 AND count(DISTINCT name) = 3 AS holds FROM operations.lag \
                 WHERE part = 'sink' AND behind_entries = 0 OR part = 'source' AND state = 'streaming' AND p99_us IS NOT NULL";
    eventually("every part is seen more than twice", || holds(looks)).await;
    let none = "SELECT count(*) = 0 AS holds FROM operations.exceptions";
    // While the tables are copied, rows may wait for their masters.
    eventually("an empty list is written as well", || holds(none)).await;
    world.execute(super::held::LINE).await;
    let line = "SELECT count(*) = 1 AND min(rule) = 'DQ_REF_SALES_ORDER' AND min(key) LIKE '%5000000001%' \
                AND min(first_at) <= min(observed_at) AS holds FROM operations.exceptions";
    eventually("the held line is listed", || holds(line)).await;
    world.execute("DELETE FROM meridian.ord_pos WHERE ord_no = '5000000001'").await;
    eventually("it is listed no more", || holds(none)).await;
    daemon.stop().await.expect("the daemon stops");
    let empty = ask(&world, &["SELECT count(*) AS n FROM operations.dead_letters"]).await;
    assert_eq!(empty[0]["n"], 0);
    world.end().await;
}
