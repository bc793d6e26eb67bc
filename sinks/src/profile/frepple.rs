//! The dialect of frePPLe, and of other services on django-rest-framework-bulk.
//!
//! A request is an array of rows that is taken as a whole or not at all: `POST` creates, `PATCH` updates by the natural key, and
//! neither does the other's work: `PATCH` of one row that is not there fails all with "Could not find all objects to update.",
//! and `POST` of one that is there fails all as a duplicate (newer versions update it). So each row goes the way that is
//! [known](super::known) to be right for its key, and where the target says otherwise it goes the other way: it converges
//! whoever was wrong.
//!
//! A row that the target does not take must not hold up the others. It mostly says which one that is, by an array of errors
//! beside the rows; where it does not, the batch is halved down to it: at most 2 log2(n) more requests for one bad row in n, and
//! one that sees whether it is there already.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use syncline_schemas::entity::{Entity, Kind};

use super::definition::{Delete, Flow};
use super::dialect::{self, Voice};
use super::document::{Faults, Table};
use super::known::KnownKeys;
use super::sheet::{Row, Sheet};
use super::wire::{self, Item, TOO_LARGE, Wire};
use crate::planning::client::Stop;
use crate::{Known, Recalled, SinkError, Written};

/// A row that is sent the other way so often meets somebody who creates and deletes it at the same time.
const TURNS_MAX: u32 = 4;
/// Rows that a start looks for: a target that has none of them was emptied.
const SAMPLES: usize = 5;
/// The name of their note: paths, one a line.
const SAMPLE_NOTE: &str = "samples";

/// The word of a flow for how its rows are put there.
const UPSERT: &str = "upsert";
const KNOWN_KEY: &str = "known_key_then_post";
const POST: &str = "post";

/// Our words for refused rows.
const REFUSED: &str = "refused";
const DUPLICATE: &str = "duplicate";
const UNKNOWN_REFERENCE: &str = "unknown_reference";
const INVALID: &str = "invalid_value";
const STILL_CITED: &str = "still_cited";

/// Reads what a flow says to this dialect; gives the path of its model.
pub(super) fn read_flow(
    table: &mut Table<'_>,
    entity: &Entity,
    words: &mut BTreeMap<&'static str, String>,
    faults: &mut Faults,
) -> Option<String> {
    if entity.kind == Kind::Event {
        table.fault(faults, "is a flow of events; this dialect has rows that replace each other");
    }
    let ways = [(KNOWN_KEY, KNOWN_KEY), (POST, POST)];
    let way = table.choice(UPSERT, &ways, faults).unwrap_or(KNOWN_KEY);
    words.insert(UPSERT, way.to_owned());
    let path = dialect::path(table, faults);
    if path.as_ref().is_some_and(|path| !path.ends_with('/')) {
        table.fault(faults, "has a path that does not end in /, which frePPLe redirects");
    }
    path
}

/// How rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Create,
    Update,
    /// Zeros for a deleted row: where it is not there, that is as good.
    Clear,
}

/// Rows that are to be sent one way.
struct Task<'i> {
    way: Way,
    items: Vec<&'i Item>,
    /// The first half of what was refused; the other lies beneath it.
    is_left: bool,
    /// The other half of a batch whose first half was taken: what is wrong is in here, and need not be asked for
    /// before it is one row: a row is refused only when it was sent by itself.
    is_bad: bool,
}

impl<'i> Task<'i> {
    const fn new(way: Way, items: Vec<&'i Item>) -> Self {
        Self { way, items, is_left: false, is_bad: false }
    }

    /// The second half and the first, which is sent first; `is_left` where one bad row was the reason.
    fn halves(&self, is_left: bool) -> [Self; 2] {
        let (left, right) = self.items.split_at(self.items.len() / 2);
        [Self::new(self.way, right.to_vec()), Self { is_left, ..Self::new(self.way, left.to_vec()) }]
    }
}

/// True where rows of known keys are updated and others created.
fn is_by_key(flow: &Flow) -> bool {
    flow.words.get(UPSERT).is_some_and(|way| way == KNOWN_KEY)
}

/// What the target said about a batch.
enum Said {
    Taken,
    /// Some of the rows are not there.
    Missing,
    /// Row by row.
    Rows(Vec<Option<Fault>>),
    /// No, and not why.
    No,
    TooLarge,
}

/// What the target said about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    code: &'static str,
    field: String,
}

/// The dialect at work.
pub(super) struct Frepple {
    wire: Wire,
    known: Mutex<KnownKeys>,
    samples: Mutex<Vec<String>>,
    samples_changed: bool,
}

impl Frepple {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, known: Mutex::default(), samples: Mutex::default(), samples_changed: false }
    }

    fn known(&self) -> MutexGuard<'_, KnownKeys> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn samples(&self) -> MutexGuard<'_, Vec<String>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of a lane: first what is there, then what is new, then what goes.
    async fn lane(&self, sheet: &Sheet<'_>, lane: Vec<Row>) -> Result<Written, Stop> {
        let flow = sheet.flow;
        let items: Vec<Item> = lane.into_iter().map(|row| Item { json: sheet.json(&row), row }).collect();
        let by_key = is_by_key(flow);
        let (gone, here): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.row.deleted);
        let (update, create): (Vec<&Item>, Vec<&Item>) = {
            let known = self.known();
            here.into_iter().partition(|item| by_key && known.has(&flow.entity.name, &item.row.key))
        };
        let mut written = Written::default();
        for (way, items) in [(Way::Update, &update), (Way::Create, &create)] {
            for batch in wire::cut(items, flow.max_records, flow.max_bytes) {
                written.absorb(self.converge(sheet, way, batch).await?);
            }
        }
        if flow.delete == Delete::Remove {
            for item in gone {
                written.absorb(self.remove(sheet, item).await?);
            }
        } else {
            let way = if by_key { Way::Clear } else { Way::Create };
            for batch in wire::cut(&gone, flow.max_records, flow.max_bytes) {
                written.absorb(self.converge(sheet, way, batch).await?);
            }
        }
        Ok(written)
    }

    /// Sends a batch until each of its rows is there or refused.
    async fn converge(&self, sheet: &Sheet<'_>, way: Way, batch: &[&Item]) -> Result<Written, Stop> {
        let mut written = Written::default();
        let mut turns: HashMap<usize, u32> = HashMap::new();
        let mut open = vec![Task::new(way, batch.to_vec())];
        while let Some(task) = open.pop() {
            let Task { way, items, .. } = &task;
            let [first, rest @ ..] = items.as_slice() else { continue };
            let said = if task.is_bad && items.len() > 1 { Said::No } else { self.send(sheet, *way, items).await? };
            match said {
                Said::Taken => {
                    self.learn(sheet, items);
                    written.absorb(self.wire.book(sheet, items.len(), items.iter().map(|item| item.json.len()).sum()));
                    if let Some(right) = open.last_mut().filter(|_| task.is_left) {
                        right.is_bad = true;
                    }
                }
                Said::Missing if *way == Way::Clear && rest.is_empty() => {
                    self.known().forget(&sheet.entity.name, &first.row.key);
                    written.absorb(self.wire.book(sheet, 1, 0));
                }
                // All at once: what is there nonetheless is told row by row, and goes back.
                Said::Missing if *way == Way::Update => {
                    self.turn(sheet, &mut turns, items)?;
                    open.push(Task::new(Way::Create, items.clone()));
                }
                Said::Rows(faults) if faults.iter().any(Option::is_some) => {
                    written.absorb(self.sort_out(sheet, *way, items, &faults, &mut turns, &mut open)?);
                }
                Said::TooLarge if rest.is_empty() => {
                    written.absorb(self.wire.refuse(sheet, &first.row, TOO_LARGE, None, true)?);
                }
                // It may be there already, and the target does not say so.
                Said::No
                    if rest.is_empty()
                        && *way == Way::Create
                        && is_by_key(sheet.flow)
                        && !turns.contains_key(&first.row.at) =>
                {
                    self.turn(sheet, &mut turns, items)?;
                    open.push(Task::new(Way::Update, items.clone()));
                }
                Said::Missing | Said::Rows(_) | Said::No if rest.is_empty() => {
                    written.absorb(self.wire.refuse_alone(sheet, &first.row, REFUSED)?);
                }
                Said::Rows(_) | Said::No => open.extend(task.halves(true)),
                Said::Missing | Said::TooLarge => open.extend(task.halves(false)),
            }
        }
        Ok(written)
    }

    /// The rows of a batch of which the target said what is wrong: refused, the other way, or once more without them.
    fn sort_out<'i>(
        &self,
        sheet: &Sheet<'_>,
        way: Way,
        items: &[&'i Item],
        faults: &[Option<Fault>],
        turns: &mut HashMap<usize, u32>,
        open: &mut Vec<Task<'i>>,
    ) -> Result<Written, SinkError> {
        let mut written = Written::default();
        let by_key = is_by_key(sheet.flow);
        let (mut good, mut there) = (Vec::new(), Vec::new());
        for (item, fault) in items.iter().zip(faults) {
            match fault {
                None => good.push(*item),
                Some(Fault { code: DUPLICATE, .. }) if by_key && way == Way::Create => there.push(*item),
                Some(Fault { code, field }) => {
                    let retryable = *code == UNKNOWN_REFERENCE;
                    written.absorb(self.wire.refuse(sheet, &item.row, code, sheet.member(field), retryable)?);
                }
            }
        }
        self.turn(sheet, turns, &there)?;
        open.push(Task::new(way, good));
        open.push(Task::new(Way::Update, there));
        Ok(written)
    }

    /// Counts that rows go the other way.
    fn turn(&self, sheet: &Sheet<'_>, turns: &mut HashMap<usize, u32>, items: &[&Item]) -> Result<(), SinkError> {
        for item in items {
            let turns = turns.entry(item.row.at).or_default();
            *turns += 1;
            if *turns > TURNS_MAX {
                let reason = "says in turns that a row is there and that it is not".to_owned();
                return Err(SinkError::Unavailable { target: wire::bare(&self.wire.url(&sheet.flow.path)?), reason });
            }
        }
        Ok(())
    }

    async fn send(&self, sheet: &Sheet<'_>, way: Way, items: &[&Item]) -> Result<Said, Stop> {
        let url = self.wire.url(&sheet.flow.path)?;
        let method = if way == Way::Create { Method::POST } else { Method::PATCH };
        let body = Bytes::from(wire::array(items));
        let takes = |status: StatusCode| status.is_success() || status == StatusCode::BAD_REQUEST;
        match self.wire.send(method, &url, &wire::json_headers(), Some(body), takes).await {
            Ok(reply) if reply.status.is_success() => Ok(Said::Taken),
            Ok(reply) => Ok(judge(&reply.body, items.len())),
            Err(Stop::TooLarge(_)) => Ok(Said::TooLarge),
            Err(stop) => Err(stop),
        }
    }

    fn learn(&self, sheet: &Sheet<'_>, items: &[&Item]) {
        if !is_by_key(sheet.flow) {
            return;
        }
        let mut known = self.known();
        items.iter().for_each(|item| known.learn(&sheet.entity.name, &item.row.key));
        drop(known);
        // What we delete ourselves must not make the target look emptied.
        if sheet.flow.delete == Delete::Remove {
            return;
        }
        let mut samples = self.samples();
        for item in items.iter().rev().take(SAMPLES) {
            if let Some(path) = single(sheet, &item.row).filter(|path| !samples.contains(path)) {
                samples.push(path);
            }
        }
        let more = samples.len().saturating_sub(SAMPLES);
        samples.drain(..more);
    }

    /// Deletes a row; one that is not there is as good as deleted.
    async fn remove(&self, sheet: &Sheet<'_>, item: &Item) -> Result<Written, Stop> {
        let Some(path) = single(sheet, &item.row) else {
            return Ok(self.wire.refuse(sheet, &item.row, INVALID, sheet.flow.key.first().copied(), false)?);
        };
        let (url, label) = (self.wire.url(&path)?, self.wire.url(&sheet.flow.path)?);
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 404 | 409 | 410);
        let reply = self.wire.ask_row(Method::DELETE, &url, &label, takes).await?;
        if matches!(reply.status.as_u16(), 400 | 409) {
            return Ok(self.wire.refuse(sheet, &item.row, STILL_CITED, None, true)?);
        }
        self.known().forget(&sheet.entity.name, &item.row.key);
        Ok(self.wire.book(sheet, 1, 0))
    }
}

/// The path of a row by itself, where its key there is one field and can end a path.
fn single(sheet: &Sheet<'_>, row: &Row) -> Option<String> {
    let [member] = sheet.flow.key[..] else { return None };
    let key = sheet.columns[member].text(row.at)?;
    // What a URL would leave out or read as another place.
    if matches!(&*key, "" | "." | "..") || key.contains(char::is_control) {
        return None;
    }
    let mut url = Url::parse("http://localhost/").ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().push(&key);
    Some(format!("{}{}/", sheet.flow.path, &url.path()[1..]))
}

/// Reads the body of a 400. Its words may repeat values of rows: they are compared and never told.
fn judge(body: &[u8], rows: usize) -> Said {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return Said::No };
    if let Value::Array(rows_said) = &answer
        && rows_said.len() == rows
        && rows_said.iter().all(Value::is_object)
    {
        return Said::Rows(rows_said.iter().map(fault).collect());
    }
    let mut texts = Vec::new();
    collect(&answer, &mut texts);
    if texts.iter().any(|text| text.contains("Could not find all objects to update")) {
        return Said::Missing;
    }
    match (&answer, rows) {
        // A row that was sent alone may be answered alone.
        (Value::Object(said), 1) if !said.contains_key("detail") => Said::Rows(vec![fault(&answer)]),
        _ => Said::No,
    }
}

/// What an error object says about its row; nothing where it is empty.
fn fault(said: &Value) -> Option<Fault> {
    let (field, why) = said.as_object()?.iter().next()?;
    let mut texts = Vec::new();
    collect(why, &mut texts);
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|word| text.contains(word)));
    let code = if says(&["already exists", "must make a unique set", "must be unique"]) {
        DUPLICATE
    } else if says(&["does not exist", "not found"]) {
        UNKNOWN_REFERENCE
    } else {
        INVALID
    };
    Some(Fault { code, field: field.clone() })
}

fn collect<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(members) => members.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

#[async_trait]
impl Voice for Frepple {
    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError> {
        let flows = syncline_schemas::entity::all().iter().map(|entity| entity.name.as_str());
        self.known().recall(flows, &known.notes);
        let note = known.notes.get(SAMPLE_NOTE).map(|note| String::from_utf8_lossy(note).into_owned());
        let remembered: Vec<String> = note.unwrap_or_default().lines().map(str::to_owned).collect();
        let takes = |status: StatusCode| status.is_success() || status == StatusCode::NOT_FOUND;
        for path in &remembered {
            let model = path.trim_end_matches('/').rsplit_once('/').map_or("", |(model, _)| model);
            let (url, label) = (self.wire.url(path)?, self.wire.url(model)?);
            let asked = self.wire.ask_row(Method::GET, &url, &label, takes).await;
            if asked.map_err(Stop::into_error)?.status.is_success() {
                return Ok(Recalled::Unknown);
            }
        }
        // One or two may have been deleted by people; of a target that still works as it did, hardly all.
        if remembered.len() == SAMPLES { Ok(Recalled::Nothing) } else { Ok(Recalled::Unknown) }
    }

    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError> {
        let before = self.samples().clone();
        let this = &*self;
        let busy = lanes.into_iter().filter(|lane| !lane.is_empty());
        let parts = try_join_all(busy.map(|lane| this.lane(sheet, lane))).await.map_err(Stop::into_error)?;
        let is_changed = before != *self.samples();
        self.samples_changed |= is_changed;
        Ok(wire::sum(parts))
    }

    async fn end(&mut self) -> Result<Written, SinkError> {
        let mut notes = self.known().notes();
        if std::mem::take(&mut self.samples_changed) {
            notes.push((SAMPLE_NOTE.to_owned(), self.samples().join("\n").into_bytes()));
        }
        Ok(Written { notes, ..Written::default() })
    }

    async fn check(&self, flows: &[Flow]) -> Result<(), SinkError> {
        let takes = |status: StatusCode| status.is_success() || status == StatusCode::NOT_FOUND;
        for flow in flows {
            // What it can do with the model, and none of its rows.
            let url = self.wire.url(&flow.path)?;
            let reply = self.wire.send(Method::OPTIONS, &url, &wire::json_headers(), None, takes).await;
            if reply.map_err(Stop::into_error)?.status == StatusCode::NOT_FOUND {
                return Err(SinkError::Refused {
                    target: wire::bare(&url),
                    reason: format!("is not there, where {} goes", flow.entity.name),
                    remedy: "correct the path of the flow, or leave the entity out in the sink's entities".to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_django_says_about_rows_is_understood_and_never_repeated() {
        let judged = |body: &str, rows| match judge(body.as_bytes(), rows) {
            Said::Rows(faults) => faults.into_iter().map(|it| it.map_or("good", |fault| fault.code)).collect(),
            Said::Missing => vec!["missing"],
            Said::No => vec!["no"],
            Said::Taken | Said::TooLarge => vec![],
        };
        assert_eq!(judged(r#"["Could not find all objects to update."]"#, 3), ["missing"]);
        assert_eq!(judged(r#"["Could not find all objects to update."]"#, 1), ["missing"]);
        assert_eq!(judged(r#"{"non_field_errors":["Could not find all objects to update."]}"#, 1), ["missing"]);
        let rows = r#"[{},{"name":["item with this name already exists."]},{"item":["Invalid pk \"4711\" - object does not exist."]},
            {"non_field_errors":["The fields item, location must make a unique set."]},{"cost":["A valid number is required."]}]"#;
        assert_eq!(judged(rows, 5), ["good", DUPLICATE, UNKNOWN_REFERENCE, DUPLICATE, INVALID]);
        assert_eq!(judged(r#"{"detail":"JSON parse error"}"#, 2), ["no"]);
        assert_eq!(judged("<html>", 1), ["no"]);
    }
}
