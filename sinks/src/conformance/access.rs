//! Who is let in, what is announced, and how refusals look.

use futures::FutureExt as _;
use reqwest::Method;

use super::case::Case;
use super::report::Grade::Must;
use super::report::{Verdict, fail, skip};
use super::session::Session;
use super::wire::{Reply, is_problem, problem, told};

const SECTION: &str = "Access and problems";
/// A flow that no target has.
const NOWHERE: &str = "syncline_verify_no_such_flow";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "stranger-refused",
        grade: Must,
        section: SECTION,
        asks: "requests without the credentials get 401, whether they read or write",
        run: |session| stranger(session).boxed(),
    },
    Case {
        name: "unknown-flow-refused",
        grade: Must,
        section: SECTION,
        asks: "a flow that is not announced gets 404, never a receipt",
        run: |session| unknown_flow(session).boxed(),
    },
    Case {
        name: "problems-named",
        grade: Must,
        section: SECTION,
        asks: "a refusal is application/problem+json (RFC 9457) with type, title, status; the type ends in its name",
        run: |session| problems(session).boxed(),
    },
];

async fn stranger(session: &mut Session<'_>) -> Verdict {
    if !session.has_credentials {
        return skip("no credentials were given");
    }
    let partition = super::session::PARTITION.to_string();
    let path = session.path(&["watermark"]);
    let read = session.wire.get_unproved(&path, &[("partition", &partition)]).await?;
    if read.status != 401 {
        return fail(format!("GET /{} without credentials", path.join("/")), told(&read));
    }
    let rows = [session.upsert("stranger")];
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    let path = session.path(&["deltas"]);
    let written = session.wire.put(Method::POST, &path, &delivery.headers(), &delivery.body, false).await?;
    if written.status == 401 {
        return Ok(());
    }
    fail(format!("{}, without credentials", delivery.told()), told(&written))
}

async fn unknown_flow(session: &mut Session<'_>) -> Verdict {
    let delivery = session.batch(&[])?;
    let path = ["flows", NOWHERE, "deltas"];
    let answer = session.wire.put(Method::POST, &path, &delivery.headers(), &delivery.body, true).await?;
    let shown = told(&answer);
    // Who accepts everything for later refuses it there.
    match session.wire.settle(answer, &path, &delivery.told()).await? {
        Reply::Refused(404, ..) => Ok(()),
        _ => fail(format!("a batch for the flow {NOWHERE}"), shown),
    }
}

async fn problems(session: &mut Session<'_>) -> Verdict {
    // A gap, since its name decides what a sender does.
    let rows = [session.upsert("problem")];
    let mut ahead = session.batch(&rows)?;
    ahead.batch += 7;
    session.note(&rows);
    let path = session.path(&["deltas"]);
    let answer = session.wire.put(Method::POST, &path, &ahead.headers(), &ahead.body, true).await?;
    if answer.status == 202 {
        return skip("the target accepts every batch and refuses it later");
    }
    let found = problem(&answer);
    let media = answer.headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or("no Content-Type");
    let fault = if answer.status < 400 {
        "no refusal"
    } else if !is_problem(&answer) {
        "another Content-Type"
    } else if found.kind.is_empty() || found.name() == "about:blank" {
        "no type of its own"
    } else if found.title.is_empty() || found.status != answer.status {
        "no title, or another status than that of the answer"
    } else {
        return Ok(());
    };
    fail(ahead.told(), format!("{fault}: {media} {}", told(&answer)))
}
