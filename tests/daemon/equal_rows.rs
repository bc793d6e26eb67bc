//! A table without a key: equal rows count as often as they are there, through kills of the daemon while they are copied, read anew and
//! changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use super::demo::erp::Scale;
use super::demo::server;
use super::disasters::{Random, kill, seed};
use super::world::{World, eventually};

/// Takes the key from the stock of the lots, which planning sums up, and has each row there many times.
const WITHOUT_KEY: &str = "ALTER TABLE meridian.stk_lot_level DROP CONSTRAINT stk_lot_level_pkey;
    ALTER TABLE meridian.stk_lot_level REPLICA IDENTITY FULL;
    INSERT INTO meridian.stk_lot_level SELECT s.* FROM meridian.stk_lot_level s, generate_series(1, 40)";
const TABLE: &str = "meridian.stk_lot_level";
const KILLS_OF_COPY: u64 = 5;
const KILLS_OF_STREAM: u64 = 8;

/// Sessions that change the table all the time.
struct Load {
    stops: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(world: &World, seed: u64) -> Self {
        let (stops, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let sessions = (0..3).map(|nth| {
            let (connection, stops, done) = (world.connection(), Arc::clone(&stops), Arc::clone(&done));
            tokio::spawn(async move {
                let mut random = Random(seed ^ (nth + 1));
                let session = server::connect(&connection).await.expect("log in");
                while !stops.load(Ordering::Acquire) {
                    if let Err(error) = session.client.batch_execute(&change(&mut random)).await {
                        // Two may meet, of which one has to give way.
                        assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error}");
                        session.client.batch_execute("ROLLBACK").await.expect("nothing is left of it");
                    }
                    done.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        Self { sessions: sessions.collect(), stops, done }
    }

    /// Waits for so many more transactions.
    async fn goes_on(&self, more: u64) {
        let wanted = self.done.load(Ordering::Acquire) + more;
        eventually("the table is changed", || std::future::ready(self.done.load(Ordering::Acquire) >= wanted)).await;
    }

    async fn stop(self) {
        self.stops.store(true, Ordering::Release);
        for session in self.sessions {
            session.await.expect("its changes went well");
        }
    }
}

/// Changes of some rows that are there many times: of one of them, of a few, of all, or of all and then not.
fn change(random: &mut Random) -> String {
    let row = format!("SELECT ctid FROM {TABLE} OFFSET {} LIMIT {}", random.below(2_000), random.below(5) + 1);
    let article = format!("SELECT art_no FROM {TABLE} OFFSET {} LIMIT 1", random.below(2_000));
    match random.below(10) {
        0..=2 => format!("INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE ctid = ANY (ARRAY({row}))"),
        3..=4 => format!("DELETE FROM {TABLE} WHERE ctid = ANY (ARRAY({row}))"),
        5..=7 => format!("UPDATE {TABLE} SET qty_phys = qty_phys + 1 WHERE ctid = ANY (ARRAY({row}))"),
        8 => format!("UPDATE {TABLE} SET qty_resv = qty_resv + 1 WHERE art_no = ({article})"),
        _ => format!("BEGIN; DELETE FROM {TABLE} WHERE art_no = ({article}); ROLLBACK"),
    }
}

async fn erp(world: &World) -> Value {
    world.status().await.unwrap_or_default()["sources"]["erp"].take()
}

/// Kills it when it has read so many rows in its life; true where the copy was not done then.
async fn kill_while_reading(world: &World, wanted: u64) -> bool {
    let mut daemon = world.daemon();
    eventually("the copy goes on", || async { erp(world).await["reads"].as_u64() >= Some(wanted) }).await;
    let is_copying = erp(world).await["state"] != "streaming";
    kill(&mut daemon).await;
    is_copying
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_rows_are_neither_lost_nor_doubled_when_the_daemon_is_killed_while_they_are_copied_and_changed() {
    let seed = seed();
    let mut random = Random(seed);
    let world = World::new(Scale::SHOP, &[]).await;
    world.execute(WITHOUT_KEY).await;
    let rows = u64::try_from(world.query_number(&format!("SELECT count(*) FROM {TABLE}")).await).expect("a count");
    assert!(rows > 10_000, "only {rows} rows");
    let load = Load::start(&world, seed);
    let mut within = 0;
    for _ in 0..KILLS_OF_COPY {
        within += u64::from(kill_while_reading(&world, 1 + random.below(rows)).await);
    }
    assert!(within > 0, "no kill hit a copy");

    let mut daemon = world.daemon();
    eventually("the copy is done", || async { erp(&world).await["state"] == "streaming" }).await;
    for nth in 0..KILLS_OF_STREAM {
        if nth == KILLS_OF_STREAM / 2 {
            world.execute(&format!("ALTER TABLE {TABLE} ADD COLUMN note text DEFAULT 'none'")).await;
        }
        if nth % 2 == 0 {
            // That it is being read already is a fair answer.
            world.command(&["snapshot", "erp", TABLE]).await;
        }
        load.goes_on(1 + random.below(60)).await;
        kill(&mut daemon).await;
        daemon = world.daemon();
    }
    load.goes_on(50).await;
    kill(&mut daemon).await;
    load.stop().await;

    world.drain().await;
    world.assert_planner_equals_source().await;
    let equal = format!("SELECT count(*) - count(DISTINCT s::text) FROM {TABLE} s");
    assert!(world.query_number(&equal).await > 1_000, "rows are there several times");
    let stats = world.planner_json("/stats").await.expect("the planner answers");
    assert_eq!(stats["went_backwards"], 0, "{stats}");
    world.end().await;
}
