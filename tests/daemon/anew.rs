//! Tables read anew: one, because somebody doubts what is held of it, or all, because changes are lost to the log.

use super::demo::erp::Scale;
use super::world::{World, eventually};

#[tokio::test]
async fn a_table_that_is_doubted_for_no_reason_is_read_anew_and_nobody_is_told_anything() {
    let world = World::new(Scale::SHOP, &[]).await;
    let daemon = world.daemon();
    let status = || async {
        let output = world.command(&["status", "--json"]).await;
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
    };
    eventually("the copy is folded", || async {
        status().await.is_some_and(|it| it["sources"]["erp"]["state"] == "streaming" && it["transform"]["behind"] == 0)
    })
    .await;
    let before = status().await.expect("an answer");
    for table in ["meridian.ord_pos", "meridian.ord_head"] {
        let output = world.command(&["snapshot", "erp", table]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.starts_with(&format!("reading {table} of erp anew")), "{text}");
        eventually("it is read and folded", || async {
            status()
                .await
                .is_some_and(|it| it["sources"]["erp"]["state"] == "streaming" && it["transform"]["behind"] == 0)
        })
        .await;
    }
    let after = status().await.expect("an answer");
    let rows = |it: &serde_json::Value| it["sources"]["erp"]["rows"].as_u64().expect("a number");
    assert!(rows(&after) > rows(&before), "rows came");
    assert_eq!(after["transform"]["deltas"], before["transform"]["deltas"], "and none of them is another");
    for (arguments, wanted) in [
        (["snapshot", "nobody", "a.b"], "there is no source nobody"),
        (["snapshot", "erp", "ord_pos"], "a table is named with its schema, as in public.orders"),
        (["snapshot", "erp", "meridian.nothing"], "meridian.nothing is not read"),
    ] {
        world.assert_refused(&arguments, wanted).await;
    }
    daemon.stop().await.expect("the daemon stops");
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}

#[tokio::test]
async fn a_slot_that_is_dropped_while_nobody_looks_costs_the_targets_only_what_changed() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    world.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    world
        .execute("DELETE FROM meridian.stk_posting WHERE post_no = (SELECT max(post_no) FROM meridian.stk_posting)")
        .await;
    world.execute("UPDATE meridian.ord_pos SET qty_ord = qty_ord + 1 WHERE ord_no = (SELECT max(ord_no) FROM meridian.ord_pos)").await;
    let closed = world.drain().await;
    assert!(closed["rows"].as_u64() > Some(1_000), "all rows were read: {closed}");
    assert!(closed["deltas"].as_u64() < Some(100), "and few of them told: {closed}");
    world.assert_planner_equals_source().await;
    world.end().await;
}
