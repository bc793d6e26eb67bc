//! What a frePPLe ends with, whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::planning::PlanningConfig;
use syncline_sinks::profile::{Profile, ProfileConfig, ProfileSink};
use syncline_sinks::{Class, Known, Recalled, Sink as _, Span, Written};

use crate::frepple_target::Frepple;
use crate::outbox::{Change, Outbox, delete, upsert};
use crate::server::{Choices, Faults, Server};

fn sink(server: &Server<Frepple>) -> ProfileSink {
    let profile = Profile::open("frepple", Path::new("")).expect("shipped");
    let mut config = server.config();
    // The rate of the profile is for a real one.
    config.rate = Some("100000/s".parse().expect("a rate"));
    ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink")
}

fn item(id: &str, description: &str) -> Change {
    upsert(
        "item",
        &[("item_id", id), ("description", description), ("item_type", "stock"), ("unit_cost", "1.123456789")],
    )
}

fn location(id: &str) -> Change {
    upsert("location", &[("location_id", id), ("name", "North"), ("type", "dc")])
}

fn stock(item: &str, available: &str) -> Change {
    upsert("inventory_balance", &[("item_id", item), ("location_id", "BER"), ("available", available)])
}

fn line(id: &str, open: &str, class: &str) -> Change {
    upsert(
        "sales_order_line",
        &[
            ("order_id", "S 1"),
            ("line_id", id),
            ("item_id", "4711"),
            ("location_id", "BER"),
            ("order_class", class),
            ("qty_open", open),
            ("status", "partial"),
            ("requested_date", "2026-06-01"),
        ],
    )
}

fn purchase(order: &str, open: &str, status: &str) -> Change {
    upsert(
        "purchase_order_line",
        &[
            ("po_id", order),
            ("line_id", "1"),
            ("item_id", "4711"),
            ("location_id", "BER"),
            ("supplier_id", "ACME"),
            ("qty_open", open),
            ("status", status),
            ("need_by", "2026-06-09"),
        ],
    )
}

async fn write(sink: &mut ProfileSink, span: Span, outbox: &Outbox) -> Written {
    sink.write(span, outbox).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn every_model_gets_its_rows_exactly_and_only_what_is_open_is_demand() {
    let server = Server::start(Frepple { post_updates: true, ..Frepple::default() }).await;
    let mut outbox = Outbox::default();
    // Facts stand before their masters here, and arrive behind them.
    outbox.push(&[
        stock("4711", "110.5"),
        upsert(
            "inventory_balance",
            &[("item_id", "4711"), ("location_id", "BER"), ("owner_id", "V"), ("available", "9")],
        ),
        upsert("item_location", &[("item_id", "4711"), ("location_id", "BER"), ("safety_stock_qty", "7")]),
        line("1", "5", "normal"),
        line("2", "0", "normal"),
        line("3", "5", "return"),
        purchase("P1", "40", "sent"),
        // Closed short: nobody waits for the rest.
        purchase("P2", "3", "closed"),
        upsert(
            "supplier_item",
            &[("supplier_id", "ACME"), ("item_id", "4711"), ("lead_time_days", "14"), ("moq", "12.5"), ("price", "3")],
        ),
        upsert("customer", &[("customer_id", "K1"), ("name", "A \"quoted\" name")]),
        upsert("supplier", &[("supplier_id", "ACME"), ("name", "Acme")]),
        item("4711", "Bolt"),
        location("BER"),
    ]);
    let mut sink = sink(&server);
    let written = write(&mut sink, outbox.span(), &outbox).await;
    assert_eq!((written.rows, written.rejected), (13, 0), "{:?}", outbox.refused());
    server.platform(|target| {
        assert_eq!(target.value("item", "4711", "cost"), "1.12345679", "rounded to what it takes");
        assert_eq!(target.value("buffer", "4711 @ BER", "onhand"), "110.5");
        assert_eq!(target.value("buffer", "4711 @ BER", "minimum"), "7");
        assert_eq!(target.keys("demand"), ["S 1:1"], "neither what is delivered nor a return");
        assert_eq!(target.value("demand", "S 1:1", "due"), "2026-06-01T00:00:00");
        assert_eq!(target.keys("purchaseorder"), ["P1:1"]);
        assert_eq!(target.value("purchaseorder", "P1:1", "quantity"), "40");
        let terms = "4711 @ ACME @  @ 1970-01-01T00:00:00";
        assert_eq!(target.value("itemsupplier", terms, "leadtime"), "14 00:00:00");
        assert_eq!(target.value("customer", "K1", "description"), "A \"quoted\" name");
    });
    outbox.push(&[
        line("1", "0", "normal"),
        delete("inventory_balance", &[("item_id", "4711"), ("location_id", "BER")]),
        delete("purchase_order_line", &[("po_id", "P1"), ("line_id", "1")]),
        delete("supplier_item", &[("supplier_id", "ACME"), ("item_id", "4711")]),
        delete("item", &[("item_id", "4711")]),
    ]);
    write(&mut sink, outbox.last(), &outbox).await;
    server.platform(|target| {
        assert!(target.keys("demand").is_empty() && target.keys("purchaseorder").is_empty());
        assert_eq!(target.value("buffer", "4711 @ BER", "onhand"), json!("0"));
        assert_eq!(target.value("buffer", "4711 @ BER", "minimum"), "7", "that of another flow stays");
        assert_eq!(target.value("itemsupplier", "4711 @ ACME @  @ 1970-01-01T00:00:00", "priority"), json!(0));
        assert_eq!(target.keys("item"), ["4711"], "what is cited stays");
    });
}

#[tokio::test]
async fn rows_that_people_added_or_deleted_there_end_right_whoever_was_wrong() {
    let server = Server::start(Frepple::default()).await;
    let mut outbox = Outbox::default();
    let all: Vec<Change> = (0..100).map(|i| item(&format!("i{i}"), "first")).collect();
    outbox.push(&all);
    let mut sink = sink(&server);
    write(&mut sink, outbox.span(), &outbox).await;
    // Behind our back some are deleted, and some of those that come next are there.
    server.platform(|target| {
        let items = target.rows.get_mut("item").expect("filled");
        (0..100).step_by(7).for_each(|i| drop(items.remove(&format!("i{i}"))));
        for i in (100..150).step_by(3) {
            let row = json!({"name": format!("i{i}"), "description": "theirs"});
            items.insert(format!("i{i}"), row.as_object().expect("an object").clone());
        }
    });
    server.requests();
    let again: Vec<Change> = (0..150).map(|i| item(&format!("i{i}"), "second")).collect();
    outbox.push(&again);
    let written = write(&mut sink, outbox.last(), &outbox).await;
    assert_eq!((written.rows, written.rejected), (150, 0));
    // Four lanes, each: an update that fails, a create that fails by rows, the two halves of it; and that for new ones.
    let requests = server.requests();
    assert!(requests <= 4 * 8, "{requests} requests");
    server.platform(|target| {
        assert_eq!(target.keys("item").len(), 150);
        assert!((0..150).all(|i| target.value("item", &format!("i{i}"), "description") == "second"));
    });
    // And now everything is known: one update per lane.
    let third: Vec<Change> = (0..150).map(|i| item(&format!("i{i}"), "third")).collect();
    outbox.push(&third);
    write(&mut sink, outbox.last(), &outbox).await;
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn one_bad_row_holds_up_no_other_and_is_found_in_few_requests() {
    for is_mute in [false, true] {
        let server = Server::start(Frepple { is_mute, ..Frepple::default() }).await;
        server.platform(|target| target.poison.insert("i77".to_owned()));
        let mut outbox = Outbox::default();
        outbox.push(&(0..256).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
        let mut config = server.config();
        config.partitions = 1;
        config.rate = Some("100000/s".parse().expect("a rate"));
        let profile = Profile::open("frepple", Path::new("")).expect("shipped");
        let mut sink = ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink");
        let written = write(&mut sink, outbox.span(), &outbox).await;
        assert_eq!((written.rows, written.rejected), (255, 1));
        // One more sees whether the row is there already, and one whether it is bad by itself.
        let most = if is_mute { 1 + 2 * 8 + 2 } else { 2 };
        let requests = server.requests();
        assert!(requests <= most, "{requests} requests");
        let refused = outbox.refused();
        let (code, field, _) = &refused[r#"{"name":"i77"}"#];
        if is_mute {
            assert_eq!((code.as_str(), field.as_deref()), ("refused", None));
        } else {
            assert_eq!((code.as_str(), field.as_deref()), ("invalid_value", Some("name")));
        }
        assert_eq!(server.platform(|target| target.keys("item").len()), 255);
    }
}

#[tokio::test]
async fn rows_that_are_there_already_are_updated_also_where_the_target_does_not_say_why_it_refused_them() {
    let server = Server::start(Frepple { is_mute: true, ..Frepple::default() }).await;
    server.platform(|target| {
        for i in [3, 30] {
            let row = json!({"name": format!("i{i}"), "description": "theirs"});
            let rows = target.rows.entry("item").or_default();
            rows.insert(format!("i{i}"), row.as_object().expect("an object").clone());
        }
    });
    let mut outbox = Outbox::default();
    outbox.push(&(0..40).map(|i| item(&format!("i{i}"), "ours")).collect::<Vec<_>>());
    let written = write(&mut sink(&server), outbox.span(), &outbox).await;
    assert_eq!((written.rows, written.rejected), (40, 0), "{:?}", outbox.refused());
    server.platform(|target| {
        assert!((0..40).all(|i| target.value("item", &format!("i{i}"), "description") == "ours"));
    });
}

#[tokio::test]
async fn a_fact_whose_master_is_missing_is_refused_for_now_and_goes_through_later() {
    let server = Server::start(Frepple { post_updates: true, ..Frepple::default() }).await;
    let mut outbox = Outbox::default();
    outbox.push(&[location("BER"), stock("4711", "1"), item("4712", "there"), stock("4712", "2")]);
    let mut sink = sink(&server);
    let written = write(&mut sink, outbox.span(), &outbox).await;
    assert_eq!(written.rejected, 1);
    let refused = outbox.refused();
    let told = &refused[r#"{"item":"4711","location":"BER"}"#];
    assert_eq!(*told, ("unknown_reference".to_owned(), Some("item".to_owned()), true));
    outbox.push(&[item("4711", "late")]);
    write(&mut sink, outbox.last(), &outbox).await;
    sink.retry(&outbox).await.expect("taken");
    assert_eq!(server.platform(|target| target.value("buffer", "4711 @ BER", "onhand")), "1");
}

const DELETES: &str = r#"
dialect = "frepple"
[flow.item]
path = "/api/input/item/"
key = ["name"]
row = { name = "item_id", description = "description" }
constant = ["company_id"]
delete = { strategy = "delete" }
"#;

fn sink_that_deletes(config: PlanningConfig) -> ProfileSink {
    let profile = Profile::parse("deletes.toml", Path::new(""), DELETES).expect("sound");
    ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink")
}

#[tokio::test]
async fn rows_that_we_delete_ourselves_do_not_make_a_target_look_emptied_and_no_key_reaches_another_place() {
    let server = Server::start(Frepple::default()).await;
    let mut sink = sink_that_deletes(server.config());
    let mut outbox = Outbox::default();
    outbox.push(&(0..9).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
    let written = write(&mut sink, outbox.span(), &outbox).await;
    assert!(written.notes.iter().all(|(name, _)| name != "samples"));
    let keys = ["i1", "i2", "..", ".", "", "a\tb"];
    outbox.push(&keys.map(|key| delete("item", &[("item_id", key)])));
    let written = write(&mut sink, outbox.last(), &outbox).await;
    assert_eq!((written.rows, written.rejected), (2, 4));
    assert_eq!(outbox.refused()[r#"{"name":".."}"#], ("invalid_value".to_owned(), Some("name".to_owned()), false));
    assert_eq!(server.platform(|target| target.keys("item").len()), 7);
}

#[tokio::test]
async fn an_error_does_not_repeat_the_key_of_a_row() {
    let server = Server::start(Frepple::default()).await;
    let mut config = server.config();
    config.url = "http://127.0.0.1:1/".parse().expect("a URL where nobody is");
    config.patience = Duration::ZERO;
    let mut outbox = Outbox::default();
    outbox.push(&[delete("item", &[("item_id", "SECRET")])]);
    let error = sink_that_deletes(config).write(outbox.span(), &outbox).await.expect_err("nobody is there").to_string();
    assert!(error.contains("/api/input/item/") && !error.contains("SECRET"), "{error}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved_and_a_key_comes_once_in_it() {
    let server = Server::start(Frepple { at_once_max: Some(10), ..Frepple::default() }).await;
    let mut outbox = Outbox::default();
    for round in 0..3 {
        outbox.push(&(0..90).map(|i| item(&format!("i{i}"), &format!("r{round}"))).collect::<Vec<_>>());
    }
    let mut sink = sink(&server);
    write(&mut sink, outbox.span(), &outbox).await;
    assert_eq!(sink.stats().read().coalesced, 180, "only the newest row of a key goes out");
    server.platform(|target| {
        assert_eq!(target.keys("item").len(), 90);
        assert!((0..90).all(|i| target.value("item", &format!("i{i}"), "description") == "r2"));
    });
}

#[tokio::test]
async fn a_new_process_knows_the_keys_and_an_emptied_target_is_noticed() {
    let server = Server::start(Frepple::default()).await;
    let mut outbox = Outbox::default();
    outbox.push(&(0..40).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
    let mut first = sink(&server);
    let notes = write(&mut first, outbox.span(), &outbox).await.notes.into_iter().collect();
    let known = Known { notes, ..Known::default() };
    let mut next = sink(&server);
    assert_eq!(next.recall(&known).await.expect("asked"), Recalled::Unknown);
    outbox.push(&(0..40).map(|i| item(&format!("i{i}"), "y")).collect::<Vec<_>>());
    server.requests();
    write(&mut next, outbox.last(), &outbox).await;
    assert_eq!(server.requests(), 4, "one update per lane, nothing tried in vain");
    server.platform(|target| target.rows.clear());
    assert_eq!(sink(&server).recall(&known).await.expect("asked"), Recalled::Nothing);
}

#[tokio::test]
async fn a_check_finds_a_path_that_is_not_there_and_a_server_that_is_down() {
    let server = Server::start(Frepple::default()).await;
    sink(&server).check().await.expect("all models are there");
    let text = "dialect = \"frepple\"\n[flow.item]\npath = \"/api/input/items/\"\nkey = [\"name\"]\nrow = { name = \"item_id\" }\n\
                constant = [\"company_id\"]\ndelete = { strategy = \"keep\" }\n";
    let profile = Profile::parse("p.toml", Path::new(""), text).expect("sound");
    let other =
        ProfileSink::new(ProfileConfig::new(server.config(), profile.clone()).expect("entities")).expect("a sink");
    let error = other.check().await.expect_err("no such model");
    assert!(error.to_string().contains("/api/input/items/: is not there, where item goes"), "{error}");
    let mut config = server.config();
    config.url = "http://127.0.0.1:1".parse().expect("a URL");
    config.patience = Duration::ZERO;
    let down = ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink");
    assert_eq!(down.check().await.expect_err("nobody answers").class(), Class::Transient);
}

#[tokio::test]
async fn a_field_that_is_said_to_be_constant_and_is_not_stops_the_sink_before_companies_mix() {
    let server = Server::start(Frepple::default()).await;
    let mut outbox = Outbox::default();
    outbox.push(&[item("4711", "ours"), upsert("item", &[("company_id", "C2"), ("item_id", "4711")])]);
    let error = sink(&server).write(outbox.span(), &outbox).await.expect_err("two companies");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("item.company_id is constant in the profile and has several values"), "{error}");
    assert!(server.platform(|target| target.keys("item").is_empty()));
}

/// What it holds, but for who wrote it: a row that was only ever deleted says nothing about that.
fn state(target: &mut Frepple) -> BTreeMap<&'static str, BTreeMap<String, Map<String, Value>>> {
    let mut rows = target.rows.clone();
    rows.values_mut().flat_map(BTreeMap::values_mut).for_each(|row| drop(row.remove("source")));
    rows
}

/// Items, places, stock and orders that come, change and go.
fn random_outbox(choices: &mut Choices) -> Outbox {
    let mut outbox = Outbox::default();
    outbox.push(&(0..8).map(|i| item(&format!("i{i}"), "0")).chain([location("BER")]).collect::<Vec<_>>());
    for round in 0..50 {
        let changes = (0..=choices.below(30)).map(|_| {
            let name = format!("i{}", choices.below(8));
            let line = format!("{}", choices.below(40));
            match choices.below(5) {
                0 => item(&name, &round.to_string()),
                1 => stock(&name, &choices.below(1_000).to_string()),
                2 => delete("inventory_balance", &[("item_id", &name), ("location_id", "BER")]),
                3 => delete("sales_order_line", &[("order_id", "S"), ("line_id", &line)]),
                _ => upsert(
                    "sales_order_line",
                    &[
                        ("order_id", "S"),
                        ("line_id", &line),
                        ("item_id", &name),
                        ("location_id", "BER"),
                        ("order_class", "normal"),
                        ("qty_open", &choices.below(9).to_string()),
                        ("status", "open"),
                        ("promised_date", "2026-06-01"),
                    ],
                ),
            }
        });
        outbox.push(&changes.collect::<Vec<_>>());
    }
    outbox
}

async fn storm(seed: u64, post_updates: bool) {
    println!("seed {seed}, POST updates {post_updates}");
    let mut choices = Choices(seed);
    let outbox = random_outbox(&mut choices);
    // What it must end with is what a quiet one ends with.
    let quiet = Server::start(Frepple { post_updates: true, ..Frepple::default() }).await;
    write(&mut sink(&quiet), outbox.span(), &outbox).await;
    let server = Server::start(Frepple { post_updates: true, ..Frepple::default() }).await;
    let latency = Duration::from_millis(1);
    server.set_faults(Faults { unavailable: 10, throttled: 5, lost: 10, latency });
    // Of a server that creates and nothing else, a lost answer to a create is a duplicate.
    server.platform(|target| target.post_updates = post_updates);
    let (mut sink, mut known, mut kills) = (sink(&server), Known::default(), 0);
    let (mut after, end) = (LogOffset::START, outbox.span().upto);
    while after < end {
        let upto = LogOffset((after.0 + 1 + choices.below(15)).min(end.0));
        let patience = Duration::from_micros(500 + choices.below(if kills < 25 { 120_000 } else { 60_000_000 }));
        match tokio::time::timeout(patience, sink.write(Span { after, upto }, &outbox)).await {
            Ok(written) => {
                let written = written.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(written.rejected, 0, "{:?}", outbox.refused());
                known.notes.extend(written.notes);
                after = upto;
            }
            Err(_) => {
                kills += 1;
                if choices.below(2) == 0 {
                    sink = self::sink(&server);
                    sink.recall(&known).await.unwrap_or_else(|error| panic!("{error}"));
                }
            }
        }
    }
    assert_eq!(server.platform(state), quiet.platform(state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_storm_of_faults_and_kills_leaves_another_state_than_a_quiet_day() {
    for seed in [1, 20_260_526] {
        storm(seed, true).await;
        storm(seed, false).await;
    }
}
