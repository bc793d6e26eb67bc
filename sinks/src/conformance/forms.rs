//! Forms, compressions and sizes that the target announces; and jobs and pauses where it makes use of them.

use bytes::Bytes;
use futures::FutureExt as _;
use reqwest::Method;

use super::case::Case;
use super::records::holds;
use super::report::Grade::{Must, Should};
use super::report::{Stop, Verdict, fail, skip};
use super::session::{Delivery, Session, expect};
use super::wire::{Reply, told};
use crate::planning::{Compression, Format};

const SECTION: &str = "Forms and limits";
/// The largest batch that is tried, and the largest body: beyond that our memory would be tried as well.
const RECORDS_TRIED_MAX: usize = 20_000;
const BYTES_TRIED_MAX: usize = 64 << 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "form-json",
        grade: Must,
        section: SECTION,
        asks: "application/vnd.pdx.delta+json; v=1 is taken",
        run: |session| form(session, Format::Json).boxed(),
    },
    Case {
        name: "form-ndjson",
        grade: Must,
        section: SECTION,
        asks: "application/x-ndjson is taken where it is announced",
        run: |session| form(session, Format::Ndjson).boxed(),
    },
    Case {
        name: "form-arrow",
        grade: Must,
        section: SECTION,
        asks: "application/vnd.apache.arrow.stream is taken where it is announced",
        run: |session| form(session, Format::Arrow).boxed(),
    },
    Case {
        name: "encoding-gzip",
        grade: Must,
        section: SECTION,
        asks: "Content-Encoding gzip is taken where it is announced; Content-Digest is of the bytes as sent",
        run: |session| encoding(session, Compression::Gzip).boxed(),
    },
    Case {
        name: "encoding-zstd",
        grade: Must,
        section: SECTION,
        asks: "Content-Encoding zstd is taken where it is announced; Content-Digest is of the bytes as sent",
        run: |session| encoding(session, Compression::Zstd).boxed(),
    },
    Case {
        name: "other-form-refused",
        grade: Should,
        section: SECTION,
        asks: "a Content-Type that is not taken gets 415",
        run: |session| other_form(session).boxed(),
    },
    Case {
        name: "largest-batch-taken",
        grade: Must,
        section: SECTION,
        asks: "a batch with as many records as max_records says is taken",
        run: |session| largest(session).boxed(),
    },
    Case {
        name: "too-large-refused",
        grade: Must,
        section: SECTION,
        asks: "a body with more bytes than max_bytes says gets 413, so that the sender halves the batch",
        run: |session| too_large(session).boxed(),
    },
    Case {
        name: "jobs-followed",
        grade: Must,
        section: SECTION,
        asks: "202 names a job in Location; GET on it says its state, and at the end counts, watermark and rejects",
        run: |session| jobs(session).boxed(),
    },
    Case {
        name: "pauses-honest",
        grade: Should,
        section: SECTION,
        asks: "429 says in Retry-After when to come again, and whoever comes then is let in",
        run: |session| pauses(session).boxed(),
    },
];

fn announces(known: Option<&[String]>, wanted: &str) -> bool {
    let same = |text: &String| text.replace(' ', "") == wanted.replace(' ', "");
    known.is_none_or(|known| known.iter().any(same))
}

async fn form(session: &mut Session<'_>, format: Format) -> Verdict {
    let media = format.media_type();
    // Whoever does not say what he takes takes JSON.
    let known = session.content_types.as_deref();
    if format != Format::Json && (known.is_none() || !announces(known, media)) {
        return skip(format!("{media} is not announced"));
    }
    let rows = [session.upsert(media), session.upsert("form to be deleted")];
    session.apply(&rows[1..]).await?;
    let (first, version) = (session.upsert(media), session.version());
    let rows = [first, session.maker.delete("form to be deleted", version)];
    let delivery = session.batch_in(&rows, format, Compression::None)?;
    session.note(&rows);
    taken(session, &delivery, 2).await?;
    holds(session, &rows[0], &delivery.told()).await?;
    holds(session, &rows[1], &delivery.told()).await
}

async fn encoding(session: &mut Session<'_>, compression: Compression) -> Verdict {
    let name = compression.encoding().unwrap_or_default();
    let known = session.encodings.as_deref();
    if known.is_none() || !announces(known, name) {
        return skip(format!("{name} is not announced"));
    }
    let rows = [session.upsert(name)];
    let delivery = session.batch_in(&rows, Format::Json, compression)?;
    session.note(&rows);
    taken(session, &delivery, 1).await?;
    holds(session, &rows[0], &delivery.told()).await
}

async fn taken(session: &mut Session<'_>, delivery: &Delivery, records: u64) -> Verdict {
    let receipt = session.deliver(delivery).await?.receipt(&delivery.told())?;
    expect(&receipt, [records, 0, 0, 0], &delivery.told())
}

async fn other_form(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("other form")];
    let mut delivery = session.batch(&rows)?;
    session.note(&rows);
    "text/csv".clone_into(&mut delivery.media_type);
    match session.deliver(&delivery).await? {
        Reply::Refused(415, ..) => Ok(()),
        Reply::Refused(_, _, told) => fail(delivery.told(), told),
        Reply::Receipt(_) => fail(delivery.told(), "200"),
    }
}

async fn largest(session: &mut Session<'_>) -> Verdict {
    let Some(announced) = session.limits.max_records else { return skip("max_records is not announced") };
    let bytes_max = session.limits.max_bytes.unwrap_or(BYTES_TRIED_MAX).min(BYTES_TRIED_MAX);
    let many = announced.min(RECORDS_TRIED_MAX);
    if many < announced {
        return skip(format!("max_records is {announced}; at most {RECORDS_TRIED_MAX} are tried"));
    }
    let rows: Vec<_> = (0..many).map(|n| session.upsert(&format!("one of many {n}"))).collect();
    let delivery = session.batch(&rows)?;
    if delivery.body.len() > bytes_max {
        return skip(format!("{many} records have more than the {bytes_max} bytes that a body may have"));
    }
    session.note(&rows);
    taken(session, &delivery, many as u64).await
}

async fn too_large(session: &mut Session<'_>) -> Verdict {
    let Some(announced) = session.limits.max_bytes else { return skip("max_bytes is not announced") };
    if announced >= BYTES_TRIED_MAX {
        return skip(format!("max_bytes is {announced}; at most {BYTES_TRIED_MAX} are tried"));
    }
    let rows = [session.upsert("too large")];
    let mut delivery = session.batch(&rows)?;
    session.note(&rows);
    let mut body = delivery.body.to_vec();
    body.resize(announced + 1, b' ');
    delivery.set_body(Bytes::from(body));
    let sent = format!("{}, filled up with blanks to {} bytes", delivery.told(), announced + 1);
    let path = session.path(&["deltas"]);
    let answer = session.wire.put(Method::POST, &path, &delivery.headers(), &delivery.body, true).await;
    let answer = answer.or_else(|stop| match stop {
        Stop::Failed(failure) => {
            fail(sent.clone(), format!("{}; a server that refuses a body reads it or closes politely", failure.got))
        }
        stop @ Stop::Skipped(_) => Err(stop),
    })?;
    if answer.status == 413 {
        return Ok(());
    }
    // A job may say so as well.
    match session.wire.settle(answer.clone(), &path, &sent).await? {
        Reply::Refused(413, ..) => Ok(()),
        _ => fail(sent, told(&answer)),
    }
}

/// Asks for a job once, and judges those that came unasked.
async fn jobs(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("job")];
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    session.deliver_with(&delivery, &[("prefer", "respond-async".to_owned())]).await?.receipt(&delivery.told())?;
    match (session.wire.jobs, session.wire.job_fault.take()) {
        (_, Some(fault)) => Err(Stop::Failed(fault)),
        (0, None) => skip("the target processes every batch at once"),
        (_, None) => Ok(()),
    }
}

async fn pauses(session: &mut Session<'_>) -> Verdict {
    // One more request, so that a pause that is asked for now counts.
    session.resume().await?;
    let pauses = std::mem::take(&mut session.wire.pauses);
    let sent = "requests one after another";
    match (pauses.asked, pauses.unnamed, pauses.broken) {
        (0, ..) => skip("the target asked for no pause"),
        (_, 0, 0) => Ok(()),
        (asked, unnamed, broken) => fail(
            sent,
            format!("{asked} pauses asked for, {unnamed} without Retry-After, {broken} refused again after the pause"),
        ),
    }
}
