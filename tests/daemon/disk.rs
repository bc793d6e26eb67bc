//! A data folder that fills while a target is down.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::demo::erp::Scale;
use super::disasters::kill;
use super::world::{World, eventually};

const SMALL: Scale = Scale { items: 200, customers: 50, suppliers: 20, orders: 200, purchases: 50, postings: 500 };
const BUDGET: u64 = 1 << 30;

const CHANGE: &str =
    "UPDATE meridian.art_master SET list_price = list_price + 1, descr1 = descr1 || '.' WHERE length(descr1) < 50";

/// What somebody else puts into the data folder.
struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn new(world: &World) -> Self {
        Self { path: world.setup.dir.join("data/ballast") }
    }

    /// Has the folder filled up to so many per cent of its budget.
    async fn fill(&self, world: &World, percent: u64) {
        let status = world.status().await.expect("the daemon answers");
        let others = status["disk"]["used"].as_u64().expect("bytes") - self.bytes();
        let wanted = BUDGET * percent / 100 - others;
        // Never emptied on the way, which the daemon could see.
        let mut file = File::options().create(true).append(true).open(&self.path).expect("a file");
        if self.bytes() > wanted {
            file.set_len(wanted).expect("cut");
        }
        let block = vec![7; 1 << 20];
        for _ in 0..wanted.saturating_sub(self.bytes()) >> 20 {
            file.write_all(&block).expect("written");
        }
        file.sync_all().expect("on the disk");
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    fn remove(&self) {
        std::fs::remove_file(&self.path).expect("removed");
    }
}

async fn has(world: &World, stage: &str, source: &str) -> bool {
    let status = world.status().await.unwrap_or_default();
    status["disk"]["stage"] == stage && status["sources"]["erp"]["state"] == source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_data_folder_pauses_the_source_and_loses_nothing_when_the_dead_target_comes_back() {
    let mut world = World::new(SMALL, &[]).await;
    world.reconfigure("[daemon]", "[daemon]\ndisk_budget = \"1GiB\"");
    let ballast = Ballast::new(&world);
    let mut daemon = world.daemon();
    eventually("all is copied", || has(&world, "roomy", "streaming")).await;
    world.planner.take().expect("it runs").stop().await.expect("the planner stops");

    ballast.fill(&world, 88).await;
    eventually("what feeds stock is read on", || has(&world, "scarce", "streaming")).await;
    ballast.fill(&world, 97).await;
    eventually("the source is paused", || has(&world, "full", "paused")).await;
    let said = world.said(&["status"]).await;
    assert!(said.contains("all sources are paused, deliveries go on"), "{said}");
    let durable = |status: serde_json::Value| status["journal"]["durable"].as_u64().expect("an offset");
    let before = durable(world.status().await.expect("the daemon answers"));
    world.execute(CHANGE).await;
    // A process that is started meanwhile begins paused.
    kill(&mut daemon).await;
    daemon = world.daemon();
    eventually("the source is paused again", || has(&world, "full", "paused")).await;
    world.planner = Some(world.planner_program().start().expect("the planner starts"));
    world.planner_answers().await;
    assert_eq!(durable(world.status().await.expect("the daemon answers")), before, "nothing is read meanwhile");

    ballast.fill(&world, 92).await;
    eventually("it is left only well below the mark", || async {
        let disk = world.status().await.unwrap_or_default()["disk"].clone();
        disk["used"].as_u64().is_some_and(|used| used < BUDGET * 94 / 100)
    })
    .await;
    assert!(has(&world, "full", "paused").await);
    world.execute(CHANGE).await;
    ballast.remove();
    eventually("the source goes on", || has(&world, "roomy", "streaming")).await;
    daemon.stop().await.expect("the daemon stops");
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}
