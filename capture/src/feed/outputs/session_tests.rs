//! The reader against a platform that publishes what it likes and a log that forgets what was not durable: whatever breaks off
//! where, whoever reads the log sees whole cycles only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::UInt8Type;
use serde_json::{Value, json};
use syncline_schemas::frame::{Frame, LogEntry, Op};
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use syncline_schemas::outputs::PageOf;

use super::config::{NoPage, OutputsApi, OutputsConfig, Pages};
use super::pull::FrameLimits;
use super::session::Session;
use super::{Bell, begin_again};
use crate::{CaptureError, Class, LogSink, Outcome, Progress, Requests, Resume, StopSignal};

/// Rows of a page and of a frame; a cycle of seven takes several of each.
const PAGE: usize = 2;
const LIMITS: FrameLimits = FrameLimits { rows: 3, bytes: 1 << 20 };

/// Items with their quantities.
type Rows = BTreeMap<String, u32>;

/// Changes a page.
type Spoil = fn(&mut Value);

#[derive(Default)]
struct Published {
    cycles: BTreeMap<String, Vec<(String, Rows)>>,
    /// Pages of cycles that were named.
    pulled: usize,
    /// Changes a page on its way.
    spoil: Option<Spoil>,
}

#[derive(Clone, Default)]
struct Platform(Arc<Mutex<Published>>);

impl Platform {
    fn publish(&self, output: &str, cycle: &str, rows: &[(&str, u32)]) {
        let rows = rows.iter().map(|(item, qty)| ((*item).to_owned(), *qty)).collect();
        self.0.lock().unwrap().cycles.entry(output.to_owned()).or_default().push((cycle.to_owned(), rows));
    }

    /// Lets go of all cycles but the newest.
    fn forget(&self) {
        for cycles in self.0.lock().unwrap().cycles.values_mut() {
            cycles.drain(..cycles.len() - 1);
        }
    }

    fn spoil(&self, spoil: Option<Spoil>) {
        self.0.lock().unwrap().spoil = spoil;
    }

    fn pulled(&self) -> usize {
        self.0.lock().unwrap().pulled
    }
}

impl OutputsApi for Platform {
    fn connect(&self) -> Result<Box<dyn Pages>, NoPage> {
        Ok(Box::new(self.clone()))
    }
}

impl Pages for Platform {
    fn page(&mut self, of: PageOf<'_>, _stop: &StopSignal) -> Result<Vec<u8>, NoPage> {
        let mut published = self.0.lock().unwrap();
        published.pulled += usize::from(of.cycle.is_some());
        let cycles = published.cycles.get(of.output).cloned().unwrap_or_default();
        let found = match of.cycle {
            Some(id) => cycles.iter().find(|(cycle, _)| cycle == id),
            None => cycles.last(),
        };
        let mut page = match found {
            Some((id, rows)) => {
                let after: usize = of.cursor.map_or(0, |cursor| cursor.parse().unwrap());
                let limit = of.limit.map_or(PAGE, |limit| PAGE.min(limit as usize));
                let some: Vec<Value> = rows.iter().skip(after).take(limit).map(row).collect();
                let last = after + some.len();
                let next = (last < rows.len()).then(|| last.to_string());
                json!({ "output": of.output, "cycle_id": id, "published_at": "2026-05-26T10:00:01Z",
                        "row_count": rows.len(), "rows": some, "next": next })
            }
            None if of.cycle.is_none() => json!({ "output": of.output, "cycle_id": null, "rows": [] }),
            None => return Err(NoPage::Gone { reason: "answered 404".to_owned(), remedy: "look".to_owned() }),
        };
        if let Some(spoil) = published.spoil {
            spoil(&mut page);
        }
        Ok(page.to_string().into_bytes())
    }
}

fn row((item, qty): (&String, &u32)) -> Value {
    json!({ "company_id": "C1", "item_id": item, "location_id": "B", "qty": qty.to_string(), "new": {},
            "bucket_start": "2026-06-01", "bucket_type": "week" })
}

#[derive(Default)]
struct Inner {
    entries: Vec<LogEntry>,
    durable: usize,
    /// So many calls go well, then the process is dead.
    calls_left: Option<u32>,
}

#[derive(Default)]
struct FakeLog(Mutex<Inner>);

impl Inner {
    fn live(&mut self) -> Result<(), CaptureError> {
        match &mut self.calls_left {
            Some(0) => return Err(CaptureError::Log { reason: "the process died".to_owned() }),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl LogSink for FakeLog {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        let mut inner = self.0.lock().unwrap();
        inner.live()?;
        inner.entries.push(LogEntry::decode(&entry.encode().unwrap()).unwrap());
        Ok(LogOffset(inner.entries.len() as u64))
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        Ok(LogOffset(self.0.lock().unwrap().durable as u64))
    }

    fn wait_durable(&self, _offset: LogOffset, _timeout: Duration) -> Result<LogOffset, CaptureError> {
        let mut inner = self.0.lock().unwrap();
        inner.live()?;
        inner.durable = inner.entries.len();
        Ok(LogOffset(inner.durable as u64))
    }
}

impl FakeLog {
    fn die_after(&self, calls: u32) {
        self.0.lock().unwrap().calls_left = Some(calls);
    }

    /// The process is gone, and with it what was not durable but for some entries.
    fn crash(&self, survivors: usize) {
        let mut inner = self.0.lock().unwrap();
        let kept = (inner.durable + survivors).min(inner.entries.len());
        inner.entries.truncate(kept);
        (inner.durable, inner.calls_left) = (kept, None);
    }

    fn frames(&self) -> Vec<Frame> {
        let frame = |entry: &LogEntry| if let LogEntry::Frame(frame) = entry { Some(frame.clone()) } else { None };
        self.0.lock().unwrap().entries.iter().filter_map(frame).collect()
    }

    fn resume(&self) -> Option<Resume> {
        let last = self.frames().pop()?;
        Some(Resume { position: last.position, txn_end: last.txn_end })
    }

    /// What whoever reads the log sees after each transaction, by table: rows older than where a reading begins are gone where
    /// it ends.
    fn states(&self) -> Vec<BTreeMap<String, Rows>> {
        let mut tables: BTreeMap<String, BTreeMap<String, (usize, u32)>> = BTreeMap::new();
        let mut begins: BTreeMap<String, usize> = BTreeMap::new();
        let mut states = Vec::new();
        for (at, frame) in self.frames().into_iter().enumerate() {
            for batch in &frame.batches {
                let name = batch.table.to_string();
                let column = |name: &str| batch.rows.column_by_name(name).unwrap();
                let ops = column("_op").as_primitive::<UInt8Type>();
                for row in 0..batch.rows.num_rows() {
                    match Op::from_u8(ops.value(row)).unwrap() {
                        Op::SweepBegin => drop(begins.insert(name.clone(), at)),
                        Op::SweepEnd => {
                            let begin = begins[&name];
                            tables.entry(name.clone()).or_default().retain(|_, (at, _)| *at >= begin);
                        }
                        Op::Read => {
                            let item = column("item_id").as_string::<i32>().value(row).to_owned();
                            let qty = column("qty").as_primitive::<arrow::datatypes::Decimal128Type>().value(row);
                            let qty = u32::try_from(qty / 1_000_000_000).unwrap();
                            tables.entry(name.clone()).or_default().insert(item, (at, qty));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            if frame.txn_end {
                let rows = |rows: &BTreeMap<String, (usize, u32)>| -> Rows {
                    rows.iter().map(|(item, (_, qty))| (item.clone(), *qty)).collect()
                };
                states.push(tables.iter().map(|(name, table)| (name.clone(), rows(table))).collect());
            }
        }
        states
    }

    fn newest(&self) -> BTreeMap<String, Rows> {
        self.states().pop().unwrap_or_default()
    }
}

struct World {
    platform: Platform,
    log: FakeLog,
    progress: Progress,
    requests: Requests,
    config: OutputsConfig,
}

impl World {
    fn new(outputs: &[&'static str]) -> Self {
        let platform = Platform::default();
        let config = OutputsConfig {
            source: SourceId::new("plan"),
            url: "http://platform/pdx/v1".to_owned(),
            outputs: outputs.to_vec(),
            poll_every: Duration::from_millis(1),
            api: Arc::new(platform.clone()),
            bell: Bell::default(),
            drain: true,
        };
        Self { platform, log: FakeLog::default(), progress: Progress::default(), requests: Requests::default(), config }
    }

    /// A session until the log has every newest cycle.
    fn drain(&self) -> Result<Outcome, CaptureError> {
        let stop = StopSignal::default();
        let pages = Box::new(self.platform.clone());
        let session = Session::new(&self.config, pages, &self.log, &self.progress, &self.requests, &stop, LIMITS);
        session.run(self.log.resume().as_ref())
    }

    fn assert_holds(&self, table: &str, rows: &[(&str, u32)]) {
        let wanted: Rows = rows.iter().map(|(item, qty)| ((*item).to_owned(), *qty)).collect();
        assert_eq!(self.log.newest().get(table), Some(&wanted));
    }
}

const SEVEN: [(&str, u32); 7] = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1), ("g", 1)];
const OTHERS: [(&str, u32); 4] = [("b", 2), ("c", 1), ("x", 2), ("y", 2)];

#[test]
fn a_cycle_is_one_transaction_and_the_next_one_takes_back_what_it_lacks() {
    let world = World::new(&["forecast"]);
    world.platform.publish("forecast", "w1", &SEVEN);
    assert_eq!(world.drain().expect("drains"), Outcome::Drained);
    let ends: Vec<bool> = world.log.frames().iter().map(|frame| frame.txn_end).collect();
    assert_eq!(ends, [false, false, false, false, true], "a beginning, seven rows in threes, an end");
    world.assert_holds("outputs.forecast", &SEVEN);
    world.platform.publish("forecast", "w2", &OTHERS);
    world.drain().expect("drains");
    world.assert_holds("outputs.forecast", &OTHERS);
    world.platform.publish("forecast", "w3", &[]);
    world.drain().expect("drains");
    world.assert_holds("outputs.forecast", &[]);
    assert_eq!(world.log.states().len(), 3);
}

#[test]
fn what_is_in_the_log_is_not_pulled_again_by_a_restart() {
    let world = World::new(&["forecast", "safety_stock"]);
    world.drain().expect("nothing is published, and that is known");
    assert!(world.progress.complete_through(LogOffset(9)).is_some());
    world.platform.publish("forecast", "w1", &SEVEN);
    world.drain().expect("drains");
    let (pulled, frames) = (world.platform.pulled(), world.log.frames().len());
    for _ in 0..3 {
        world.drain().expect("drains");
    }
    assert_eq!((world.platform.pulled(), world.log.frames().len()), (pulled, frames));
}

#[test]
fn a_pull_that_breaks_off_anywhere_leaves_whole_cycles_and_ends_with_the_newest() {
    for calls in 0..40 {
        for (survivors, is_kept) in [(0, true), (1, true), (9, true), (9, false)] {
            let world = World::new(&["forecast"]);
            world.platform.publish("forecast", "w1", &SEVEN);
            world.drain().expect("drains");
            world.platform.publish("forecast", "w2", &OTHERS);
            world.log.die_after(calls);
            let _ = world.drain();
            world.log.crash(survivors);
            world.platform.publish("forecast", "w3", &[("x", 3), ("z", 3)]);
            if !is_kept {
                world.platform.forget();
            }
            let world = World { progress: Progress::default(), ..world };
            world.drain().expect("drains");
            world.assert_holds("outputs.forecast", &[("x", 3), ("z", 3)]);
            let known: Vec<Rows> = [&SEVEN[..], &OTHERS[..], &[("x", 3), ("z", 3)]]
                .iter()
                .map(|rows| rows.iter().map(|(item, qty)| ((*item).to_owned(), *qty)).collect())
                .collect();
            for state in world.log.states() {
                assert!(known.contains(&state["outputs.forecast"]), "half of a cycle: {state:?}");
            }
        }
    }
}

#[test]
fn a_cycle_that_is_half_in_the_log_is_finished_though_nobody_wants_its_output_any_more() {
    let mut world = World::new(&["forecast", "safety_stock"]);
    world.platform.publish("safety_stock", "s1", &SEVEN);
    world.log.die_after(4);
    world.drain().expect_err("it died");
    world.log.crash(9);
    assert!(world.log.frames().last().is_some_and(|frame| !frame.txn_end), "half of it is there");
    world.config.outputs = vec!["forecast"];
    world.drain().expect("drains");
    world.assert_holds("outputs.safety_stock", &SEVEN);
    world.platform.publish("safety_stock", "s2", &OTHERS);
    world.drain().expect("drains");
    world.assert_holds("outputs.safety_stock", &SEVEN);
    world.platform.0.lock().unwrap().cycles.clear();
    assert_eq!(world.drain().expect("what was published last stays in force"), Outcome::Drained);
}

#[test]
fn a_platform_that_contradicts_itself_or_the_contract_stops_the_source_by_name() {
    let spoilt: [(Spoil, &str); 6] = [
        (|page| page["row_count"] = 6.into(), "cycle w1: has more rows than the 6 it tells"),
        (|page| page["row_count"] = 8.into(), "cycle w1: ends after 7 of 8 rows"),
        (|page| page["rows"][0]["qty"] = 4711.into(), "row 1 of cycle w1: field qty is of another type"),
        (|page| drop(page["rows"][0].as_object_mut().map(|row| row.remove("qty"))), "field qty is missing"),
        (|page| page["output"] = "safety_stock".into(), "is a page of another output"),
        (
            |page| {
                if page["next"].is_null() {
                    page["published_at"] = "2026-05-27T10:00:01Z".into();
                }
            },
            "a page of cycle w1: says another row_count or published_at than the one before",
        ),
    ];
    for (spoil, reason) in spoilt {
        let world = World::new(&["forecast"]);
        world.platform.publish("forecast", "w1", &SEVEN);
        world.platform.spoil(Some(spoil));
        let error = world.drain().expect_err("it cannot be read");
        let text = error.to_string();
        assert!(text.contains(reason) && text.starts_with("source plan: output forecast: "), "{text}");
        assert!(error.class() == Class::Definite && !text.contains("4711"), "{text}");
        assert!(world.log.states().is_empty(), "half of a plan is no plan");
        world.platform.spoil(None);
        world.drain().expect("it was mended");
        world.assert_holds("outputs.forecast", &SEVEN);
    }
}

#[test]
fn a_cycle_that_cannot_be_read_is_made_good_by_the_next_one() {
    let world = World::new(&["forecast"]);
    world.platform.publish("forecast", "w1", &SEVEN);
    world.drain().expect("drains");
    world.platform.publish("forecast", "w2", &OTHERS);
    world.platform.spoil(Some(|page| {
        if page["cycle_id"] == "w2" && page["next"].is_null() {
            page["rows"][0]["qty"] = 4711.into();
        }
    }));
    for _ in 0..2 {
        world.drain().expect_err("its last page cannot be read, however often");
    }
    world.assert_holds("outputs.forecast", &SEVEN);
    world.platform.publish("forecast", "w3", &[("x", 3)]);
    world.drain().expect("drains");
    world.assert_holds("outputs.forecast", &[("x", 3)]);
    assert_eq!(world.log.states().len(), 2, "nobody saw anything of the one between");
}

#[test]
fn all_outputs_are_read_again_in_one_transaction_wherever_that_breaks_off() {
    for calls in 0..30 {
        let world = World::new(&["forecast", "safety_stock", "replenishment_recommendation"]);
        world.platform.publish("forecast", "w1", &SEVEN);
        world.platform.publish("safety_stock", "s1", &OTHERS);
        world.drain().expect("drains");
        let before = world.log.states().len();
        let position = begin_again(&world.log.resume().expect("stands").position).expect("whole");
        let mark =
            Frame { source: SourceId::new("plan"), position, captured_at: 0, txn_end: false, batches: Vec::new() };
        world.log.append(LogEntry::Frame(mark)).expect("appended");
        world.log.die_after(calls);
        let _ = world.drain();
        world.log.crash(9);
        world.drain().expect("drains");
        world.assert_holds("outputs.forecast", &SEVEN);
        world.assert_holds("outputs.safety_stock", &OTHERS);
        assert_eq!(world.log.states().len(), before + 1, "after {calls} calls");
    }
}

#[test]
fn a_table_is_read_anew_for_whoever_asks_and_nobody_waits_for_one_that_is_not_there() {
    let world = World::new(&["forecast"]);
    world.platform.publish("forecast", "w1", &SEVEN);
    world.drain().expect("drains");
    let pulled = world.platform.pulled();
    std::thread::scope(|scope| {
        let ask = |name: &'static str| {
            let requests = world.requests.clone();
            let table = syncline_schemas::ident::TableId::new("outputs", name);
            scope.spawn(move || requests.read_anew(table, Duration::from_secs(60)))
        };
        for (name, is_there) in [("forecast", true), ("item", false)] {
            let asked = ask(name);
            while !world.requests.is_waiting() {
                std::thread::yield_now();
            }
            world.drain().expect("drains");
            assert_eq!(asked.join().expect("no panic").is_ok(), is_there, "{name}");
        }
    });
    assert!(world.platform.pulled() > pulled, "it was pulled again");
    world.assert_holds("outputs.forecast", &SEVEN);
}

#[test]
fn a_source_of_which_nothing_was_published_is_known_to_be_whole() {
    let world = World::new(&["forecast"]);
    world.drain().expect("drains");
    let resume = world.log.resume().expect("stands");
    assert!(resume.txn_end && !resume.position.is_start(), "others wait for that");
    assert!(begin_again(&resume.position).is_ok() && begin_again(&Position::new(Vec::new())).is_ok());
    let entries = world.log.frames().len();
    world.drain().expect("drains");
    assert_eq!(world.log.frames().len(), entries, "it is said once");
}
