//! Kills, outages and restarts in the middle of traffic.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::error::SqlState;

use super::demo::drive::{Drive, Pace};
use super::demo::erp::Scale;
use super::demo::process::Process;
use super::demo::server;
use super::lake::assert_lake_equals_planner;
use super::world::{World, eventually};

/// A million rows in all mapped tables together.
pub(crate) const MILLION: Scale =
    Scale { items: 30_000, customers: 10_000, suppliers: 1_000, orders: 80_000, purchases: 20_000, postings: 280_000 };
const KILLS: u64 = 50;
/// So many of them while the tables are copied, the others while changes stream in.
const KILLS_OF_COPY: u64 = 14;
/// Business steps of the day that is killed into.
const STEPS: u64 = 12_000;
/// Rows of a large transaction, and how many of them the day has beside the price runs of the ERP.
const BULK_ROWS: u64 = 50_000;
const BULKS: u64 = 3;

/// The seed of a run: `SYNCLINE_SEED`, or one that is said. Past the harness, which shows only what failed.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos())
    });
    say(&format!("SYNCLINE_SEED={seed}"));
    seed
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// How many rows the tables of the ERP hold.
async fn rows_there(connection: &str) -> u64 {
    const SQL: &str = "SELECT sum((xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I.%I', \
                       schemaname, tablename), false, true, '')))[1]::text::bigint)::bigint \
                       FROM pg_tables WHERE schemaname = 'meridian'";
    let session = server::connect(connection).await.expect("the server answers");
    let rows: i64 = session.client.query_one(SQL, &[]).await.expect("a number").get(0);
    u64::try_from(rows).expect("a count")
}

/// A small generator of our own, so that a seed means the same for ever (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn pace(seed: u64, steps: u64) -> Pace {
    Pace {
        seed,
        connections: 4,
        rate: 400,
        steps_max: Some(steps),
        mass_rows: 50_000,
        mass_every: Duration::from_secs(15),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_daemon_is_killed_fifty_times() {
    let seed = seed();
    let mut random = Random(seed);
    let world = World::new(MILLION, &[]).await;
    let copies = kill_while_copying(&world, &mut random).await;
    assert!(copies >= 3, "only {copies} of {KILLS_OF_COPY} kills hit a copy that had begun");

    let mut daemon = world.daemon();
    eventually("the copy is done", || async { erp(&world).await["state"] == "streaming" }).await;
    let there = rows_there(&world.connection()).await;
    assert!(there >= 1_000_000, "only {there} rows were there to be copied");
    // Those of the last life: the others had their part before.
    let read = erp(&world).await["reads"].as_u64().unwrap_or(0);
    let pace = Pace { rate: 300, mass_every: Duration::from_secs(12), ..pace(seed, STEPS) };
    let mut drive = Drive::start(&world.connection(), pace).await.expect("the traffic starts");
    let bulks = tokio::spawn(count_stock(world.connection()));
    let rest = KILLS - KILLS_OF_COPY;
    for nth in 1..rest {
        // Anywhere in its share of the day, so that lives are as long as the machine needs them, and of any length.
        let moment = (nth - 1) * STEPS / rest + random.below(STEPS / rest);
        eventually("the day goes on", || std::future::ready(drive.counts().steps >= moment)).await;
        kill(&mut daemon).await;
        daemon = world.daemon();
    }
    drive.finished().await.expect("the traffic is done");
    let counted = bulks.await.expect("the stock is counted");
    kill(&mut daemon).await;
    let changed = drive.counts().rows + counted;
    drive.stop().await.expect("the traffic stops");
    say(&format!(
        "{read} of {there} rows copied in the last life, {changed} changed, killed {KILLS} times, {copies} of them within a copy"
    ));
    assert!(changed >= 200_000, "only {changed} rows were changed");

    say(&world.drain().await.to_string());
    world.assert_planner_equals_source().await;
    let stats = world.planner_json("/stats").await.expect("the planner answers");
    assert_eq!(stats["went_backwards"], 0, "{stats}");
    assert_lake_equals_planner(&world);
    world.end().await;
}

/// What the daemon says of the source; null while it does not answer.
async fn erp(world: &World) -> Value {
    world.status().await.unwrap_or_default()["sources"]["erp"].take()
}

/// Kills so early that no copy is ever finished; how many had begun.
async fn kill_while_copying(world: &World, random: &mut Random) -> u64 {
    let mut begun = 0;
    for nth in 0..KILLS_OF_COPY {
        let mut daemon = world.daemon();
        if nth % 2 == 0 {
            // Any moment of its start.
            let life = Duration::from_millis(random.below(150));
            assert!(tokio::time::timeout(life, std::future::pending::<()>()).await.is_err());
        } else {
            // By what it has read, so that a quick machine does not finish the copy in one life.
            let wanted = 1 + random.below(20_000);
            let reads = || async { erp(world).await["reads"].as_u64() >= Some(wanted) };
            eventually("the copy goes on", reads).await;
        }
        let source = erp(world).await;
        assert_ne!(source["state"], "streaming", "the copy was done before it could be killed");
        begun += u64::from(source["reads"].as_u64() > Some(0));
        kill(&mut daemon).await;
    }
    begun
}

/// Ends it as a power cut would and waits until it is gone.
pub(crate) async fn kill(daemon: &mut Process) {
    assert_eq!(daemon.ended().expect("its state is known"), None, "it ended before it was killed");
    daemon.kill();
    let mut beats = tokio::time::interval(Duration::from_millis(5));
    while daemon.ended().expect("its state is known").is_none() {
        beats.tick().await;
    }
}

/// Transactions of [`BULK_ROWS`] and some: a stock-taking each, which changes what planning sees. How many rows it were.
async fn count_stock(connection: String) -> u64 {
    const COUNT: &str = "UPDATE meridian.stk_lot_level SET qty_phys = qty_phys + 1, cnt_dt = current_date
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM meridian.stk_lot_level WHERE comp_cd = '0100'
                                 ORDER BY comp_cd, site_no, art_no, lot_no OFFSET $1 LIMIT 52000 FOR UPDATE))";
    let session = server::connect(&connection).await.expect("log in");
    let mut beats = tokio::time::interval(Duration::from_secs(8));
    let mut counted = 0;
    for bulk in 0..BULKS {
        beats.tick().await;
        let places = i64::try_from(bulk * BULK_ROWS).expect("a few");
        let rows = loop {
            match session.client.execute(COUNT, &[&places]).await {
                Ok(rows) => break rows,
                Err(error) => assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error}"),
            }
        };
        assert!(rows >= BULK_ROWS, "only {rows} rows in one transaction");
        counted += rows;
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_that_is_down_costs_disk_and_never_the_source() {
    let mut world = World::new(Scale::SHOP, &[]).await;
    let daemon = world.daemon();
    eventually("the snapshot arrived", || async {
        let status = world.status().await.unwrap_or_default();
        status["sinks"]["planning"]["rows"].as_u64().unwrap_or(0) > 0 && status["sinks"]["planning"]["behind"] == 0
    })
    .await;
    world.planner.take().expect("it runs").stop().await.expect("the planner stops");
    let before = world.query_number(CONFIRMED).await;
    let mut drive = Drive::start(&world.connection(), pace(seed(), 500)).await.expect("the traffic starts");
    drive.finished().await.expect("the traffic is done");
    drive.stop().await.expect("the traffic stops");
    let end = world.query_number("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint").await;
    eventually("the slot moves on without the planner", || async { world.query_number(CONFIRMED).await >= end }).await;
    assert!(world.query_number(CONFIRMED).await > before);
    world.planner = Some(world.planner_program().start().expect("the planner starts again"));
    world.planner_answers().await;
    eventually("the backlog drains", || async {
        let status = world.status().await.unwrap_or_default();
        status["sinks"]["planning"]["behind"] == 0 && status["transform"]["behind"] == 0
    })
    .await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.drain().await;
    world.assert_planner_equals_source().await;
    let stats = world.planner_json("/stats").await.expect("the planner answers");
    assert_eq!(stats["went_backwards"], 0, "{stats}");
    world.end().await;
}

const CONFIRMED: &str =
    "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = 'syncline_erp'";

#[tokio::test(flavor = "multi_thread")]
async fn traffic_on_tables_that_nobody_reads_does_not_hold_back_the_servers_log() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.execute("CREATE TABLE public.noise (id bigserial PRIMARY KEY, text text)").await;
    let daemon = world.daemon();
    eventually("the daemon follows the log", || async {
        world.status().await.unwrap_or_default()["sources"]["erp"]["state"] == "streaming"
    })
    .await;
    world.execute("INSERT INTO public.noise (text) SELECT repeat('x', 500) FROM generate_series(1, 20000)").await;
    let end = world.query_number("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint").await;
    eventually("the slot moves on", || async { world.query_number(CONFIRMED).await >= end }).await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_sigterm_repeats_nothing() {
    let world = World::new(Scale::SHOP, &[]).await;
    let first = world.drain().await;
    assert!(first["reads"].as_u64().expect("a number") > 5_000, "{first}");
    let mut drive = Drive::start(&world.connection(), pace(seed(), 200)).await.expect("the traffic starts");
    drive.finished().await.expect("the traffic is done");
    drive.stop().await.expect("the traffic stops");
    let end = world.query_number("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint").await;
    let daemon = world.daemon();
    eventually("everything is confirmed to the server", || async { world.query_number(CONFIRMED).await >= end }).await;
    eventually("every sink has it", || async {
        let status = world.status().await.unwrap_or_default();
        status["transform"]["behind"] == 0
            && ["planning", "lake"].iter().all(|sink| status["sinks"][sink]["behind"] == 0)
    })
    .await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    let rest = world.drain().await;
    assert_eq!((rest["rows"].as_u64(), rest["deltas"].as_u64()), (Some(0), Some(0)), "{rest}");
    world.assert_planner_equals_source().await;
    assert_lake_equals_planner(&world);
    world.end().await;
}
