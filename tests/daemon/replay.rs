//! Mappings that are changed while there is state: refused until somebody says so, shown beforehand, applied through kills.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::demo::erp::{READER, SLOT, Scale};
use super::disasters::{Random, kill, seed};
use super::lake::assert_lake_equals_planner;
use super::world::{World, eventually};

/// Enough for a replay of some seconds: about 100,000 rows.
const DISTRICT: Scale =
    Scale { items: 5_000, customers: 800, suppliers: 100, orders: 6_000, purchases: 1_000, postings: 15_000 };
const VILLAGE: Scale = Scale { items: 200, customers: 50, suppliers: 10, orders: 200, purchases: 50, postings: 300 };
/// Kills while the log is folded again, unless it is through before.
const KILLS: usize = 8;

/// The mappings of the demo, made worse: other keys, other numbers, rows that are held, a part and an entity that are missing.
struct Worse {
    dir: PathBuf,
    right: Vec<(PathBuf, String)>,
}

impl Worse {
    fn make(world: &World) -> Self {
        let dir = world.setup.dir.join("mappings/erp");
        let file = |name: &str| (dir.join(name), std::fs::read_to_string(dir.join(name)).expect("a mapping"));
        let right =
            ["item.sql", "supplier.sql", "inventory_balance.stock.sql", "inventory_balance.on_order.sql"].map(file);
        let worse = Self { dir, right: right.into() };
        worse.apply();
        worse
    }

    fn apply(&self) {
        let change = |name: &str, from: &str, to: &str| {
            let (path, text) = self.right.iter().find(|(path, _)| path.ends_with(name)).expect("a mapping");
            assert!(text.contains(from), "{name} has no {from:?}");
            std::fs::write(path, text.replace(from, to)).expect("written");
        };
        change("item.sql", "list_price AS price_list", "list_price * 2 AS price_list");
        change("inventory_balance.stock.sql", "site_no AS location_id", "site_no || 'X' AS location_id");
        change("inventory_balance.stock.sql", "qty_phys AS on_hand", "qty_phys * 3 AS on_hand");
        for gone in ["supplier.sql", "inventory_balance.on_order.sql"] {
            std::fs::remove_file(self.dir.join(gone)).expect("removed");
        }
    }

    /// Puts another text into a mapping, until the guard is dropped.
    fn replace(&self, name: &str, from: &str, to: &str) -> impl Drop + use<> {
        struct Guard(PathBuf, String);
        impl Drop for Guard {
            fn drop(&mut self) {
                std::fs::write(&self.0, &self.1).expect("written");
            }
        }
        let (path, text) = self.right.iter().find(|(path, _)| path.ends_with(name)).expect("a mapping");
        assert!(text.contains(from), "{name} has no {from:?}");
        std::fs::write(path, text.replace(from, to)).expect("written");
        Guard(path.clone(), text.clone())
    }

    fn mend(&self) {
        for (path, text) in &self.right {
            std::fs::write(path, text).expect("written");
        }
    }
}

async fn said(world: &World, arguments: &[&str]) -> String {
    let output = world.command(arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

async fn refused(world: &World, arguments: &[&str]) -> String {
    let output = world.command(arguments).await;
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the daemon with kills at any moment of the replay, until it is through; how many hit it.
async fn run_with_kills(world: &World, random: &mut Random) -> usize {
    let mut hits = 0;
    for _ in 0..KILLS {
        let mut daemon = world.daemon();
        let replay = || async { Some(world.status().await?["transform"]["replay"].take()) };
        eventually("the daemon answers", || async { replay().await.is_some() }).await;
        let life = Duration::from_millis(random.below(800));
        assert!(tokio::time::timeout(life, std::future::pending::<()>()).await.is_err());
        let on_the_way = replay().await.is_some_and(|replay| !replay.is_null());
        kill(&mut daemon).await;
        if !on_the_way {
            break;
        }
        hits += 1;
    }
    world.drain().await;
    hits
}

#[tokio::test]
async fn changed_mappings_are_shown_then_applied_and_no_kill_leaves_a_row_of_the_old_ones() {
    let world = World::new(DISTRICT, &[]).await;
    let mut random = Random(seed());
    let worse = Worse::make(&world);
    world.drain().await;
    worse.mend();
    let refusal = refused(&world, &["run"]).await;
    assert!(refusal.contains("`syncline replay --dry-run` shows what it would change"), "{refusal}");

    let shown = said(&world, &["replay", "--dry-run", "--diff", "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let (item, balance) = (&shown["entities"]["item"], &shown["entities"]["inventory_balance"]);
    assert_eq!((&item["changed"], &item["added"], &item["removed"]), (&item["before"], &0.into(), &0.into()), "{item}");
    assert!(balance["added"].as_u64() > Some(0) && balance["removed"] == 0, "sums become zero: {balance}");
    assert!(shown["entities"]["supplier"]["added"].as_u64() > Some(0), "{shown}");
    assert_eq!(shown["mappings"].as_array().map(Vec::len), Some(4), "{}", shown["mappings"]);
    assert!(shown["rows"].as_array().is_some_and(|rows| !rows.is_empty()));

    let wrong = worse.replace("item.sql", "meridian.art_master", "meridian.art_mastr");
    for arguments in [&["replay"][..], &["replay", "--dry-run"]] {
        let refusal = refused(&world, arguments).await;
        assert!(
            refusal.contains("item.sql:") && refusal.contains("art_mastr"),
            "it would delete every item: {refusal}"
        );
    }
    drop(wrong);
    let wrong = worse.replace("item.sql", "descr1 ||", "1 / 0 ||");
    let shown = said(&world, &["replay", "--dry-run"]).await;
    assert!(shown.contains("erp/item DQ_EXPRESSION"), "all items would be held: {shown}");
    drop(wrong);

    let accepted = said(&world, &["replay"]).await;
    assert!(accepted.contains("accepted: the daemon folds"), "{accepted}");
    assert!(said(&world, &["replay"]).await.contains("accepted before"));
    worse.apply();
    let given_up = said(&world, &["replay"]).await;
    assert!(given_up.contains("given up what was accepted before"), "{given_up}");
    assert!(said(&world, &["replay"]).await.contains("nothing to do"));
    worse.mend();
    said(&world, &["replay"]).await;
    world.execute("UPDATE meridian.stk_lot_level SET qty_phys = qty_phys + 1 WHERE ctid IN (SELECT ctid FROM meridian.stk_lot_level LIMIT 50)").await;
    let hits = run_with_kills(&world, &mut random).await;
    assert!(hits > 0, "no kill hit the replay");
    assert_agree(&world).await;

    // What a running daemon is asked, and what it is told.
    let daemon = world.daemon();
    eventually("the daemon answers", || async { world.status().await.is_some() }).await;
    worse.apply();
    let shown = said(&world, &["replay", "--dry-run"]).await;
    assert!(shown.contains("inventory_balance.on_hand") && shown.contains("removed  erp/supplier"), "{shown}");
    let refusal = refused(&world, &["replay"]).await;
    assert!(refusal.contains("a daemon runs on this data folder"), "{refusal}");
    daemon.stop().await.expect("the daemon stops");
    world.drain_refused_then_accepted(&worse, &mut random).await;
}

/// The text in place of another one in a file.
fn edit(path: PathBuf, from: &str, to: &str) {
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(text.contains(from), "{} has no {from:?}", path.display());
    std::fs::write(path, text.replace(from, to)).expect("written");
}

#[tokio::test]
async fn a_column_that_a_changed_mapping_reads_is_published_when_the_sources_are_read_again() {
    let world = World::new(VILLAGE, &[]).await;
    world.execute(&format!("DROP PUBLICATION {SLOT}; GRANT meridian TO {READER}")).await;
    edit(world.setup.config(), "tables =", "columns = \"mapped\"\ntables =");
    let mapping = || world.setup.dir.join("mappings/erp/item.sql");
    let (with, without) = ("trim(descr1 || ' ' || COALESCE(descr2, ''))", "trim(descr1)");
    edit(mapping(), with, without);
    world.drain().await;
    let listed =
        "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'art_master' AND 'descr2' = ANY (attnames)";
    assert_eq!(world.query_number(listed).await, 0, "nobody reads it");
    edit(mapping(), without, with);
    let refusal = refused(&world, &["replay"]).await;
    assert!(refusal.contains("descr2"), "nobody published it: {refusal}");
    // It waits in the slot as it was published before.
    world.execute("UPDATE meridian.art_master SET descr2 = 'new ' || art_no, list_price = list_price + 1").await;
    assert!(said(&world, &["replay", "--reread"]).await.contains("accepted"));
    world.drain().await;
    assert_eq!(world.query_number(listed).await, 1);
    assert_agree(&world).await;
    world.execute("UPDATE meridian.art_master SET descr2 = 'newer ' || art_no").await;
    world.drain().await;
    assert_agree(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_column_that_is_gone_parks_one_mapping_and_the_others_deliver() {
    let world = World::new(VILLAGE, &[]).await;
    world.drain().await;
    world.execute("ALTER TABLE meridian.vnd_account RENAME min_ord_val TO min_val").await;
    world.execute("UPDATE meridian.vnd_account SET nm1 = 'new ' || nm1").await;
    world.execute("UPDATE meridian.art_master SET list_price = list_price + 1").await;
    let items = world.query_number("SELECT count(*) FROM meridian.art_master WHERE comp_cd = '0100'").await;
    let daemon = world.daemon();
    let shown = || async {
        let status = world.status().await?;
        let parked = status["transform"]["parked_mappings"][0].as_str()?;
        let is_named = parked.contains("mappings/erp/supplier.sql:10:") && parked.contains("min_ord_val");
        Some(is_named && status["transform"]["deltas"].as_i64()? > items / 2 && status["parked"].as_array()?.len() == 1)
    };
    eventually("suppliers are parked, items delivered", || async { shown().await.unwrap_or(false) }).await;
    assert!(said(&world, &["status"]).await.contains("parked: mapping "), "status names it");
    daemon.stop().await.expect("the daemon stops");
    // It stays so, and whoever waits for everything is told.
    world.assert_refused(&["run", "--drain"], "mappings/erp/supplier.sql:10:").await;
    world.execute("ALTER TABLE meridian.vnd_account RENAME min_val TO min_ord_val").await;
    world.assert_refused(&["run", "--drain"], "mappings/erp/supplier.sql:10:").await;
    assert!(said(&world, &["replay", "--reread"]).await.contains("accepted"));
    world.drain().await;
    assert_agree(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_changed_type_that_somebody_wants_to_see_first_waits_in_the_log_until_it_may_pass() {
    let world = World::new(VILLAGE, &[]).await;
    let stop_at = "[mappings]\nstop_at = [\"changed_type\"]";
    edit(world.setup.config(), "[mappings]", stop_at);
    world.drain().await;
    world.execute("ALTER TABLE meridian.vnd_account ALTER nm1 TYPE text").await;
    world.execute("UPDATE meridian.vnd_account SET nm1 = 'new ' || nm1").await;
    let said = "has column nm1 as text, which was";
    world.assert_refused(&["run", "--drain"], said).await;
    // What follows is read meanwhile, so the server need not keep it.
    world.execute("UPDATE meridian.art_master SET list_price = list_price + 1").await;
    world.assert_refused(&["run", "--drain"], said).await;
    edit(world.setup.config(), stop_at, "[mappings]");
    let summary = world.drain().await;
    assert_eq!(summary["rows"], 0, "all of it was in the log: {summary}");
    assert!(summary["deltas"].as_u64() > Some(0), "{summary}");
    assert_agree(&world).await;
    world.end().await;
}

async fn assert_agree(world: &World) {
    world.assert_planner_equals_source().await;
    assert_lake_equals_planner(world);
}

impl World {
    /// The worse mappings are taken up from the log, and mended by reading the source again.
    async fn drain_refused_then_accepted(self, worse: &Worse, random: &mut Random) {
        said(&self, &["replay"]).await;
        self.drain().await;
        worse.mend();
        // One that is given up while the sources are read again: nothing of the copy shows.
        said(&self, &["replay", "--reread"]).await;
        let mut daemon = self.daemon();
        let copied = || async { Some(self.status().await?["sources"]["erp"]["reads"].as_u64() > Some(0)) };
        eventually("tables are copied", || async { copied().await.unwrap_or(false) }).await;
        kill(&mut daemon).await;
        worse.apply();
        said(&self, &["replay"]).await;
        let summary = self.drain().await;
        assert_eq!(summary["deltas"], 0, "these mappings were at work before: {summary}");
        worse.mend();
        let accepted = said(&self, &["replay", "--reread"]).await;
        assert!(accepted.contains("accepted: the daemon reads all of erp again"), "{accepted}");
        self.execute("DELETE FROM meridian.pur_pos WHERE ctid IN (SELECT ctid FROM meridian.pur_pos LIMIT 20)").await;
        let hits = run_with_kills(&self, random).await;
        assert!(hits > 0, "no kill hit the replay");
        assert_agree(&self).await;
        let summary = {
            assert!(said(&self, &["replay", "--reread"]).await.contains("accepted"));
            self.drain().await
        };
        assert_eq!(summary["deltas"], 0, "reading the same rows again changes nothing: {summary}");
        assert_agree(&self).await;
        self.end().await;
    }
}
