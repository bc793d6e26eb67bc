//! Rows that are held, as the people who run the daemon meet them: listed, explained, put aside, and mended by the source.

use serde_json::Value;

use super::demo::erp::Scale;
use super::world::{World, eventually};

pub(crate) const LINE: &str = "INSERT INTO meridian.ord_pos SELECT '0100', '5000000001', 10, 'N', art_no, site_no, 3, 0, 0, 0, unit, \
                    wish_dt, '1900-01-01', 'O', 1.5, 4.5, 'EUR', now() AT TIME ZONE 'UTC' FROM meridian.ord_pos LIMIT 1";
const ORDER: &str = "INSERT INTO meridian.ord_head SELECT '0100', '5000000001', acct_no, origin, '', ord_dt, 'O', 'EUR', site_no, \
                     5, 0, NULL, crt_ts, chg_ts, 'TEST' FROM meridian.ord_head LIMIT 1";

/// The answer of a command that must go well.
async fn said(world: &World, arguments: &[&str]) -> String {
    let output = world.command(arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

async fn listed(world: &World, more: &[&str]) -> Vec<Value> {
    let text = said(world, &[&["exceptions", "list", "--json"], more].concat()).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["exceptions"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_line_without_its_order_is_listed_with_its_reason_and_comes_through_when_the_order_does() {
    let world = World::new(Scale::SHOP, &[]).await;
    let daemon = world.daemon();
    let lines = || async { world.planner_json("/entities/sales_order_line?limit=1").await };
    eventually("the copy is delivered", || async {
        lines().await.is_some_and(|page| page["rows"].as_array().is_some_and(|rows| !rows.is_empty()))
    })
    .await;
    assert_eq!(
        listed(&world, &["--all"]).await,
        Vec::<Value>::new(),
        "the demo's distributor keeps its books in order"
    );

    world.execute(LINE).await;
    eventually("the line is held", || async { !listed(&world, &["--all"]).await.is_empty() }).await;
    let short = said(&world, &["exceptions", "list"]).await;
    assert_eq!(
        short, "nothing to list\nwaiting for a master for less than park_ttl: 1; see them with --all\n",
        "its order may be on its way"
    );
    let held = listed(&world, &["--all", "--rule", "DQ_REF_SALES_ORDER", "--mapping", "erp/sales_order_line"]).await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0]["key"]["ord_no"], "5000000001");
    assert_eq!(held[0]["first"], held[0]["last"]);
    let fingerprint = held[0]["fingerprint"].as_str().expect("a fingerprint");
    let shown = said(&world, &["exceptions", "show", fingerprint]).await;
    assert!(shown.contains("there is no sales_order with the key in company_id, order_id; waits for it"), "{shown}");
    assert!(shown.contains("erp.meridian.ord_pos") && shown.contains("position"), "{shown}");
    let preview = said(&world, &["preview", "erp/sales_order_line", "--key", "0100,5000000001,10"]).await;
    assert!(preview.contains("held: DQ_REF_SALES_ORDER"), "{preview}");

    daemon.stop().await.expect("the daemon stops");
    let config = std::fs::read_to_string(world.setup.config()).expect("the configuration");
    let impatient = config.replace("[daemon]", "[daemon]\npark_ttl = \"1ms\"");
    std::fs::write(world.setup.config(), impatient).expect("write the configuration");
    let daemon = world.daemon();
    eventually("it has waited long enough to be shown", || async {
        let output = world.command(&["exceptions", "list"]).await;
        String::from_utf8_lossy(&output.stdout).contains(fingerprint)
    })
    .await;

    said(&world, &["exceptions", "waive", fingerprint, "--note", "the order is on its way"]).await;
    assert_eq!(said(&world, &["exceptions", "list"]).await, "nothing to list\n", "put aside");
    assert_eq!(listed(&world, &["--all"]).await[0]["note"]["note"], "the order is on its way");

    world.execute(ORDER).await;
    eventually("the line comes through", || async { listed(&world, &["--all"]).await.is_empty() }).await;
    let explained = said(&world, &["explain", "sales_order_line", "0100,5000000001,10"]).await;
    assert!(explained.contains("by erp/sales_order_line") && explained.contains("qty_ordered"), "{explained}");
    assert!(explained.contains("committed") && explained.contains("(log entry "), "its position: {explained}");
    for (arguments, wanted) in [
        (["exceptions", "show", fingerprint], "nothing with the fingerprint"),
        (["preview", "erp/nothing", "--json"], "no mapping erp/nothing has folded anything"),
        (["explain", "item", "0100,none"], "no source row gives item 0100,none"),
    ] {
        world.assert_refused(&arguments, wanted).await;
    }
    daemon.stop().await.expect("the daemon stops");
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}
