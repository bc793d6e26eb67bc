//! What the daemon may use, whatever it is given.

use super::disasters::MILLION;
use super::world::World;

/// What the documentation promises, all sinks included.
const PEAK_MAX: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_and_a_million_changes_do_not_outgrow_a_small_machine() {
    let world = World::new(MILLION, &[]).await;
    let copied = world.drain().await;
    println!("copied: {copied}");
    assert!(copied["rows"].as_u64() > Some(1_000_000), "{copied}");
    // Transactions of hundreds of thousands of rows, each of which has to stay invisible until it is whole.
    for _ in 0..2 {
        world.execute("UPDATE meridian.stk_posting SET qty = qty + 1").await;
        world.execute("UPDATE meridian.ord_pos SET qty_ord = qty_ord + 1, chg_ts = chg_ts + interval '1 s'").await;
    }
    let changed = world.drain().await;
    println!("changed: {changed}");
    assert!(changed["updates"].as_u64() > Some(1_000_000), "{changed}");
    for summary in [copied, changed] {
        assert!(summary["peak_rss_bytes"].as_u64() < Some(PEAK_MAX), "{summary}");
    }
    world.end().await;
}
