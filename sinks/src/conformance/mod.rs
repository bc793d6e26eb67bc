//! Is it a PDX/1 target? Named checks that whoever builds one runs against it, each passed, failed or skipped by itself.
//!
//! A sink only sees what a target answers; here both sides of every promise are tried: what must be taken, and what must
//! be refused. Rows are synthetic, of one company, and deleted at the end. Why this disturbs no pipeline is in
//! [`session`]; a flow that others write is left alone all the same unless it is asked for, since digests and limits are
//! shared.
//!
//! Each check begins where the target's watermark is, so one that fails does not fail the next.

mod access;
mod batches;
mod case;
mod digests;
mod forms;
mod loads;
mod records;
mod report;
mod rows;
mod session;
mod wire;

use std::collections::BTreeMap;

use serde::Deserialize;
use syncline_schemas::entity::{self, Entity};

use crate::SinkError;
use crate::planning::contract::{FlowLimits, Watermark};
use crate::planning::{Auth, PlanningConfig};
use case::Case;
pub use report::{Check, Failure, Grade, Outcome, Report};
use report::{Stop, Verdict, fail};
use rows::{Maker, decimal, told_by};
use session::{EPOCH, PARTITION, SOURCE, Session};
use wire::{Wire, read, told};

/// The company of all rows where none is given.
pub const COMPANY: &str = "SYNCLINE-VERIFY";
/// Partitions that are asked who writes them; a pipeline uses the first ones.
const PARTITIONS_ASKED: u32 = 16;
/// Rows in a batch that deletes, where the target takes as many.
const DELETED_AT_ONCE: usize = 1_000;
/// Which entity is tried where none is named: one with few references, so that the masters of a target suffice.
const FAVOURITES: [&str; 3] = ["item", "location", "inventory_balance"];

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct Conformance {
    /// How to reach the target, and who we are; of everything else nothing counts.
    pub target: PlanningConfig,
    /// Which entities; the one that suits best where none is named.
    pub entities: Vec<String>,
    /// The company of all rows.
    pub company: String,
    /// Also an entity that another source writes.
    pub force: bool,
}

/// What a target announces, all of it optional here: what is missing is a finding.
#[derive(Debug, Default, Deserialize)]
struct Announced {
    #[serde(default)]
    contract_versions: Vec<String>,
    #[serde(default)]
    flows: BTreeMap<String, FlowLimits>,
    #[serde(default)]
    content_types: Option<Vec<String>>,
    #[serde(default)]
    content_encodings: Option<Vec<String>>,
}

const CAPABILITIES: Case = Case {
    name: "capabilities",
    grade: Grade::Must,
    section: "Access and problems",
    asks: "GET /capabilities says contract_versions with \"1\", and flows with max_records and max_bytes by entity",
    run: |_| Box::pin(async { Ok(()) }),
};

const ALONE: Case = Case {
    name: "nobody-else-writes",
    grade: Grade::Must,
    section: "Trying a target",
    asks: "an entity is tried where no other source writes it, or with --force",
    run: |_| Box::pin(async { Ok(()) }),
};

const CLEARED: Case = Case {
    name: "rows-deleted",
    grade: Grade::Must,
    section: "Records",
    asks: "deletes of everything that was written are applied",
    run: |session| Box::pin(clear(session)),
};

/// All checks in the order in which they are tried.
fn cases() -> impl Iterator<Item = &'static Case> {
    let all = [batches::CASES, records::CASES, forms::CASES, digests::CASES, loads::CASES, access::CASES];
    // Last of all: pauses are counted until then.
    let last = |case: &&Case| case.name == "pauses-honest";
    let cases = || all.into_iter().flatten();
    cases().filter(move |case| !last(case)).chain(cases().filter(last))
}

/// Tries a target; `told` hears of each check as it ends.
///
/// # Errors
/// [`SinkError::Setting`] for a setting that cannot be used, [`SinkError::Unavailable`] where nobody answers.
pub async fn verify(conformance: Conformance, mut told: impl FnMut(&Check)) -> Result<Report, SinkError> {
    let Conformance { target, entities, company, force } = conformance;
    if company.is_empty() {
        return Err(SinkError::Setting { setting: "company", reason: "is empty; name one that no source has".into() });
    }
    let url = target.url.to_string();
    let has_credentials = target.auth != Auth::None || target.signing_key.is_some();
    let mut wire = Wire::new(target)?;
    let mut report = Report { url: url.clone(), company: company.clone(), checks: Vec::new(), left: Vec::new() };
    let mut note = |report: &mut Report, check: Check| {
        told(&check);
        report.checks.push(check);
    };
    let (announced, verdict) = match capabilities(&mut wire).await {
        Err(Stop::Failed(failure)) if failure.got.starts_with("no answer") => {
            return Err(SinkError::Unavailable { target: url, reason: failure.got });
        }
        Err(stop) => (Announced::default(), Err(stop)),
        Ok(announced) => {
            let verdict = announced.judge();
            (announced, verdict)
        }
    };
    note(&mut report, CAPABILITIES.check("", verdict));
    for entity in chosen(&announced, &entities)? {
        let limits = announced.flows.get(&entity.name);
        let limits = FlowLimits {
            max_records: limits.and_then(|it| it.max_records),
            max_bytes: limits.and_then(|it| it.max_bytes),
        };
        let mut session = Session::new(&mut wire, Maker { entity, company: company.clone() }, limits);
        session.content_types.clone_from(&announced.content_types);
        session.encodings.clone_from(&announced.content_encodings);
        session.has_credentials = has_credentials;
        let alone = alone(&mut session, force).await;
        let may = alone.is_ok();
        note(&mut report, ALONE.check(&entity.name, alone));
        if may {
            for case in cases() {
                note(&mut report, case.run(&mut session).await);
            }
            note(&mut report, CLEARED.run(&mut session).await);
            report.left.push(left(&session));
        }
    }
    Ok(report)
}

async fn capabilities(wire: &mut Wire) -> Result<Announced, Stop> {
    let answer = wire.get(&["capabilities"], &[]).await?;
    if answer.status != 200 {
        return fail("GET /capabilities", told(&answer));
    }
    read(&answer, "GET /capabilities", "what a target announces")
}

impl Announced {
    fn judge(&self) -> Verdict {
        let sent = "GET /capabilities";
        if !self.contract_versions.iter().any(|version| version == "1") {
            return fail(sent, format!("contract_versions {:?}; wanted \"1\" in it", self.contract_versions));
        }
        if self.flows.is_empty() {
            return fail(sent, "no flows");
        }
        Ok(())
    }
}

/// The entities to be tried.
fn chosen(announced: &Announced, wanted: &[String]) -> Result<Vec<&'static Entity>, SinkError> {
    let fault = |reason: String| Err(SinkError::Setting { setting: "entity", reason });
    let mut found = Vec::new();
    for name in wanted {
        let Some(entity) = entity::get(name) else { return fault(format!("there is no entity {name}")) };
        if told_by(entity).is_none() {
            return fault(format!("{name} has no key under a company; name another"));
        }
        if announced.flows.is_empty() {
            // That is a finding by itself, and nothing can be tried.
            return Ok(Vec::new());
        }
        if !announced.flows.contains_key(name) {
            return fault(format!("the target does not announce {name}; it has {}", names(announced)));
        }
        found.push(entity);
    }
    if found.is_empty() {
        let usable = |entity: &&&Entity| announced.flows.contains_key(&entity.name) && told_by(entity).is_some();
        let all: Vec<&'static Entity> = entity::all().iter().collect();
        let favourites = || FAVOURITES.iter().filter_map(|name| entity::get(name));
        let favourite = favourites().find(|entity| usable(&entity));
        let best = favourite.or_else(|| all.iter().filter(usable).find(|it| decimal(it).is_some()).copied());
        found.extend(best.or_else(|| all.iter().find(usable).copied()));
    }
    if found.is_empty() && !announced.flows.is_empty() {
        return fault(format!("the target announces no entity that can be tried; it has {}", names(announced)));
    }
    Ok(found)
}

fn names(announced: &Announced) -> String {
    announced.flows.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Refuses a flow that somebody else writes.
async fn alone(session: &mut Session<'_>, force: bool) -> Verdict {
    let mut other: Option<Watermark> = None;
    for partition in (0..PARTITIONS_ASKED).chain([PARTITION]) {
        let at = session.watermark(partition).await?;
        let is_ours = at.source.as_deref() == Some(SOURCE) || (partition == PARTITION && at.source.is_none());
        if at.epoch == 0 && at.last_batch == 0 || is_ours {
            continue;
        }
        session.others_epoch = session.others_epoch.max(at.epoch);
        other.get_or_insert(at);
    }
    let Some(Watermark { partition, epoch, last_batch, source, .. }) = other else { return Ok(()) };
    let sent = format!("the question for the watermarks of {PARTITIONS_ASKED} partitions and our own");
    if partition == PARTITION && epoch > EPOCH {
        return fail(sent, format!("partition {PARTITION}, which is ours, is in epoch {epoch}"));
    }
    if force {
        return Ok(());
    }
    let source = source.unwrap_or_else(|| "a source without a name".to_owned());
    let at = format!("partition {partition} up to epoch={epoch}; batch={last_batch}");
    fail(sent, format!("{source} has written {at}; not tried: take another entity, or --force"))
}

/// Deletes everything that was written.
async fn clear(session: &mut Session<'_>) -> Verdict {
    let mut rows: Vec<_> = session.ever.values().cloned().collect();
    for row in &mut rows {
        row.op = rows::Op::Delete;
        row.data.clear();
        row.version = session.version();
    }
    let most = session.limits.max_records.unwrap_or(DELETED_AT_ONCE).clamp(1, DELETED_AT_ONCE);
    let mut bytes_most = most;
    if let Some(max_bytes) = session.limits.max_bytes {
        // A delete of ours is shorter than this many bytes.
        bytes_most = (max_bytes / 1_024).max(1);
    }
    for batch in rows.chunks(most.min(bytes_most)) {
        let verdict = match session.apply(batch).await {
            Ok(receipt) if receipt.stale == 0 => Ok(()),
            Ok(receipt) => fail(
                format!("the deletes of {} rows, newer than all that was sent", batch.len()),
                format!("{}; rows of higher versions than any that was sent stay", session::counts(&receipt)),
            ),
            Err(stop) => Err(stop),
        };
        verdict?;
        for row in batch {
            session.ever.remove(&row.key_text());
        }
    }
    Ok(())
}

fn left(session: &Session<'_>) -> String {
    let (name, company) = (&session.entity().name, &session.maker.company);
    let rows = session.ever.len();
    let place = format!("partition {PARTITION} at epoch={EPOCH}; batch={}", session.next.saturating_sub(1));
    match rows {
        0 => format!("{name}: tombstones of company {company}, and {place}; no row"),
        rows => format!("{name}: up to {rows} rows of company {company}, and {place}; run again, or delete them there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checks of a section as the manual lists them.
    fn listed(section: &str) -> String {
        let all = [&CAPABILITIES, &ALONE].into_iter().chain(cases()).chain([&CLEARED]);
        let rows = all.filter(|case| case.section == section).map(|case| {
            let grade = if case.grade == Grade::Must { "must" } else { "should" };
            format!("| `{}` | {grade} | {} |\n", case.name, case.asks)
        });
        rows.collect()
    }

    #[test]
    fn the_manual_lists_every_check_with_what_it_asks() {
        let manual = include_str!("../../../docs/targets.md");
        let all = [&CAPABILITIES, &ALONE].into_iter().chain(cases()).chain([&CLEARED]);
        let mut sections: Vec<&str> = all.map(|case| case.section).collect();
        sections.sort_unstable();
        sections.dedup();
        for section in sections {
            assert!(manual.contains(&format!("### {section}\n")), "no heading {section}");
            assert!(manual.contains(&listed(section)), "under {section} should be:\n{}", listed(section));
        }
    }

    #[test]
    fn every_entity_that_can_be_tried_has_rows_in_every_form() {
        let tried = entity::all().iter().filter(|entity| told_by(entity).is_some());
        let mut many = 0;
        for entity in tried {
            let maker = Maker { entity, company: COMPANY.to_owned() };
            let version = syncline_schemas::ident::Version::new(EPOCH, syncline_schemas::ident::LogOffset(1), 1);
            let rows = [maker.upsert("a", version), maker.delete("b", version)];
            let head = rows::Head { id: "b", source: SOURCE, partitions: 1 };
            for format in [crate::planning::Format::Json, crate::planning::Format::Arrow] {
                rows::body(entity, &head, &rows, format).unwrap_or_else(|error| panic!("{}: {error}", entity.name));
            }
            many += 1;
        }
        assert!(many >= 20, "{many}");
    }
}
