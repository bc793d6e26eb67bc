//! Snapshots of the lake as a planning cycle needs them: with the daemon, without it, and by the schedule.

use std::path::Path;

use serde_json::Value;

use super::demo::erp::Scale;
use super::world::{World, eventually, get};

async fn snapshot(world: &World, tag: &str, order: &str) -> Value {
    let said = world.said(&["snapshot", "lake", "--tag", tag, "--order", order, "--json"]).await;
    serde_json::from_str(&said).expect("JSON")
}

async fn tables(world: &World) -> Value {
    let said = world.said(&["tables", "--json"]).await;
    let lakes: Value = serde_json::from_str(&said).expect("JSON");
    lakes["lake"].clone()
}

/// Every entity of a snapshot has the count and the digest that the planner gives of its own rows, and its files.
async fn assert_equals_planner(world: &World, manifest: &Value) {
    let lake = world.setup.dir.join("lake");
    let entities = manifest["entities"].as_object().expect("entities");
    assert!(entities.len() > 5, "{manifest}");
    for (entity, part) in entities {
        let path = format!("/pdx/v1/flows/{entity}/digest?level=0");
        let digest = world.planner_json(&path).await.expect("the planner answers");
        assert_eq!((&part["rows"], &part["digest"]), (&digest["count"], &digest["digest"]), "{entity}: {digest}");
        for file in part["files"].as_array().expect("files") {
            assert!(Path::new(&lake.join(file["path"].as_str().expect("a path"))).exists(), "{file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tagged_snapshot_is_what_the_planner_holds_with_and_without_the_daemon() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.assert_refused(&["snapshot", "lake", "--tag", "early"], "").await;
    world.drain().await;
    let alone = snapshot(&world, "cycle-31", "run 1").await;
    assert_equals_planner(&world, &alone).await;
    assert_eq!(alone["tag"], "cycle-31");
    let lsn = alone["sources"]["erp"]["lsn"].as_str().expect("a position");
    assert!(lsn.contains('/') && alone["sources"]["erp"]["entry"].as_u64() <= alone["offset"].as_u64(), "{alone}");
    assert_eq!(alone["entities"]["item"]["schema"].as_str().expect("a schema").split('/').next(), Some("item"));
    world.assert_refused(&["snapshot", "lake", "--tag", "cycle-31"], "there is a snapshot cycle-31 already").await;
    world.assert_refused(&["snapshot", "planning", "--tag", "a"], "only lakes have snapshots").await;
    world.assert_refused(&["snapshot", "lake"], "say what of lake").await;

    world.execute("UPDATE meridian.wh_site SET site_name = trim(site_name) || ' new'").await;
    let daemon = world.daemon();
    let delivered = || async {
        let Some(status) = world.status().await else { return false };
        let cut = tables(&world).await["cut"]["offset"].as_u64();
        let behind = |sink: &str| status["sinks"][sink]["behind"] == 0;
        cut > alone["offset"].as_u64() && behind("lake") && behind("planning") && status["transform"]["behind"] == 0
    };
    eventually("the change is everywhere", delivered).await;
    assert_eq!(snapshot(&world, "cycle-31", "run 1").await, alone, "a repeat of the order");
    world.assert_refused(&["snapshot", "lake", "--tag", "../x"], "names no snapshot").await;
    let running = snapshot(&world, "cycle-32", "run 1").await;
    assert_equals_planner(&world, &running).await;
    assert_ne!(running["entities"]["location"]["digest"], alone["entities"]["location"]["digest"]);
    assert_eq!(running["entities"]["item"]["digest"], alone["entities"]["item"]["digest"]);
    let listed = world.said(&["tables", "lake"]).await;
    for part in ["current/item", "history/item", "cycle-31", "cycle-32", "whole up to log offset"] {
        assert!(listed.contains(part), "{listed}");
    }
    let metrics = get(&format!("http://{}/metrics", world.setup.listen())).await.expect("answers");
    let metrics = metrics.text().await.expect("text");
    assert!(metrics.contains("syncline_lake_snapshots_total{sink=\"lake\"} 2"), "{metrics}");
    world.said(&["snapshot", "lake", "--drop", "cycle-31"]).await;
    world.assert_refused(&["snapshot", "lake", "--drop", "cycle-31"], "there is no snapshot cycle-31").await;
    daemon.stop().await.expect("the daemon stops");

    let facts = tables(&world).await;
    assert_eq!(facts["snapshots"].as_array().expect("a list").len(), 1, "{facts}");
    assert_eq!(facts["snapshots"][0]["tag"], "cycle-32");
    world.said(&["snapshot", "lake", "--drop", "cycle-32"]).await;
    assert_eq!(tables(&world).await["snapshots"], Value::Array(Vec::new()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_takes_its_snapshot_once_the_lake_has_something_and_not_again_after_a_restart() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.reconfigure("flush_every = \"5s\"\n", "flush_every = \"1s\"\nsnapshot_every = \"24h\"\n");
    let daemon = world.daemon();
    let taken =
        || async { world.status().await.is_some_and(|status| status["sinks"]["lake"]["snapshots"]["taken"] == 1) };
    eventually("a snapshot is taken", taken).await;
    daemon.stop().await.expect("the daemon stops");
    let before = tables(&world).await["snapshots"].clone();
    assert!(before[0]["tag"].is_null() && before[0]["rows"].as_u64() > Some(0), "{before}");

    let daemon = world.daemon();
    eventually("the daemon answers", || async { world.status().await.is_some() }).await;
    // Whoever takes it has looked at the schedule before.
    snapshot(&world, "cycle-31", "a").await;
    let status = world.status().await.expect("answers");
    assert_eq!(status["sinks"]["lake"]["snapshots"]["problem"], Value::Null, "{status}");
    let scheduled = tables(&world).await["snapshots"].as_array().expect("a list").clone();
    assert_eq!(scheduled.iter().filter(|snapshot| snapshot["tag"].is_null()).count(), 1, "{scheduled:?}");
    daemon.stop().await.expect("the daemon stops");
    world.end().await;
}
