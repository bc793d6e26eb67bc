//! What the daemon refuses to work with: each a clear message with place and remedy, an exit code, and nothing lost.

use std::fs;
use std::path::PathBuf;

use super::demo::erp::Scale;
use super::world::{World, eventually};

/// Runs `syncline run --drain`, which must fail, and gives what it said.
async fn refusal(world: &World) -> String {
    let output = world.command(&["run", "--drain"]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

/// Every word must be in the message.
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_read_is_refused_with_the_remedy_and_nothing_is_lost() {
    let mut world = World::new(Scale::SHOP, &[]).await;

    let right = std::mem::replace(&mut world.password, "wrong".to_owned());
    assert_says(&refusal(&world).await, &["source erp", "password"]);
    world.password = right;

    world.reconfigure(r#"tables = ["meridian.*"]"#, r#"tables = ["meridan.*"]"#);
    assert_says(&refusal(&world).await, &["meridan.*"]);
    world.reconfigure(r#"tables = ["meridan.*"]"#, r#"tables = ["meridian.*"]"#);

    world.execute("ALTER ROLE syncline NOREPLICATION").await;
    assert_says(&refusal(&world).await, &["REPLICATION", "ALTER ROLE"]);
    world.execute("ALTER ROLE syncline REPLICATION").await;

    let first = world.command(&["run", "--drain"]).await;
    let text = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{text}");
    assert!(!text.contains("ERROR") && !text.contains("WARN"), "a first run has nothing to complain of:\n{text}");
    world.assert_planner_equals_source().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_logical_decoding_is_refused_with_the_setting_to_change() {
    let world = World::new(Scale::SHOP, &[("wal_level", "replica")]).await;
    assert_says(&refusal(&world).await, &["wal_level", "logical"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_mapping_or_setting_is_refused_with_its_line_and_all_faults_at_once() {
    let world = World::new(Scale::SHOP, &[]).await;
    let mapping = world.setup.dir.join("mappings/erp/location.sql");
    let good = fs::read_to_string(&mapping).expect("read the mapping");
    fs::write(&mapping, good.replace("site_name AS name", "site_nam AS name")).expect("write the mapping");
    assert_says(&refusal(&world).await, &["location.sql:4:", "site_nam"]);
    fs::write(&mapping, &good).expect("write the mapping");

    world.reconfigure("flush_every = \"5s\"", "flush_evry = \"5s\"");
    world.reconfigure("slot = ", "slott = ");
    let text = refusal(&world).await;
    assert_says(&text, &["2 faults", "flush_evry", "did you mean flush_every?", "slott", "did you mean slot?"]);
    assert_says(&text, &["syncline.toml:12:"]);
    world.end().await;
}

/// The newest segment of the log.
fn newest_segment(world: &World) -> PathBuf {
    let log = world.setup.dir.join("data/log");
    let segments = fs::read_dir(&log).expect("the log's folder").map(|entry| entry.expect("an entry").path());
    segments.max().expect("a segment")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_and_what_is_mended_goes_on() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    let segment = newest_segment(&world);
    let good = fs::read(&segment).expect("read the segment");
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&segment, &damaged).expect("write the segment");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    assert_says(&refusal(&world).await, &[&name]);
    fs::write(&segment, &good).expect("write the segment");
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_folder_is_refused() {
    let world = World::new(Scale::SHOP, &[]).await;
    let daemon = world.daemon();
    eventually("the first one answers", || async { world.status().await.is_some() }).await;
    assert_says(&refusal(&world).await, &["data", "another"]);
    let health = reqwest::get(format!("http://{}/health", world.setup.listen())).await.expect("it answers");
    assert_eq!(health.status().as_u16(), 200);
    let metrics = reqwest::get(format!("http://{}/metrics", world.setup.listen())).await.expect("it answers");
    assert!(metrics.text().await.expect("text").contains("syncline_"));
    let status = world.command(&["status", "--json"]).await;
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_daemon_with_its_name_and_loses_nothing() {
    let world = World::new(Scale::SHOP, &[]).await;
    let config = world.setup.config().display().to_string();
    // A disk of 1 MiB that only this daemon sees; what it holds at the end is kept as the data folder.
    let script = r#"mkdir -p "$1" && mount -t tmpfs -o size=1m tmpfs "$1"; "$2" run --drain --config "$3"; code=$?
                    cp -a "$1" "$1.kept"; exit $code"#;
    let data = world.setup.dir.join("data");
    let namespace: &[&str] = if rustix::process::getuid().is_root() { &["-m"] } else { &["-m", "-r"] };
    let output = tokio::process::Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", script, "sh", &data.display().to_string(), super::world::SYNCLINE, &config])
        .env("ERP_PASSWORD", &world.password)
        .output()
        .await
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert_says(&text, &["No space left on device", "data/"]);
    fs::remove_dir(&data).expect("the mount point is empty outside");
    fs::rename(data.with_extension("kept"), &data).expect("what was on the full disk");
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}
