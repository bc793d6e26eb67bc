//! The conformance checks: the reference receiver passes all of them, and a receiver with a mistake fails the right one.

use futures::{StreamExt as _, stream};
use serde_json::Value;
use syncline_schemas::secret::{Secret, SecretRef};
use syncline_sinks::conformance::{COMPANY, Conformance, Grade, Outcome, Report, verify};
use syncline_sinks::planner::{Access, Faults, Poison};
use syncline_sinks::planning::{Auth, PlanningConfig};
use syncline_sinks::{Class, Sink as _};

use crate::mangle::{self, Mistake};
use crate::outbox::Outbox;
use crate::target::Target;

/// Broken receivers tried side by side.
const AT_ONCE: usize = 4;

fn conformance(config: PlanningConfig) -> Conformance {
    Conformance { target: config, entities: Vec::new(), company: COMPANY.to_owned(), force: false }
}

fn failed(report: &Report) -> Vec<&str> {
    report.failed().map(|(check, _)| check.name).collect()
}

fn skipped(report: &Report) -> Vec<(&str, &str)> {
    let skipped = report.checks.iter().filter_map(|check| match &check.outcome {
        Outcome::Skipped { why } => Some((check.name, why.as_str())),
        Outcome::Passed | Outcome::Failed(_) => None,
    });
    skipped.collect()
}

#[tokio::test]
async fn the_reference_receiver_keeps_what_the_contract_promises_and_is_left_as_it_was() {
    let target = Target::start(Faults::default()).await;
    target.running.require(Access { token: Some(Secret::new("hunter2")), ..Access::default() });
    let mut config = target.config();
    config.auth = Auth::Bearer(SecretRef::Given(Secret::new("hunter2")));
    let mut conformance = conformance(config);
    conformance.entities = ["item", "inventory_balance", "sales_order_line"].map(str::to_owned).to_vec();
    // A second time it begins where the first one ended.
    for _ in 0..2 {
        let report = verify(conformance.clone(), |_| ()).await.expect("it answers");
        assert_eq!(failed(&report), [""; 0], "{report:#?}");
        assert!(report.is_conformant());
        for (check, why) in skipped(&report) {
            let observed = ["jobs-followed", "pauses-honest", "unknown-reference-retryable"].contains(&check);
            assert!(observed, "{check}: {why}");
        }
        for count in target.get("/entities").await.as_array().expect("a list") {
            assert_eq!(count["rows"], 0, "{count}");
        }
        assert_eq!(report.left.len(), 3, "{:?}", report.left);
        let told = serde_json::to_string(&report).expect("JSON");
        assert!(!told.contains("hunter2"), "{told}");
    }
    // All of it is ours by name.
    let page = target.get("/entities/item?tombstones=true&limit=10000").await;
    let rows = page["rows"].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["key"]["company_id"] == COMPANY));
}

#[tokio::test]
async fn a_receiver_that_processes_later_keeps_the_same_promises() {
    let target = Target::start(Faults { defer_rate: 1.0, defer_ms: 1, ..Faults::default() }).await;
    let base = mangle::serve(Mistake::None, target.running.addr, None).await;
    let config = PlanningConfig::new(base.parse().expect("a URL"), "test");
    let report = verify(conformance(config), |_| ()).await.expect("it answers");
    assert_eq!(failed(&report), [""; 0], "{report:#?}");
    assert!(!skipped(&report).iter().any(|(check, _)| *check == "jobs-followed"));
}

#[tokio::test]
async fn no_mistake_of_an_integrator_stays_unseen() {
    let mistakes = [
        (Mistake::None, ""),
        (Mistake::AppliesLowerVersions, "lower-version-stale"),
        (Mistake::ForgetsTombstones, "tombstone-kept"),
        (Mistake::ForgetsKeys, "repeat-answered-alike"),
        (Mistake::AcceptsReusedKeys, "reused-key-refused"),
        (Mistake::AcceptsGaps, "gap-refused"),
        (Mistake::ExpectsNothing, "gap-refused"),
        (Mistake::AcceptsOldEpochs, "lower-epoch-refused"),
        (Mistake::IgnoresContentDigest, "damaged-body-refused"),
        (Mistake::LosesDecimals, "decimals-exact"),
        (Mistake::FoldsCase, "odd-keys-told-apart"),
        (Mistake::TrimsKeys, "odd-keys-told-apart"),
        (Mistake::RefusesWholeBatches, "bad-record-refused-alone"),
        (Mistake::RefusesUnknownFields, "unknown-field-ignored"),
        (Mistake::CountsWrong, "equal-version-unchanged"),
        (Mistake::LagsBehind, "watermark-true"),
        (Mistake::CallsProblemsJson, "problems-named"),
        (Mistake::TakesEveryone, "stranger-refused"),
        (Mistake::SwallowsLargeBodies, "too-large-refused"),
        (Mistake::RefusesWhatItAnnounces, "encoding-zstd"),
        (Mistake::SweepsYounger, "load-sweeps-exactly"),
        (Mistake::IgnoresScope, "load-scope-understood"),
        (Mistake::ForgetsKeep, "load-sweeps-exactly"),
        (Mistake::CommitsWithoutParts, "load-part-missing"),
        (Mistake::CommitsAnything, "load-digest-wrong"),
        (Mistake::SweepsUnasked, "load-without-sweep"),
        (Mistake::AbortsNothing, "load-aborted"),
        (Mistake::DigestsNothing, "digest-of-all"),
        (Mistake::NamesNoPause, "pauses-honest"),
        (Mistake::FailsJobs, "jobs-followed"),
    ];
    let tried = stream::iter(mistakes).map(async |(mistake, check)| (mistake, check, try_one(mistake).await));
    let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
    let mut unseen = Vec::new();
    for (mistake, wanted, report) in &tried {
        let failed = failed(report);
        let is_seen = if wanted.is_empty() { failed.is_empty() } else { failed.contains(wanted) };
        // Whatever else falls with it, most of the checks must not.
        if !is_seen || failed.len() > 12 {
            unseen.push(format!("{mistake:?}: failed {failed:?}, wanted {wanted}"));
        }
        let weighs = report.failed().any(|(check, _)| check.grade == Grade::Must);
        assert_eq!(report.is_conformant(), !weighs);
    }
    assert!(unseen.is_empty(), "{unseen:#?}");
}

async fn try_one(mistake: Mistake) -> Report {
    let target = Target::start(Faults::default()).await;
    target.running.require(Access { token: Some(Secret::new("hunter2")), ..Access::default() });
    let base = mangle::serve(mistake, target.running.addr, Some("hunter2")).await;
    let mut config = PlanningConfig::new(base.parse().expect("a URL"), "test");
    config.auth = Auth::Bearer(SecretRef::Given(Secret::new("hunter2")));
    verify(conformance(config), |_| ()).await.expect("it answers")
}

#[tokio::test]
async fn a_flow_that_a_pipeline_writes_is_left_alone_and_no_trial_fences_it() {
    let target = Target::start(Faults::default()).await;
    let mut outbox = Outbox::default();
    outbox.push(7, &[("inventory_balance", 1, Some(1)), ("inventory_balance", 2, Some(2))]);
    let mut sink = target.sink();
    sink.write(outbox.span(), &outbox).await.expect("delivered");
    let mut conformance = conformance(target.config());
    conformance.entities = vec!["inventory_balance".to_owned()];
    let report = verify(conformance.clone(), |_| ()).await.expect("it answers");
    assert_eq!(failed(&report), ["nobody-else-writes"]);
    assert!(!report.is_conformant() && report.left.is_empty());
    target.assert_holds(&outbox).await;

    conformance.force = true;
    let report = verify(conformance, |_| ()).await.expect("it answers");
    assert_eq!(failed(&report), [""; 0], "{report:#?}");
    let left_out = skipped(&report).into_iter().filter(|(check, _)| check.starts_with("load-")).count();
    assert!(left_out >= 10, "no load can be begun below the epoch of a pipeline");
    outbox.push(7, &[("inventory_balance", 3, Some(3))]);
    sink.write(outbox.span(), &outbox).await.expect("nobody fenced it");
    let rows: Value = target.get("/entities/inventory_balance").await;
    assert_eq!(rows["rows"].as_array().map(Vec::len), Some(3), "{rows}");
}

#[tokio::test]
async fn a_row_that_cites_what_may_come_is_to_be_refused_for_now_and_not_for_ever() {
    let poison = |retryable| {
        let (field, value, code) = ("base_uom", "SYNCLINE-NOWHERE", "unknown_uom");
        let (field, value, code) = (field.to_owned(), value.to_owned(), code.to_owned());
        Faults { poison: vec![Poison { field, value, code, retryable }], ..Faults::default() }
    };
    for (retryable, wanted) in [(true, vec![]), (false, vec!["unknown-reference-retryable"])] {
        let target = Target::start(poison(retryable)).await;
        let base = mangle::serve(Mistake::None, target.running.addr, None).await;
        let config = PlanningConfig::new(base.parse().expect("a URL"), "test");
        let report = verify(conformance(config), |_| ()).await.expect("it answers");
        assert_eq!(failed(&report), wanted, "{report:#?}");
        assert!(report.is_conformant(), "a sender can live with it");
        assert!(!skipped(&report).iter().any(|(check, _)| *check == "unknown-reference-retryable"));
    }
}

#[tokio::test]
async fn whoever_does_not_answer_or_has_no_such_entity_is_told_so_at_once() {
    let target = Target::start(Faults::default()).await;
    let mut unknown = conformance(target.config());
    unknown.entities = vec!["itme".to_owned()];
    let error = verify(unknown, |_| ()).await.expect_err("no such entity").to_string();
    assert!(error.contains("there is no entity itme"), "{error}");
    target.running.require(Access { token: Some(Secret::new("hunter2")), ..Access::default() });
    let mut stranger = conformance(target.config());
    stranger.entities = vec!["item".to_owned()];
    let report = verify(stranger, |_| ()).await.expect("it answers");
    assert_eq!((failed(&report), report.is_conformant()), (vec!["capabilities"], false));
    let config = target.config();
    target.running.shutdown().await.expect("a clean stop");
    let error = verify(conformance(config), |_| ()).await.expect_err("nobody is there");
    assert_eq!(error.class(), Class::Transient, "{error}");
}
