//! A platform that accepts everything and tells later: what it refused is known before a write returns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::profile::{Profile, ProfileConfig, ProfileSink};
use syncline_sinks::{Class, Known, Sink as _, Span};

use crate::outbox::{Change, Outbox, delete, upsert};
use crate::server::{Asked, Choices, Faults, Platform, Server};

const PROFILE: &str = r#"
dialect = "accept_errors"
max_records = 20
decimals = "number"
[confirm]
path = "/meta/errors"
next = "/_links/next/href"
index = "/row"
retryable = ["unknown_product"]
settle_polls = 2
every = "1ms"
[flow.item]
path = "/data/master/products"
key = ["code"]
row = { code = "item_id", name = "description" }
constant = ["company_id"]
delete = { strategy = "keep" }
[flow.inventory_balance]
path = "/data/transactions/inventories"
key = ["product", "location"]
row = { product = "item_id", location = "location_id", quantity = "dec(on_hand, 4, 'exact')" }
constant = ["company_id", "owner_id", "stock_class"]
delete = { strategy = "set_zero", fields = ["quantity"] }
"#;

/// A request that was accepted.
#[derive(Default)]
struct Accepted {
    errors: Vec<Value>,
    polls: usize,
}

/// The platform: applies what it is given, and shows an error only after some polls.
#[derive(Default)]
struct Relex {
    rows: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
    /// By request, and the request of each batch.
    accepted: BTreeMap<String, Accepted>,
    batches: BTreeMap<String, (String, Vec<u8>)>,
    timestamps: BTreeMap<String, u64>,
    /// Polls before which nothing is told.
    late: usize,
    /// Polls in which it does not know what it has accepted.
    unsure: usize,
    /// True where an error does not say of which row it is.
    is_vague: bool,
    poison: BTreeSet<String>,
    /// What it found wrong with us.
    breaches: Vec<String>,
}

impl Relex {
    fn post(&mut self, resource: &str, body: &[u8]) -> Response {
        let Ok(sent) = serde_json::from_slice::<Value>(body) else { return StatusCode::BAD_REQUEST.into_response() };
        let (batch, stamp) = (sent["meta"]["batch_id"].as_str(), sent["meta"]["timestamp"].as_u64());
        let (Some(batch), Some(stamp), Some(rows)) = (batch, stamp, sent["data"].as_array()) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if body.len() > 1_000_000 {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        let request = format!("r{}", self.accepted.len());
        if let Some((_, seen)) = self.batches.get(batch).filter(|(_, seen)| seen != body) {
            self.breaches.push(format!("batch {batch} came with other bytes: {}", String::from_utf8_lossy(seen)));
        }
        self.batches.insert(batch.to_owned(), (request.clone(), body.to_vec()));
        let mut errors = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let row = row.as_object().expect("rows are objects");
            let parts = ["code", "product", "location"].map(|name| row.get(name).and_then(Value::as_str).unwrap_or(""));
            let unknown = resource == "transactions/inventories"
                && !self.rows.get("master/products").is_some_and(|known| known.contains_key(parts[1]));
            let is_bad = parts.iter().any(|part| self.poison.contains(*part));
            let is_number = row.get("quantity").is_none_or(Value::is_number);
            if unknown || is_bad || !is_number {
                let (code, field) = if unknown { ("unknown_product", "product") } else { ("bad value", "code") };
                let place = if self.is_vague { Value::Null } else { json!(index) };
                errors.push(json!({"row": place, "code": code, "field": field, "detail": row}));
                continue;
            }
            let key = parts.join("/");
            let key = key.trim_matches('/').to_owned();
            // What a platform does that orders by the time that it is told.
            let newest = self.timestamps.entry(format!("{resource}/{key}")).or_default();
            if stamp >= *newest {
                *newest = stamp;
                self.rows.entry(resource.to_owned()).or_default().entry(key).or_default().extend(row.clone());
            }
        }
        self.accepted.insert(request.clone(), Accepted { errors, polls: 0 });
        (StatusCode::ACCEPTED, json!({"request_id": request}).to_string()).into_response()
    }

    /// One error a page.
    fn errors(&mut self, query: &str) -> Response {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let page: usize = value("page").and_then(|page| page.parse().ok()).unwrap_or(0);
        let Some(accepted) = value("request_id").and_then(|id| self.accepted.get_mut(id)) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if self.unsure > 0 {
            self.unsure -= 1;
            return StatusCode::NOT_FOUND.into_response();
        }
        accepted.polls += usize::from(page == 0);
        let shown: &[Value] = if accepted.polls > self.late { &accepted.errors } else { &[] };
        let mut answer = json!({"errors": shown.get(page).into_iter().collect::<Vec<_>>()});
        if page + 1 < shown.len() {
            let id = value("request_id").expect("looked up");
            answer["_links"]["next"]["href"] = json!(format!("/meta/errors?request_id={id}&page={}", page + 1));
        }
        answer.to_string().into_response()
    }
}

impl Platform for Relex {
    fn answer(&mut self, asked: &Asked) -> Response {
        match (&asked.method, asked.uri.path()) {
            (&Method::GET, "/meta/errors") => self.errors(asked.uri.query().unwrap_or_default()),
            (&Method::POST, "/data/master/products") => self.post("master/products", &asked.body),
            (&Method::POST, "/data/transactions/inventories") => self.post("transactions/inventories", &asked.body),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

fn sink(server: &Server<Relex>) -> ProfileSink {
    sink_of(server, PROFILE)
}

fn sink_of(server: &Server<Relex>, text: &str) -> ProfileSink {
    let profile = Profile::parse("relex.toml", Path::new(""), text).unwrap_or_else(|faults| panic!("{faults}"));
    ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink")
}

fn item(id: &str, name: &str) -> Change {
    upsert("item", &[("item_id", id), ("description", name)])
}

fn stock(item: &str, quantity: &str) -> Change {
    upsert("inventory_balance", &[("item_id", item), ("location_id", "BER"), ("on_hand", quantity)])
}

#[tokio::test]
async fn an_error_that_comes_late_is_told_before_the_batch_counts_as_delivered() {
    let server = Server::start(Relex { late: 2, unsure: 3, ..Relex::default() }).await;
    server.platform(|target| target.poison.extend(["i7".to_owned(), "i9".to_owned()]));
    let mut outbox = Outbox::default();
    outbox.push(&(0..50).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
    outbox.push(&[stock("i1", "1.25"), stock("gone", "2"), stock("i2", "1.00001")]);
    let written = sink(&server).write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (49, 4));
    let refused = outbox.refused();
    let told = |code: &str, field: &str, retryable| (code.to_owned(), Some(field.to_owned()), retryable);
    assert_eq!(refused[r#"{"code":"i7"}"#], told("bad value", "code", false));
    assert_eq!(refused[r#"{"product":"gone","location":"BER"}"#], told("unknown_product", "product", true));
    let inexact = &refused[r#"{"product":"i2","location":"BER"}"#];
    assert_eq!(*inexact, told("inexact", "quantity", false), "never sent, as it would have been rounded");
    server.platform(|target| {
        assert_eq!(target.rows["transactions/inventories"]["i1/BER"]["quantity"].to_string(), "1.25");
        // Nothing was called settled that had been asked for fewer times.
        assert!(target.accepted.values().all(|accepted| accepted.polls >= 3));
        assert!(target.breaches.is_empty(), "{:?}", target.breaches);
    });
}

#[tokio::test]
async fn every_row_whose_key_cannot_be_told_is_refused_and_none_vanishes() {
    let server = Server::start(Relex::default()).await;
    let text = PROFILE.replace("code = \"item_id\"", "code = \"map(codes, item_id)\"");
    let mut outbox = Outbox::default();
    outbox.push(&[item("a", "x"), item("b", "x"), item("c", "x"), item("d", "x"), item("a", "y")]);
    let mut sink = sink_of(&server, &format!("{text}\n[tables.codes]\na = \"A\"\n"));
    let written = sink.write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (1, 3));
    assert_eq!(outbox.refused()[r#"{"code":null}"#], ("unmapped_value".to_owned(), Some("code".to_owned()), false));
    assert_eq!(server.platform(|target| target.rows["master/products"]["A"]["name"].clone()), "y");
}

const SOUND_STOCK: &str = r#"
dialect = "accept_errors"
decimals = "number"
[confirm]
path = "/meta/errors"
settle_polls = 1
every = "1ms"
[tables.states]
good = "yes"
gone = "no"
[flow.item]
path = "/data/master/products"
key = ["code"]
row = { code = "item_id", quantity = "unit_cost" }
where = "map(states, description) = 'yes'"
constant = ["company_id"]
delete = { strategy = "set_zero", fields = ["quantity"] }
[flow.inventory_balance]
path = "/data/transactions/inventories"
key = ["product", "location"]
row = { product = "item_id", location = "location_id", quantity = "on_hand" }
where = "owner_id = '' and stock_class = '' and on_hand > 0"
constant = ["company_id"]
delete = { strategy = "set_zero", fields = ["quantity"] }
"#;

#[tokio::test]
async fn a_condition_that_cannot_be_told_deletes_no_row_and_a_row_of_another_owner_deletes_none_of_ours() {
    let server = Server::start(Relex::default()).await;
    let part = |id: &str, state: &str| upsert("item", &[("item_id", id), ("description", state), ("unit_cost", "3")]);
    let mut outbox = Outbox::default();
    outbox.push(&[part("1", "good"), part("2", "good"), part("3", "good")]);
    outbox.push(&[part("1", "odd"), part("2", "gone"), delete("item", &[("item_id", "3")]), stock("1", "5")]);
    let theirs = [("item_id", "1"), ("location_id", "BER"), ("owner_id", "V"), ("on_hand", "0")];
    outbox.push(&[upsert("inventory_balance", &theirs)]);
    let mut sink = sink_of(&server, SOUND_STOCK);
    for upto in 1..=3 {
        let span = Span { after: LogOffset(upto - 1), upto: LogOffset(upto) };
        let written = sink.write(span, &outbox).await.expect("delivered");
        assert_eq!(written.rejected, u64::from(upto == 2), "{:?}", outbox.refused());
    }
    assert_eq!(outbox.refused()[r#"{"code":"1"}"#], ("unmapped_value".to_owned(), None, false));
    server.platform(|target| {
        let held = |resource: &str, key: &str| target.rows[resource][key]["quantity"].to_string();
        assert_eq!(["1", "2", "3"].map(|key| held("master/products", key)), ["3", "0", "0"]);
        assert_eq!(held("transactions/inventories", "1/BER"), "5");
    });
}

#[tokio::test]
async fn a_constant_is_remembered_and_rows_that_are_left_out_do_not_count() {
    let server = Server::start(Relex::default()).await;
    let mut outbox = Outbox::default();
    let of = |company: &str, owner: &str| {
        let fields = [("item_id", "1"), ("location_id", "BER"), ("on_hand", "5"), ("company_id", company)];
        upsert("inventory_balance", &[&fields[..], &[("owner_id", owner)]].concat())
    };
    outbox.push(&[upsert("item", &[("item_id", "1"), ("description", "good")]), of("C1", ""), of("C2", "V")]);
    let written = sink_of(&server, SOUND_STOCK).write(outbox.span(), &outbox).await.expect("one company");
    let known = Known { notes: written.notes.into_iter().collect(), ..Known::default() };
    outbox.push(&[of("C2", "")]);
    let mut next = sink_of(&server, SOUND_STOCK);
    next.recall(&known).await.expect("remembered");
    let error = next.write(outbox.last(), &outbox).await.expect_err("two companies").to_string();
    assert!(
        error.contains("inventory_balance.company_id is constant in the profile and has several values"),
        "{error}"
    );
}

#[tokio::test]
async fn an_error_without_a_row_is_narrowed_down_to_it() {
    let server = Server::start(Relex { is_vague: true, ..Relex::default() }).await;
    server.platform(|target| target.poison.insert("i5".to_owned()));
    let mut outbox = Outbox::default();
    outbox.push(&(0..16).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
    let written = sink(&server).write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (15, 1));
    assert_eq!(outbox.refused().keys().collect::<Vec<_>>(), [r#"{"code":"i5"}"#]);
    server.platform(|target| assert!(target.batches.len() <= 1 + 2 * 4, "{} batches", target.batches.len()));
}

#[tokio::test]
async fn a_check_asks_where_errors_are_told_and_an_answer_without_an_id_stops_the_sink() {
    let server = Server::start(Relex::default()).await;
    sink(&server).check().await.expect("it answers");
    let elsewhere = PROFILE.replace("/meta/errors", "/meta/faults");
    let profile = Profile::parse("relex.toml", Path::new(""), &elsewhere).expect("sound");
    let astray = ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink");
    let error = astray.check().await.expect_err("not there");
    assert!(error.class() == Class::Definite && error.to_string().contains("the paths of its profile"), "{error}");
    let nameless = PROFILE.replace("[confirm]", "[confirm]\nrequest_id = \"/id\"");
    let profile = Profile::parse("relex.toml", Path::new(""), &nameless).expect("sound");
    let mut sink = ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink");
    let mut outbox = Outbox::default();
    outbox.push(&[item("1", "x")]);
    let error = sink.write(outbox.span(), &outbox).await.expect_err("nothing to follow it by");
    assert!(error.to_string().contains("gave an answer without an id at /id"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_storm_of_faults_and_kills_leaves_another_state_than_what_was_last_said() {
    let mut choices = Choices(20_260_526);
    let mut outbox = Outbox::default();
    outbox.push(&(0..8).map(|i| item(&format!("i{i}"), "x")).collect::<Vec<_>>());
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..40 {
        let mut changes = Vec::new();
        for _ in 0..=choices.below(20) {
            let (name, value) = (format!("i{}", choices.below(8)), choices.below(900));
            if value < 100 {
                changes.push(delete("inventory_balance", &[("item_id", &name), ("location_id", "BER")]));
                wanted.insert(format!("{name}/BER"), "0".to_owned());
            } else {
                changes.push(stock(&name, &value.to_string()));
                wanted.insert(format!("{name}/BER"), value.to_string());
            }
        }
        outbox.push(&changes);
    }
    let server = Server::start(Relex::default()).await;
    server.set_faults(Faults { unavailable: 10, throttled: 5, lost: 10, latency: Duration::from_millis(1) });
    let (mut sink, mut kills) = (sink(&server), 0);
    let (mut after, end) = (LogOffset::START, outbox.span().upto);
    while after < end {
        let upto = LogOffset((after.0 + 1 + choices.below(15)).min(end.0));
        let patience = Duration::from_micros(500 + choices.below(if kills < 20 { 200_000 } else { 60_000_000 }));
        match tokio::time::timeout(patience, sink.write(Span { after, upto }, &outbox)).await {
            Ok(written) => {
                assert_eq!(written.unwrap_or_else(|error| panic!("{error}")).rejected, 0, "{:?}", outbox.refused());
                after = upto;
            }
            Err(_) => {
                kills += 1;
                if choices.below(2) == 0 {
                    sink = self::sink(&server);
                }
            }
        }
    }
    server.platform(|target| {
        let held = &target.rows["transactions/inventories"];
        let held: BTreeMap<String, String> =
            held.iter().map(|(key, row)| (key.clone(), row["quantity"].to_string())).collect();
        assert_eq!(held, wanted);
        assert!(target.breaches.is_empty(), "{:?}", target.breaches);
    });
}
