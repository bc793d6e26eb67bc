//! The proof that a planner waits for before its nightly run.

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

use super::demo::erp::Scale;
use super::world::{World, eventually, get};

/// Changes every price, and gives a moment after that by the server's clock.
async fn change_prices(world: &World) -> String {
    world.execute("UPDATE meridian.art_master SET list_price = list_price + 1").await;
    let now = world.query_number("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await;
    DateTime::from_timestamp_micros(now).expect("a time").to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Whether everything is there, and what the daemon says.
async fn ready(world: &World, asof: &str) -> Option<(bool, Value)> {
    let answer = get(&format!("http://{}/ready?asof={asof}", world.setup.listen())).await.ok()?;
    let is_ready = answer.status().is_success();
    let said: Value = answer.json().await.ok()?;
    assert_eq!(said["ready"], is_ready, "{said}");
    Some((is_ready, said))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nightly_run_is_let_go_only_once_everything_of_the_day_is_at_every_target() {
    let mut world = World::new(Scale::SHOP, &[]).await;
    let daemon = world.daemon();
    let asof = change_prices(&world).await;
    eventually("everything is there", || async { ready(&world, &asof).await.is_some_and(|(ready, _)| ready) }).await;
    world.assert_planner_equals_source().await;

    world.planner.take().expect("it runs").stop().await.expect("the planner stops");
    let asof = change_prices(&world).await;
    eventually("the change waits for the target", || async {
        let status = world.status().await.unwrap_or_default();
        let waits = status["sinks"]["planning"]["behind"].as_u64() > Some(0);
        waits && status["transform"]["behind"] == 0 && status["sinks"]["lake"]["behind"] == 0
    })
    .await;
    let (is_ready, said) = ready(&world, &asof).await.expect("the daemon answers");
    assert!(!is_ready && said["behind"][0]["rung"] == "source erp", "{said}");

    world.planner = Some(world.planner_program().start().expect("the planner starts"));
    eventually("everything is there", || async { ready(&world, &asof).await.is_some_and(|(ready, _)| ready) }).await;
    world.assert_planner_equals_source().await;
    // Nothing happens at the source any more, and time goes on there all the same.
    let now = world.query_number("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await;
    let later = DateTime::from_timestamp_micros(now).expect("a time").to_rfc3339_opts(SecondsFormat::Micros, true);
    eventually("an idle day ends", || async { ready(&world, &later).await.is_some_and(|(ready, _)| ready) }).await;
    daemon.stop().await.expect("the daemon stops");
    world.end().await;
}
