//! A strict IBP: no token no write, transactions that are committed once, and rows that are there after that or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::profile::{Profile, ProfileConfig, ProfileSink};
use syncline_sinks::{Class, Sink as _, Span};

use crate::outbox::{Change, Outbox, delete, upsert};
use crate::server::{Asked, Choices, Faults, Platform, Server};

const PROFILE: &str = r#"
dialect = "odata_tx"
max_records = 10
[odata]
service = "/sap/IBP"
every = "1ms"
[flow.inventory_balance]
path = "/AREATrans"
rows = "NavAREA"
messages = "AREAMessage"
key = ["PRDID", "LOCID"]
row = { PRDID = "item_id", LOCID = "location_id", STOCK = "dec(on_hand, 6, 'exact')" }
constant = ["company_id", "owner_id", "stock_class"]
delete = { strategy = "set_zero", fields = ["STOCK"] }
"#;

#[derive(Default)]
struct Transaction {
    rows: Vec<Map<String, Value>>,
    is_committed: bool,
    polls: usize,
    bad: Vec<Value>,
}

/// The platform.
#[derive(Default)]
struct Ibp {
    rows: BTreeMap<String, String>,
    transactions: BTreeMap<String, Transaction>,
    /// The token that counts now, and how often one was given.
    token: String,
    tokens: usize,
    poison: BTreeSet<String>,
    /// True where good rows of a transaction with bad ones are written.
    is_partial: bool,
    /// True where messages do not say of which row they are.
    is_vague: bool,
    /// True where good rows of such a transaction are left out and one message is of no row.
    is_odd: bool,
    /// What it calls a transaction that failed.
    failed: Option<&'static str>,
}

impl Ibp {
    fn fetch(&mut self, headers: &HeaderMap) -> Response {
        if headers.get("x-csrf-token").is_none_or(|token| token != "fetch") {
            return StatusCode::OK.into_response();
        }
        self.tokens += 1;
        self.token = format!("token{}", self.tokens);
        let cookie = format!("SAP_SESSION={}; path=/; HttpOnly", self.token);
        ([("x-csrf-token", self.token.clone()), ("set-cookie", cookie)], "{}").into_response()
    }

    fn post(&mut self, headers: &HeaderMap, body: &[u8]) -> Response {
        let has = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
        let is_known = has("x-csrf-token", &self.token) && has("cookie", &format!("SAP_SESSION={}", self.token));
        if self.token.is_empty() || !is_known {
            return (StatusCode::FORBIDDEN, [("x-csrf-token", "Required")]).into_response();
        }
        let Ok(sent) = serde_json::from_slice::<Value>(body) else { return StatusCode::BAD_REQUEST.into_response() };
        let id = sent["Transactionid"].as_str().unwrap_or_default().to_owned();
        let fields = sent["AggregationLevelFieldsString"].as_str().unwrap_or_default();
        let (Some(rows), Some(commits)) = (sent["NavAREA"].as_array(), sent["DoCommit"].as_bool()) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if id.len() != 32 || fields != "PRDID,LOCID,STOCK" || rows.len() > 10 {
            return StatusCode::BAD_REQUEST.into_response();
        }
        let transaction = self.transactions.entry(id).or_default();
        if transaction.is_committed {
            return (StatusCode::BAD_REQUEST, "the transaction is committed").into_response();
        }
        transaction.rows.extend(rows.iter().filter_map(|row| row.as_object().cloned()));
        if commits {
            transaction.is_committed = true;
            let text = |row: &Map<String, Value>, name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let is_bad = |row: &Map<String, Value>| self.poison.contains(&text(row, "PRDID"));
            let (bad, good): (Vec<_>, Vec<_>) = transaction.rows.iter().partition(|row| is_bad(row));
            let whole = bad.is_empty() || self.is_partial;
            for row in good.into_iter().filter(|_| whole && (!self.is_odd || bad.is_empty())) {
                let value = row["STOCK"].as_str().map_or_else(|| row["STOCK"].to_string(), str::to_owned);
                self.rows.insert(text(row, "PRDID"), value);
            }
            let told = |row: &Map<String, Value>| match self.is_vague {
                true => json!({"Message": "something is wrong"}),
                false => json!({"PRDID": row["PRDID"], "LOCID": row["LOCID"], "Message": "no such product"}),
            };
            transaction.bad = bad.into_iter().map(told).collect();
        }
        StatusCode::CREATED.into_response()
    }

    /// Works on a transaction while it is asked for the first two times.
    fn result(&mut self, id: &str) -> Response {
        let Some(transaction) = self.transactions.get_mut(id).filter(|it| it.is_committed) else {
            return json!({"d": {"results": []}}).to_string().into_response();
        };
        transaction.polls += 1;
        let state = match (transaction.polls, transaction.bad.is_empty()) {
            (..=2, _) => "PROCESSING",
            (_, true) => "PROCESSED",
            (_, false) if self.is_partial => "PROCESSED_WITH_ERRORS",
            (_, false) => self.failed.unwrap_or("ERROR"),
        };
        json!({"d": {"results": [{"Value": state}]}}).to_string().into_response()
    }
}

impl Platform for Ibp {
    fn answer(&mut self, asked: &Asked) -> Response {
        let query = asked.uri.query().unwrap_or_default().replace("%27", "'");
        let id = query.split('\'').nth(1).unwrap_or_default();
        match (&asked.method, asked.uri.path()) {
            (&Method::GET, "/sap/IBP/") => self.fetch(&asked.headers),
            (&Method::POST, "/sap/IBP/AREATrans") => self.post(&asked.headers, &asked.body),
            (&Method::GET, "/sap/IBP/getExportResult") => self.result(id),
            (&Method::GET, "/sap/IBP/AREAMessage") => {
                let mut told = self.transactions.get(id).map(|it| it.bad.clone()).unwrap_or_default();
                if self.is_odd && !told.is_empty() {
                    told.insert(0, json!({"Message": "something else is wrong"}));
                }
                // One a page.
                let page: usize = query.split("skip=").nth(1).and_then(|page| page.parse().ok()).unwrap_or(0);
                let mut answer = json!({"d": {"results": told.get(page).into_iter().collect::<Vec<_>>()}});
                if page + 1 < told.len() {
                    let filter = format!("$filter=Transactionid%20eq%20%27{id}%27&skip={}", page + 1);
                    answer["d"]["__next"] = json!(format!("/sap/IBP/AREAMessage?{filter}"));
                }
                answer.to_string().into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

fn sink(server: &Server<Ibp>) -> ProfileSink {
    let profile = Profile::parse("ibp.toml", Path::new(""), PROFILE).expect("sound");
    ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink")
}

fn stock(item: &str, quantity: &str) -> Change {
    upsert("inventory_balance", &[("item_id", item), ("location_id", "BER"), ("on_hand", quantity)])
}

#[tokio::test]
async fn a_transaction_of_several_parts_is_there_when_a_write_returns_and_a_token_that_ended_is_replaced() {
    let server = Server::start(Ibp::default()).await;
    let mut outbox = Outbox::default();
    outbox.push(&(0..25).map(|i| stock(&format!("i{i}"), "1.5")).collect::<Vec<_>>());
    let mut sink = sink(&server);
    sink.check().await.expect("a token is given");
    let written = sink.write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (25, 0));
    server.platform(|target| {
        assert_eq!(target.rows.len(), 25);
        assert!(target.rows.values().all(|stock| stock == "1.5"));
        assert_eq!((target.transactions.len(), target.tokens), (1, 1));
        target.token = "another".to_owned();
    });
    outbox.push(&[delete("inventory_balance", &[("item_id", "i3"), ("location_id", "BER")])]);
    sink.write(outbox.last(), &outbox).await.expect("delivered");
    server.platform(|target| {
        assert_eq!((target.rows["i3"].as_str(), target.tokens), ("0", 2));
    });
    // The first rows again, as after a crash: they are known to be there.
    server.requests();
    let mut next = self::sink(&server);
    next.write(Span { upto: LogOffset(1), ..outbox.span() }, &outbox).await.expect("known");
    assert_eq!(server.platform(|target| target.transactions.len()), 2, "no third transaction");
}

#[tokio::test]
async fn bad_rows_are_told_and_the_others_are_written_whatever_the_platform_says_of_them() {
    for (is_partial, is_vague) in [(false, false), (true, false), (false, true)] {
        let server = Server::start(Ibp { is_partial, is_vague, ..Ibp::default() }).await;
        server.platform(|target| target.poison.extend(["i7".to_owned()]));
        let mut outbox = Outbox::default();
        outbox.push(&(0..16).map(|i| stock(&format!("i{i}"), "2")).collect::<Vec<_>>());
        let written = sink(&server).write(outbox.span(), &outbox).await.expect("delivered");
        assert_eq!((written.rows, written.rejected), (15, 1), "partial {is_partial}, vague {is_vague}");
        let refused = outbox.refused();
        let (code, ..) = &refused[r#"{"PRDID":"i7","LOCID":"BER"}"#];
        assert_eq!(code, if is_vague { "ERROR" } else { "no such product" });
        server.platform(|target| {
            assert_eq!(target.rows.len(), 15);
            let most = if is_vague { 1 + 2 * 4 } else { 2 };
            assert!(target.transactions.len() <= most, "{} transactions", target.transactions.len());
        });
    }
}

#[tokio::test]
async fn all_pages_of_messages_are_read_and_one_of_no_row_leaves_the_others_in_doubt() {
    let server = Server::start(Ibp { is_partial: true, is_odd: true, ..Ibp::default() }).await;
    server.platform(|target| target.poison.extend(["i3", "i7", "i9"].map(str::to_owned)));
    let mut outbox = Outbox::default();
    outbox.push(&(0..16).map(|i| stock(&format!("i{i}"), "2")).collect::<Vec<_>>());
    let written = sink(&server).write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (13, 3));
    server.platform(|target| assert_eq!((target.rows.len(), target.transactions.len()), (13, 2)));
}

#[tokio::test]
async fn a_state_that_nobody_has_explained_stops_the_sink_and_refuses_no_row() {
    let server = Server::start(Ibp { failed: Some("ON_HOLD"), ..Ibp::default() }).await;
    server.platform(|target| target.poison.insert("i1".to_owned()));
    let mut outbox = Outbox::default();
    outbox.push(&[stock("i1", "1"), stock("i2", "1")]);
    let error = sink(&server).write(outbox.span(), &outbox).await.expect_err("what is that?");
    assert!(error.class() == Class::Definite && error.to_string().contains("ON_HOLD"), "{error}");
    assert!(outbox.refused().is_empty());
}

#[tokio::test]
async fn a_value_that_comes_back_to_what_it_was_is_no_repeat() {
    let server = Server::start(Ibp::default()).await;
    let (mut outbox, mut sink) = (Outbox::default(), sink(&server));
    for quantity in ["5", "7", "5"] {
        outbox.push(&[stock("i1", quantity)]);
        sink.write(outbox.last(), &outbox).await.expect("delivered");
        assert_eq!(server.platform(|target| target.rows["i1"].clone()), quantity);
    }
}

#[tokio::test]
async fn a_check_finds_a_service_that_gives_no_token() {
    let server = Server::start(Ibp::default()).await;
    let elsewhere = PROFILE.replace("/sap/IBP", "/sap/other");
    let profile = Profile::parse("ibp.toml", Path::new(""), &elsewhere).expect("sound");
    let astray = ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink");
    assert_eq!(astray.check().await.expect_err("not there").class(), Class::Definite);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_storm_of_faults_and_kills_leaves_another_state_than_what_was_last_said() {
    let mut choices = Choices(11);
    let (mut outbox, mut wanted) = (Outbox::default(), BTreeMap::new());
    for _ in 0..40 {
        let mut changes = Vec::new();
        for _ in 0..=choices.below(30) {
            let (name, value) = (format!("i{}", choices.below(40)), choices.below(900).to_string());
            changes.push(stock(&name, &value));
            wanted.insert(name, value);
        }
        outbox.push(&changes);
    }
    let server = Server::start(Ibp::default()).await;
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
    assert_eq!(server.platform(|target| target.rows.clone()), wanted);
}
