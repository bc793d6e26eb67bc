//! `syncline planner verify`: the checks of [`syncline_sinks::conformance`] with a line for each.

use std::path::PathBuf;

use syncline_schemas::secret::SecretRef;
use syncline_sinks::conformance::{Check, Conformance, Grade, Outcome, Report, verify};
use syncline_sinks::planning::{Auth, PlanningConfig, TlsFiles};

use super::CommandError;
use super::planner::secret;
use crate::cli::VerifyArgs;

/// The name under which nothing is delivered: checks have a source of their own.
const PIPELINE: &str = "syncline-verify";

/// Tries a receiver.
pub(crate) async fn run(args: &VerifyArgs) -> Result<(), CommandError> {
    let conformance = conformance(args)?;
    if !args.json {
        println!("rows of company {:?} only, deleted at the end, at {}", args.company, conformance.target.url);
    }
    let report = verify(conformance, |check| {
        if !args.json {
            println!("{}", line(check));
        }
    })
    .await?;
    if args.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        print!("{}", ending(&report));
    }
    if report.is_conformant() {
        return Ok(());
    }
    let musts = report.failed().filter(|(check, _)| check.grade == Grade::Must).count();
    Err(CommandError::Unfit(format!(
        "{} does not keep the contract: {musts} check{} that it must pass failed; see docs/targets.md",
        report.url,
        if musts == 1 { "" } else { "s" }
    )))
}

fn conformance(args: &VerifyArgs) -> Result<Conformance, CommandError> {
    let url = args.url.parse();
    let url = url.map_err(|error| CommandError::Usage(format!("{} is no URL: {error}", args.url)))?;
    let mut target = PlanningConfig::new(url, PIPELINE);
    target.auth = auth(args)?;
    target.signing_key = args.signing_key_file.clone().map(SecretRef::File);
    target.tls = TlsFiles { ca: args.ca.clone(), identity: None };
    Ok(Conformance { target, entities: args.entity.clone(), company: args.company.clone(), force: args.force })
}

fn auth(args: &VerifyArgs) -> Result<Auth, CommandError> {
    let usage = |text: String| CommandError::Usage(text);
    if let Some(file) = &args.token_file {
        secret(file)?;
        return Ok(Auth::Bearer(SecretRef::File(file.clone())));
    }
    if let Some(file) = &args.basic_file {
        let both = secret(file)?;
        let (user, password) = both
            .reveal()
            .split_once(':')
            .ok_or_else(|| usage(format!("{} has no colon; write user:password into it", file.display())))?;
        let password = SecretRef::Given(syncline_schemas::secret::Secret::new(password));
        return Ok(Auth::Basic { user: user.to_owned(), password });
    }
    if let Some(given) = &args.api_key {
        let (name, file) =
            given.split_once('=').ok_or_else(|| usage("--api-key is like X-Api-Key=/etc/key".to_owned()))?;
        let file = PathBuf::from(file);
        secret(&file)?;
        return Ok(Auth::Header { name: name.to_owned(), key: SecretRef::File(file) });
    }
    Ok(Auth::None)
}

/// A check in a line, and more where it failed.
fn line(check: &Check) -> String {
    let Check { name, entity, grade, asks, section, outcome } = check;
    let of = if entity.is_empty() { String::new() } else { format!("{entity} ") };
    match outcome {
        Outcome::Passed => format!("passed   {of}{name}"),
        Outcome::Skipped { why } => format!("skipped  {of}{name}: {why}"),
        Outcome::Failed(failure) => {
            let weight = match grade {
                Grade::Must => "FAILED ",
                Grade::Should => "failed ",
            };
            let word = match grade {
                Grade::Must => "must",
                Grade::Should => "should",
            };
            let (sent, got) = (&failure.sent, &failure.got);
            format!(
                "{weight}  {of}{name}\n  sent   {sent}\n  got    {got}\n  {word:<6} {asks} (docs/targets.md, {section})"
            )
        }
    }
}

/// The sum of all, and what is left.
fn ending(report: &Report) -> String {
    let of = |wanted: fn(&Outcome) -> bool| report.checks.iter().filter(|check| wanted(&check.outcome)).count();
    let passed = of(|outcome| matches!(outcome, Outcome::Passed));
    let skipped = of(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    let must = report.failed().filter(|(check, _)| check.grade == Grade::Must).count();
    let should = report.failed().count() - must;
    let mut text =
        format!("{passed} passed, {must} failed that must not, {should} failed that should not, {skipped} skipped\n");
    for left in &report.left {
        text.push_str(&format!("left at the target: {left}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use syncline_sinks::conformance::Failure;

    use super::*;

    fn args() -> VerifyArgs {
        VerifyArgs {
            url: String::new(),
            entity: Vec::new(),
            company: String::new(),
            force: false,
            token_file: None,
            basic_file: None,
            api_key: None,
            signing_key_file: None,
            ca: None,
            json: false,
        }
    }

    #[test]
    fn a_proof_is_read_from_its_file_or_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        assert_eq!(auth(&args()).expect("none asked"), Auth::None);
        let basic = |text: &str| VerifyArgs { basic_file: Some(file("basic", text)), ..args() };
        let Ok(Auth::Basic { user, password }) = auth(&basic("me:hunter:2\n")) else { panic!("user and password") };
        assert_eq!((user.as_str(), password.read().expect("given").reveal()), ("me", "hunter:2"));
        for text in ["me\n", ""] {
            let error = auth(&basic(text)).expect_err("no password").to_string();
            assert!(error.contains("basic") && !error.contains("me\n"), "{error}");
        }
        let key = format!("X-Key={}", file("key", "k").display());
        let with_key = auth(&VerifyArgs { api_key: Some(key), ..args() }).expect("a header");
        assert!(matches!(with_key, Auth::Header { name, .. } if name == "X-Key"));
        assert!(auth(&VerifyArgs { api_key: Some("X-Key".to_owned()), ..args() }).is_err(), "no file");
        assert!(auth(&VerifyArgs { token_file: Some(dir.path().join("none")), ..args() }).is_err(), "no such file");
    }

    #[test]
    fn a_failed_check_says_what_was_sent_what_came_and_what_was_asked() {
        let failure = Failure { sent: "a batch".to_owned(), got: "500".to_owned() };
        let check = Check {
            name: "gap-refused",
            entity: "item".to_owned(),
            grade: Grade::Must,
            asks: "a gap is refused",
            section: "Batches",
            outcome: Outcome::Failed(failure),
        };
        let text = line(&check);
        assert!(text.starts_with("FAILED   item gap-refused\n"), "{text}");
        for part in ["sent   a batch", "got    500", "must   a gap is refused (docs/targets.md, Batches)"] {
            assert!(text.contains(part), "{text}");
        }
        let report = Report {
            url: "u".to_owned(),
            company: "c".to_owned(),
            checks: vec![check],
            left: vec!["item: 1".to_owned()],
        };
        assert!(ending(&report).starts_with("0 passed, 1 failed that must not, 0 "), "{}", ending(&report));
    }
}
