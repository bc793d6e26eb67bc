//! Full loads: taken whole or not at all, and a sweep that takes away exactly what it should.
//!
//! Every load is limited to our company by its `scope`. A target that does not understand that could sweep rows of
//! others, so loads that sweep are only tried once it has refused a scope that nobody can understand.

use bytes::Bytes;
use futures::FutureExt as _;
use reqwest::Method;
use serde_json::{Map, Value};
use syncline_schemas::ident::{LogOffset, Version};
use uuid::Uuid;

use super::case::Case;
use super::records::holds;
use super::report::Grade::{Must, Should};
use super::report::{Stop, Verdict, fail, skip};
use super::rows::{Op, Row};
use super::session::{EPOCH, SOURCE, Session};
use super::wire::{problem, read, told};
use crate::planning::contract::{
    self, CONTENT_DIGEST, FENCED_EPOCH, IDEMPOTENCY_KEY, KEY_REUSED, SCHEMA, SNAPSHOT_INCOMPLETE, UNKNOWN_SNAPSHOT,
};
use crate::planning::digest::{Digest, hash_of_json};
use crate::planning::probe::Answer;
use crate::planning::snapshot::{Begin, Commit, Committed, Open, PartReceipt};

const SECTION: &str = "Full loads";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "load-scope-understood",
        grade: Must,
        section: SECTION,
        asks: "a load whose scope names what is no key field is refused: a scope that is not understood sweeps too much",
        run: |session| scope(session).boxed(),
    },
    Case {
        name: "load-taken",
        grade: Must,
        section: SECTION,
        asks: "begin gives an id, parts are applied by version, commit answers 200 where parts, records and digest agree",
        run: |session| taken(session).boxed(),
    },
    Case {
        name: "load-part-repeated",
        grade: Must,
        section: SECTION,
        asks: "a part that comes again with the same bytes gets the first answer and counts once",
        run: |session| repeated(session).boxed(),
    },
    Case {
        name: "load-part-changed",
        grade: Should,
        section: SECTION,
        asks: "a part that comes again with other bytes gets 422 idempotency-key-reused",
        run: |session| changed(session).boxed(),
    },
    Case {
        name: "load-begun-twice",
        grade: Should,
        section: SECTION,
        asks: "the same Idempotency-Key at the beginning gets the same id",
        run: |session| begun_twice(session).boxed(),
    },
    Case {
        name: "load-part-missing",
        grade: Must,
        section: SECTION,
        asks: "the commit of a load of which a part has not come gets 409 snapshot-incomplete",
        run: |session| missing(session).boxed(),
    },
    Case {
        name: "load-digest-wrong",
        grade: Must,
        section: SECTION,
        asks: "the commit of a load whose rows have another digest gets 409 snapshot-incomplete",
        run: |session| wrong_digest(session).boxed(),
    },
    Case {
        name: "load-sweeps-exactly",
        grade: Must,
        section: SECTION,
        asks: "the commit deletes what is in scope, was not sent and is no younger than the cut; and nothing else",
        run: |session| sweeps(session).boxed(),
    },
    Case {
        name: "load-without-sweep",
        grade: Must,
        section: SECTION,
        asks: "a load with sweep false deletes nothing",
        run: |session| without_sweep(session).boxed(),
    },
    Case {
        name: "load-aborted",
        grade: Must,
        section: SECTION,
        asks: "an aborted load deletes nothing, and its commit gets 404 unknown-snapshot",
        run: |session| aborted(session).boxed(),
    },
    Case {
        name: "load-lower-epoch-refused",
        grade: Must,
        section: SECTION,
        asks: "a load with a cut of a lower epoch than the flow has seen gets 409 fenced-epoch",
        run: |session| lower_epoch(session).boxed(),
    },
];

/// Begins a load, limited to our company; `scope` has what is beyond that.
async fn ask(
    session: &mut Session<'_>,
    key: Uuid,
    cut: Version,
    sweep: bool,
    scope: &[(&str, &str)],
) -> Result<Answer, Stop> {
    if session.loads == Some(false) {
        return skip("the target takes no full loads; a new or emptied target cannot be filled");
    }
    if session.others_epoch > EPOCH {
        return skip("another pipeline writes this flow, and a load of ours would be of a lower epoch");
    }
    let own = [("company_id", session.maker.company.as_str())];
    let scope: Map<String, Value> =
        own.iter().chain(scope).map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    let begin = Begin { cut: cut.to_string(), source: SOURCE.to_owned(), sweep, scope };
    let body = Bytes::from(serde_json::to_vec(&begin).expect("plain data"));
    let headers = [
        ("content-type", "application/json".to_owned()),
        (IDEMPOTENCY_KEY, format!("\"{key}\"")),
        (SCHEMA, session.entity().schema_id()),
    ];
    let answer = session.wire.put(Method::POST, &session.path(&["snapshots"]), &headers, &body, true).await?;
    let offered = !matches!(answer.status, 404 | 405 | 501);
    session.loads = Some(offered);
    if offered { Ok(answer) } else { skip("the target takes no full loads; a new or emptied target cannot be filled") }
}

/// A load under way.
struct Load {
    id: String,
    cut: Version,
    digest: Digest,
}

impl Load {
    async fn begin(session: &mut Session<'_>, cut: Version, sweep: bool) -> Result<Self, Stop> {
        if sweep && session.scopes != Some(true) {
            return skip(
                "not tried: it takes a scope that it cannot understand, so a sweep could reach rows of others",
            );
        }
        let sent = format!("the beginning of a load up to {cut}");
        let answer = ask(session, Uuid::new_v4(), cut, sweep, &[]).await?;
        if answer.status != 200 {
            return fail(sent, told(&answer));
        }
        let id = read::<Open>(&answer, &sent, "an open load")?.id;
        Ok(Self { id, cut, digest: Digest::default() })
    }

    /// A part with rows, all of the version of the cut.
    async fn put(&mut self, session: &mut Session<'_>, part: u64, rows: &[Row]) -> Result<Answer, Stop> {
        let answer = self.put_only(session, part, rows).await?;
        for row in rows.iter().filter(|row| row.op == Op::Upsert) {
            self.digest += Digest::of(hash_of_json(session.entity(), &row.key, &Value::Object(row.data.clone())));
        }
        Ok(answer)
    }

    async fn put_only(&self, session: &mut Session<'_>, part: u64, rows: &[Row]) -> Result<Answer, Stop> {
        let mut delivery = session.batch(rows)?;
        // The same bytes for the same rows: the batch of a part is named after it.
        let body: Value = serde_json::from_slice(&delivery.body).unwrap_or_default();
        let body = body.to_string().replace(&delivery.id, &format!("{}-{part}", self.id));
        delivery.set_body(body.into());
        session.note(rows);
        let headers = [
            ("content-type", delivery.media_type.clone()),
            (CONTENT_DIGEST, delivery.digest.clone()),
            (SCHEMA, delivery.schema.clone()),
            (contract::CORRELATION_ID, self.id.clone()),
        ];
        let number = part.to_string();
        let path = session.path(&["snapshots", &self.id, "parts", &number]);
        session.wire.put(Method::PUT, &path, &headers, &delivery.body, true).await
    }

    /// A part that has to be taken.
    async fn put_good(&mut self, session: &mut Session<'_>, part: u64, rows: &[Row]) -> Result<PartReceipt, Stop> {
        let sent = self.told(&format!("part {part} with {} records", rows.len()));
        let answer = self.put(session, part, rows).await?;
        if answer.status != 200 {
            return fail(sent, told(&answer));
        }
        read(&answer, &sent, "the receipt of a part")
    }

    async fn end(&self, session: &mut Session<'_>, ending: &str, body: &Value) -> Result<Answer, Stop> {
        let last = format!("{}:{ending}", self.id);
        let path = session.path(&["snapshots", &last]);
        let headers = [
            ("content-type", "application/json".to_owned()),
            (IDEMPOTENCY_KEY, format!("\"{}\"", Uuid::new_v4())),
            (SCHEMA, session.entity().schema_id()),
        ];
        session.wire.put(Method::POST, &path, &headers, &Bytes::from(body.to_string()), true).await
    }

    async fn commit(&self, session: &mut Session<'_>, parts: u64) -> Result<Answer, Stop> {
        let commit = Commit { parts, records: self.digest.count, digest: self.digest.to_hex() };
        self.end(session, "commit", &serde_json::to_value(commit).expect("plain data")).await
    }

    async fn commit_good(&self, session: &mut Session<'_>, parts: u64) -> Result<Committed, Stop> {
        let sent = self.told(&format!("the commit of {parts} parts, {} records", self.digest.count));
        let answer = self.commit(session, parts).await?;
        if answer.status != 200 {
            return fail(sent, told(&answer));
        }
        read(&answer, &sent, "the receipt of a load")
    }

    /// Gives it up, so that nothing is open behind us; whoever does not know it any more has done so.
    async fn abort(&self, session: &mut Session<'_>) -> Result<Answer, Stop> {
        self.end(session, "abort", &Value::Object(Map::new())).await
    }

    fn told(&self, what: &str) -> String {
        format!("{what} of a load up to {}", self.cut)
    }
}

/// Fails unless it is this refusal.
fn refused(answer: &Answer, sent: String, status: u16, name: &str) -> Verdict {
    if answer.status == status && problem(answer).name() == name {
        return Ok(());
    }
    fail(sent, format!("{}; wanted {status} {name}", told(answer)))
}

async fn scope(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let answer = ask(session, Uuid::new_v4(), cut, false, &[("syncline_verify_no_such_field", "x")]).await?;
    if (400..500).contains(&answer.status) {
        session.scopes = Some(true);
        return Ok(());
    }
    session.scopes = Some(false);
    if let Ok(Open { id }) = serde_json::from_slice(&answer.body) {
        Load { id, cut, digest: Digest::default() }.abort(session).await?;
    }
    fail("the beginning of a load with the scope syncline_verify_no_such_field", told(&answer))
}

async fn taken(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let (older, newer) =
        (session.maker.upsert("load of a new row", cut), session.maker.upsert("load of an old row", cut));
    let held = session.upsert("load of an old row");
    session.apply(std::slice::from_ref(&held)).await?;
    let mut load = Load::begin(session, cut, false).await?;
    let rows = [older, newer];
    let receipt = load.put_good(session, 1, &rows).await?;
    let got = (receipt.part, receipt.received, receipt.applied, receipt.stale, receipt.rejected);
    if got != (1, 2, 1, 1, 0) {
        let got = format!("part {}, received {}, applied {}, stale {}, rejected {}", got.0, got.1, got.2, got.3, got.4);
        return fail(load.told("part 1 with a new row and one that is held in a newer version"), got);
    }
    let committed = load.commit_good(session, 1).await?;
    session.note(std::slice::from_ref(&held));
    if committed.records != 2 {
        return fail(load.told("the commit of 2 records"), format!("records {}", committed.records));
    }
    holds(session, &rows[0], "a load").await?;
    holds(session, &held, "a load with an older version").await
}

async fn repeated(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let mut load = Load::begin(session, cut, false).await?;
    let rows = [session.maker.upsert("load, a part twice", cut)];
    let first = load.put_good(session, 1, &rows).await?;
    let sent = load.told("part 1 twice");
    let answer = load.put_only(session, 1, &rows).await?;
    if answer.status != 200 {
        return fail(sent, told(&answer));
    }
    let again: PartReceipt = read(&answer, &sent, "the receipt of a part")?;
    if (first.applied, first.unchanged) != (again.applied, again.unchanged) {
        return fail(sent, format!("applied {} and then {}", first.applied, again.applied));
    }
    load.commit_good(session, 1).await?;
    Ok(())
}

async fn changed(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let mut load = Load::begin(session, cut, false).await?;
    let rows = ["load, a part", "load, another part"].map(|name| session.maker.upsert(name, cut));
    load.put_good(session, 1, &rows[..1]).await?;
    let answer = load.put_only(session, 1, &rows[1..]).await?;
    load.abort(session).await?;
    refused(&answer, load.told("part 1 again with another row"), 422, KEY_REUSED)
}

async fn begun_twice(session: &mut Session<'_>) -> Verdict {
    let (key, cut) = (Uuid::new_v4(), session.version());
    let sent = format!("the beginning of a load up to {cut}, twice with one key");
    let first = ask(session, key, cut, false, &[]).await?;
    let again = ask(session, key, cut, false, &[]).await?;
    let first: Open = read(&first, &sent, "an open load")?;
    let again: Open = read(&again, &sent, "an open load")?;
    for id in [&first.id, &again.id] {
        Load { id: id.clone(), cut, digest: Digest::default() }.abort(session).await?;
    }
    if first.id == again.id { Ok(()) } else { fail(sent, "two ids") }
}

async fn missing(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let mut load = Load::begin(session, cut, false).await?;
    let row = session.maker.upsert("load, a part missing", cut);
    load.put_good(session, 2, &[row]).await?;
    let answer = load.commit(session, 2).await?;
    load.abort(session).await?;
    refused(&answer, load.told("the commit of 2 parts, of which part 2 was sent,"), 409, SNAPSHOT_INCOMPLETE)
}

async fn wrong_digest(session: &mut Session<'_>) -> Verdict {
    let cut = session.version();
    let mut load = Load::begin(session, cut, false).await?;
    let row = session.maker.upsert("load, another digest", cut);
    load.put_good(session, 1, &[row]).await?;
    load.digest.sum = load.digest.sum.wrapping_add(1);
    let answer = load.commit(session, 1).await?;
    load.abort(session).await?;
    refused(&answer, load.told("the commit with another digest"), 409, SNAPSHOT_INCOMPLETE)
}

/// A row that was not sent goes; those that are younger, kept or sent stay.
async fn sweeps(session: &mut Session<'_>) -> Verdict {
    let (gone, kept) = (session.upsert("sweep: gone"), session.upsert("sweep: kept"));
    session.apply(&[gone.clone(), kept.clone()]).await?;
    let cut = session.version();
    let younger = session.upsert("sweep: younger");
    session.apply(std::slice::from_ref(&younger)).await?;
    let mut load = Load::begin(session, cut, true).await?;
    let sent = session.maker.upsert("sweep: sent", cut);
    let keep = session.maker.keep("sweep: kept", cut);
    load.put_good(session, 1, std::slice::from_ref(&sent)).await?;
    load.put_good(session, 2, &[keep]).await?;
    let committed = load.commit_good(session, 2).await?;
    let what = load.told("the commit after a row that was sent, one kept, one younger, one not sent");
    if committed.swept == 0 {
        return fail(what, "swept 0; the row that was not sent should have gone");
    }
    let swept = session.maker.delete("sweep: gone", cut);
    for (row, is_wanted) in
        [(&sent, "sent"), (&kept, "kept by `keep`"), (&younger, "younger than the cut"), (&swept, "not sent")]
    {
        holds(session, row, &format!("{what}: the one {is_wanted}")).await?;
    }
    Ok(())
}

async fn without_sweep(session: &mut Session<'_>) -> Verdict {
    let stays = session.upsert("no sweep: stays");
    session.apply(std::slice::from_ref(&stays)).await?;
    let cut = session.version();
    let mut load = Load::begin(session, cut, false).await?;
    let sent = session.maker.upsert("no sweep: sent", cut);
    load.put_good(session, 1, &[sent]).await?;
    let committed = load.commit_good(session, 1).await?;
    if committed.swept != 0 {
        return fail(load.told("the commit, with sweep false,"), format!("swept {}", committed.swept));
    }
    holds(session, &stays, "a load with sweep false").await
}

async fn aborted(session: &mut Session<'_>) -> Verdict {
    let stays = session.upsert("abort: stays");
    session.apply(std::slice::from_ref(&stays)).await?;
    let cut = session.version();
    let mut load = Load::begin(session, cut, session.scopes == Some(true)).await?;
    let sent = session.maker.upsert("abort: sent", cut);
    load.put_good(session, 1, &[sent]).await?;
    let ended = load.abort(session).await?;
    if !(200..300).contains(&ended.status) {
        return fail(load.told("the abort"), told(&ended));
    }
    let answer = load.commit(session, 1).await?;
    refused(&answer, load.told("the commit after the abort"), 404, UNKNOWN_SNAPSHOT)?;
    holds(session, &stays, "an aborted load").await
}

async fn lower_epoch(session: &mut Session<'_>) -> Verdict {
    // The flow has seen ours.
    let row = session.upsert("load of a lower epoch");
    session.apply(&[row]).await?;
    let cut = Version::new(EPOCH - 1, LogOffset(1), 0);
    let answer = ask(session, Uuid::new_v4(), cut, false, &[]).await?;
    if let (200, Ok(Open { id })) = (answer.status, serde_json::from_slice(&answer.body)) {
        Load { id, cut, digest: Digest::default() }.abort(session).await?;
    }
    refused(&answer, format!("the beginning of a load up to {cut}"), 409, FENCED_EPOCH)
}
