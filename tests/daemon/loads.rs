//! Targets that lack rows, or have some too many, as operators meet them: set right while the day goes on.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use syncline_sinks::planner::{Access, Faults, PlannerConfig, serve};

use super::demo::compare::compare;
use super::demo::drive::{Drive, Pace};
use super::demo::erp::Scale;
use super::demo::expected::Expected;
use super::demo::setup;
use super::disasters::{kill, seed};
use super::world::{World, eventually};

async fn orders(world: &World) -> Value {
    serde_json::from_str(&world.said(&["replay", "planning", "--list", "--json"]).await).expect("JSON")
}

async fn nothing_pending(world: &World, sink: &str) -> bool {
    world.status().await.is_some_and(|status| status["sinks"][sink]["loads"] == 0)
}

/// Files of the planner's database, from one place to another.
fn copy_database(from: &Path, to: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let name = |path: &Path| format!("{}{ending}", path.display());
        let _ = std::fs::remove_file(name(to));
        if Path::new(&name(from)).exists() {
            std::fs::copy(name(from), name(to)).expect("copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_restored_from_a_backup_is_set_right_whole_while_changes_and_kills_go_on() {
    let seed = seed();
    let mut world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    let (database, backup) = (world.setup.dir.join("planner.sqlite"), world.setup.dir.join("backup.sqlite"));
    world.planner.take().expect("runs").stop().await.expect("the planner stops");
    copy_database(&database, &backup);
    world.planner = Some(world.planner_program().start().expect("starts"));
    world.planner_answers().await;
    // What the backup has and the source has no more; and what it lacks.
    world.execute("DELETE FROM meridian.art_ean WHERE ctid IN (SELECT ctid FROM meridian.art_ean LIMIT 40)").await;
    world.execute("UPDATE meridian.wh_site SET site_name = trim(site_name) || ' new'").await;
    world.drain().await;
    world.planner.take().expect("runs").stop().await.expect("the planner stops");
    copy_database(&backup, &database);
    world.planner = Some(world.planner_program().start().expect("starts"));
    world.planner_answers().await;

    let daemon = world.daemon();
    let parked = || async {
        let reason = world.status().await.map(|status| status["sinks"]["planning"]["parked"].to_string());
        reason.is_some_and(|reason| reason.contains("has lost rows that it acknowledged") && reason.contains("replay"))
    };
    eventually("the loss is noticed", parked).await;
    world.assert_refused(&["replay", "planning", "--full"], "with the daemon stopped").await;
    daemon.stop().await.expect("the daemon stops");
    let ordered = world.said(&["replay", "planning", "--full", "--note", "backup of last night"]).await;
    assert!(ordered.contains("all rows of sales_order_line") && ordered.contains("after the next start"), "{ordered}");

    // Under a bad day at the target, and with the daemon killed in the middle.
    let faults = json!({ "error_rate": 0.2, "drop_reply_rate": 0.2, "latency_ms": 20, "seed": seed });
    let posted = setup::http().post(format!("{}/faults", world.setup.planner_url())).json(&faults).send().await;
    assert!(posted.expect("the planner answers").status().is_success());
    let pace = Pace {
        seed,
        connections: 2,
        rate: 100,
        steps_max: Some(1_500),
        mass_rows: 500,
        mass_every: Duration::from_secs(5),
    };
    let mut drive = Drive::start(&world.connection(), pace).await.expect("the traffic starts");
    let mut daemon = world.daemon();
    for _ in 0..3 {
        let loads = || async {
            let status = world.status().await;
            status.and_then(|status| status["sinks"]["planning"]["loads"].as_u64()).unwrap_or(99)
        };
        let before = loads().await;
        eventually("a load is done", || async { before == 99 && loads().await != 99 || loads().await < before }).await;
        kill(&mut daemon).await;
        daemon = world.daemon();
    }
    eventually("everything is loaded", || nothing_pending(&world, "planning")).await;
    drive.finished().await.expect("the traffic is done");
    drive.stop().await.expect("the traffic stops");
    let carried = orders(&world).await["carried_out"].as_array().expect("a list").clone();
    let all_noted =
        carried.iter().all(|it| it["order"]["note"] == "backup of last night" && it["order"]["sweep"] == true);
    assert!(carried.len() > 5 && all_noted, "{carried:?}");
    daemon.stop().await.expect("the daemon stops");
    let none = setup::http().post(format!("{}/faults", world.setup.planner_url())).json(&json!({})).send().await;
    assert!(none.expect("the planner answers").status().is_success());
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_comes_later_has_everything_although_the_deltas_are_gone() {
    let world = World::new(Scale::SHOP, &[]).await;
    // What holds deltas back is not what this is about.
    world.reconfigure(
        "[sinks.lake]\ntype = \"lake\"\nurl = \"lake\"\nflush_every = \"5s\"\n",
        "[sinks.lake]\ntype = \"discard\"\n",
    );
    let second = serve(PlannerConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        db: world.setup.dir.join("second.sqlite"),
        faults: Faults::default(),
        access: Access::default(),
    })
    .await
    .expect("a second planner");
    world.reconfigure("[sinks.planning]\n", "[sinks.planning]\nentities = [\"item\", \"location\"]\n");
    let daemon = world.daemon();
    // Asked before it has its data folder, the command would take that itself.
    eventually("the daemon answers", || async { world.status().await.is_some() }).await;
    let gone = || async {
        let output = world.command(&["replay", "planning", "--from", "0"]).await;
        String::from_utf8_lossy(&output.stderr).contains("are gone, and it is to begin behind 0")
    };
    eventually("the deltas are gone", gone).await;
    eventually("the source is copied", || async {
        world.status().await.is_some_and(|status| status["sources"]["erp"]["state"] == "streaming")
    })
    .await;
    daemon.stop().await.expect("the daemon stops");

    // More entities than so far, and a target that nobody has filled.
    world.reconfigure("entities = [\"item\", \"location\"]\n", "");
    let url = format!("url = \"http://{}/pdx/v1\"", second.addr);
    world.reconfigure(
        "[sinks.lake]\n",
        &format!("[sinks.second]\ntype = \"planning\"\n{url}\nformat = \"arrow\"\n[sinks.lake]\n"),
    );
    world.drain().await;
    world.assert_planner_equals_source().await;
    let second_url = format!("http://{}", second.addr);
    let compared = compare(&world.connection(), &second_url, Expected::ERP).await;
    for comparison in compared.expect("both answer") {
        assert!(comparison.agrees(), "{comparison}");
    }
    second.shutdown().await.expect("stops");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_and_single_rows_are_sent_once_more_without_harm_and_leave_a_record() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.reconfigure("[daemon]\n", "[daemon]\ndelta_retention = \"1h\"\n");
    let daemon = world.daemon();
    let all_there = || async {
        let status = world.status().await.unwrap_or_default();
        status["sources"]["erp"]["state"] == "streaming" && status["sinks"]["planning"]["behind"] == 0
    };
    eventually("the source is copied", all_there).await;
    world.execute("UPDATE meridian.wh_site SET site_name = trim(site_name) || ' new'").await;
    let renamed = || async {
        let page = world.planner_json("/entities/location?limit=1").await.unwrap_or_default();
        page["rows"][0]["data"]["name"].as_str().is_some_and(|name| name.ends_with(" new"))
    };
    eventually("the change is there", renamed).await;
    let unchanged = || async { world.planner_json("/stats").await.expect("answers")["unchanged"].as_u64() };
    let before = unchanged().await;

    world.said(&["replay", "planning", "--from", "0", "--entity", "location", "--note", "did it arrive?"]).await;
    let page = world.planner_json("/entities/location?limit=1").await.expect("the planner answers");
    let key: Vec<&str> =
        page["rows"][0]["key"].as_object().expect("a key").values().filter_map(Value::as_str).collect();
    world.said(&["replay", "planning", "--entity", "location", "--key", &key.join(",")]).await;
    let refused = [
        (vec!["--entity", "location", "--key", "a,b,c,d,e,f"], "the key of location is "),
        (vec!["--entity", "kit"], "delivers no kit"),
        (vec!["--from", "yesterday"], "from is a log offset, or an instant"),
        (vec!["--from", "99999999"], "nothing behind 99999999 has been delivered yet"),
    ];
    for (arguments, wanted) in refused {
        world.assert_refused(&[vec!["replay", "planning"], arguments].concat(), wanted).await;
    }
    world.assert_refused(&["replay", "lake", "--entity", "location"], "sink lake takes deltas alone").await;
    eventually("both were carried out", || async {
        orders(&world).await["carried_out"].as_array().is_some_and(|carried| carried.len() == 2)
    })
    .await;
    let carried = orders(&world).await["carried_out"].as_array().expect("a list").clone();
    let of = |noted: &str| carried.iter().find(|it| it["order"]["note"] == noted).expect("it is on record").clone();
    assert!(of("did it arrive?")["rows"].as_u64() > Some(1), "{carried:?}");
    assert_eq!(of("")["rows"], 1, "{carried:?}");
    assert!(unchanged().await > before, "the target had them");
    daemon.stop().await.expect("the daemon stops");
    world.assert_planner_equals_source().await;
    world.end().await;
}
