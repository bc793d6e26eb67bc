//! What the daemon refuses to work with: each a clear message with place and remedy, an exit code, and nothing lost.

use std::fs;
use std::path::PathBuf;

use super::demo::erp::Scale;
use super::demo::server::free_port;
use super::world::{World, eventually, get};

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
async fn a_drain_that_is_interrupted_does_not_report_success() {
    let world = World::new(Scale::SHOP, &[]).await;
    let (right, wrong) = (world.server.port(), free_port().expect("a port"));
    world.reconfigure(&format!(":{right}/"), &format!(":{wrong}/"));
    let drain = world.setup.drain(&world.password).start().expect("the daemon starts");
    eventually("it has tried in vain", || async {
        world.status().await.unwrap_or_default()["sources"]["erp"]["retries"].as_u64() > Some(0)
    })
    .await;
    let text = drain.stop().await.expect_err("nothing was drained").to_string();
    assert_says(&text, &["exit status: 1", "interrupted before everything was confirmed", "after the next start"]);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_mapping_costs_no_copy_even_where_the_server_was_away_at_first() {
    let world = World::new(Scale::SHOP, &[]).await;
    let (right, wrong) = (format!(":{}/", world.server.port()), format!(":{}/", free_port().expect("a port")));
    let mapping = world.setup.dir.join("mappings/erp/location.sql");
    let good = fs::read_to_string(&mapping).expect("read the mapping");
    fs::write(&mapping, good.replace("site_name AS name", "site_nam AS name")).expect("write the mapping");
    world.reconfigure(&right, &wrong);
    let daemon = world.daemon();
    eventually("it has tried in vain", || async {
        world.status().await.unwrap_or_default()["sources"]["erp"]["retries"].as_u64() > Some(0)
    })
    .await;
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");

    world.reconfigure(&wrong, &right);
    assert_says(&refusal(&world).await, &["location.sql:4:", "site_nam", "nothing is captured yet"]);
    fs::write(&mapping, &good).expect("write the mapping");
    let summary = world.drain().await;
    assert_eq!((summary["rows"].as_u64() > Some(5_000), &summary["rows"]), (true, &summary["reads"]), "{summary}");
    world.assert_planner_equals_source().await;
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
    // The address comes first: whoever starts the same file twice does not even look at the data.
    assert_says(&refusal(&world).await, &["cannot listen at ", "set listen in [daemon]"]);
    let (listen, other) = (world.setup.listen(), format!("127.0.0.1:{}", free_port().expect("a port")));
    world.reconfigure(&listen, &other);
    assert_says(&refusal(&world).await, &["data/lock is locked", "another daemon", "data_dir"]);
    world.reconfigure(&other, &listen);
    let health = get(&format!("http://{}/health", world.setup.listen())).await.expect("it answers");
    assert_eq!(health.status().as_u16(), 200);
    let metrics = get(&format!("http://{}/metrics", world.setup.listen())).await.expect("it answers");
    assert!(metrics.text().await.expect("text").contains("syncline_"));
    let status = world.command(&["status", "--json"]).await;
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.end().await;
}

/// A disk of 1 MiB that only this daemon sees; what it holds at the end is kept as the data folder.
const SMALL_DISK: &str = r#"mkdir -p "$1" && mount -t tmpfs -o size=1m tmpfs "$1"; "$2" run --drain --config "$3"; code=$?
                            cp -a "$1" "$1.kept"; umount "$1"; rmdir "$1"; mv "$1.kept" "$1"; exit $code"#;
/// Where no disk may be mounted: no file may grow beyond 128 blocks of 512 bytes, and the daemon is told so by the write.
const SMALL_FILES: &str = r#"trap '' XFSZ; ulimit -f 128; exec "$2" run --drain --config "$3""#;

/// How a process gets mounts of its own, where this user and this container may have them.
async fn own_mounts() -> Option<Vec<&'static str>> {
    let command = if rustix::process::getuid().is_root() { vec!["unshare", "-m"] } else { vec!["unshare", "-m", "-r"] };
    let probe = "mount -t tmpfs -o size=1m tmpfs /tmp";
    let probed = tokio::process::Command::new(command[0]).args(&command[1..]).args(["sh", "-c", probe]).output().await;
    probed.is_ok_and(|probed| probed.status.success()).then_some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_daemon_with_its_name_and_loses_nothing() {
    let world = World::new(Scale::SHOP, &[]).await;
    let config = world.setup.config().display().to_string();
    let data = world.setup.dir.join("data");
    let (mut command, script, reason) = match own_mounts().await {
        Some(command) => (command, SMALL_DISK, "No space left on device"),
        None => (Vec::new(), SMALL_FILES, "File too large"),
    };
    command.extend(["sh", "-c", script, "sh"]);
    let output = tokio::process::Command::new(command[0])
        .args(&command[1..])
        .args([&data.display().to_string(), super::world::SYNCLINE, &config])
        .env("ERP_PASSWORD", &world.password)
        .output()
        .await
        .expect("a shell runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert_says(&text[text.rfind("syncline: ").expect("the reason of the exit")..], &[reason, "data/"]);
    world.drain().await;
    world.assert_planner_equals_source().await;
    world.end().await;
}
