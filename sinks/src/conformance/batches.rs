//! Batches: receipts, repeats, the order of batches, and whose epoch counts.

use futures::FutureExt as _;
use uuid::Uuid;

use super::case::Case;
use super::report::Grade::{Must, Should};
use super::report::{Verdict, fail, skip};
use super::session::{EPOCH, PARTITION, SOURCE, Session, counts, expect};
use super::wire::Reply;
use crate::planning::contract::{self, DIGEST_MISMATCH, FENCED_EPOCH, KEY_REUSED, Receipt, SEQUENCE_GAP};

const SECTION: &str = "Batches";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "batch-applied",
        grade: Must,
        section: SECTION,
        asks: "a batch is answered with 200 and a receipt that counts its records and names the partition, epoch and batch",
        run: |session| applied(session).boxed(),
    },
    Case {
        name: "repeat-answered-alike",
        grade: Must,
        section: SECTION,
        asks: "the same Idempotency-Key with the same bytes gets the first answer again",
        run: |session| repeated(session).boxed(),
    },
    Case {
        name: "reused-key-refused",
        grade: Must,
        section: SECTION,
        asks: "the same Idempotency-Key with other bytes gets 422 idempotency-key-reused",
        run: |session| reused(session).boxed(),
    },
    Case {
        name: "watermark-true",
        grade: Must,
        section: SECTION,
        asks: "the watermark of a partition is the epoch and number of the last batch processed in it",
        run: |session| watermark(session).boxed(),
    },
    Case {
        name: "watermark-of-nothing",
        grade: Must,
        section: SECTION,
        asks: "the watermark of a partition without batches is 200 with epoch 0 and last_batch 0",
        run: |session| watermark_of_nothing(session).boxed(),
    },
    Case {
        name: "watermark-members",
        grade: Should,
        section: SECTION,
        asks: "a watermark also says source, partitions and last_version, which spares repeats after a lost reply",
        run: |session| watermark_members(session).boxed(),
    },
    Case {
        name: "gap-refused",
        grade: Must,
        section: SECTION,
        asks: "a batch beyond the next gets 409 sequence-gap with the next one in `expected`, and is not applied",
        run: |session| gap(session).boxed(),
    },
    Case {
        name: "old-batch-is-repeat",
        grade: Must,
        section: SECTION,
        asks: "a batch that is not beyond the last is taken as a repeat: 200, and the watermark stays",
        run: |session| old_batch(session).boxed(),
    },
    Case {
        name: "lower-epoch-refused",
        grade: Must,
        section: SECTION,
        asks: "a batch of a lower epoch than the partition has seen gets 409 fenced-epoch",
        run: |session| lower_epoch(session).boxed(),
    },
    Case {
        name: "damaged-body-refused",
        grade: Must,
        section: SECTION,
        asks: "a body that is not the one that Content-Digest names gets 400 digest-mismatch, and is not applied",
        run: |session| damaged(session).boxed(),
    },
    Case {
        name: "wrong-count-refused",
        grade: Should,
        section: SECTION,
        asks: "a batch with more or fewer records than batch.count gets 400",
        run: |session| wrong_count(session).boxed(),
    },
    Case {
        name: "other-major-refused",
        grade: Should,
        section: SECTION,
        asks: "rows of another major version of the schema are refused",
        run: |session| other_major(session).boxed(),
    },
];

async fn applied(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("first"), session.upsert("second")];
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    let receipt = session.deliver(&delivery).await?.receipt(&delivery.told())?;
    expect(&receipt, [2, 0, 0, 0], &delivery.told())?;
    let at = &receipt.watermark;
    if (at.partition, at.epoch, at.last_batch) != (PARTITION, EPOCH, delivery.batch) {
        let got =
            format!("a watermark of partition {}, epoch {}, last_batch {}", at.partition, at.epoch, at.last_batch);
        return fail(delivery.told(), got);
    }
    // A job has no id of the batch.
    if !receipt.batch_id.is_empty() && receipt.batch_id != delivery.id {
        return fail(delivery.told(), "a receipt with another batch_id than batch.id");
    }
    Ok(())
}

fn counted(receipt: &Receipt) -> [u64; 5] {
    [receipt.received, receipt.applied, receipt.unchanged, receipt.stale, receipt.rejected]
}

async fn repeated(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("repeated")];
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    let first = session.deliver(&delivery).await?.receipt(&delivery.told())?;
    let sent = format!("{}, twice with the same key", delivery.told());
    let again = session.deliver(&delivery).await?.receipt(&sent)?;
    if counted(&first) != counted(&again) {
        return fail(sent, format!("at first {}; then {}", counts(&first), counts(&again)));
    }
    if first.watermark.last_batch != again.watermark.last_batch {
        let batches = (first.watermark.last_batch, again.watermark.last_batch);
        return fail(sent, format!("a watermark at batch {} and then at {}", batches.0, batches.1));
    }
    Ok(())
}

async fn reused(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("reused")];
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    session.deliver(&delivery).await?.receipt(&delivery.told())?;
    let other = [session.upsert("reused")];
    let mut reused = session.batch(&other)?;
    reused.key.clone_from(&delivery.key);
    session.note(&other);
    let sent = format!("{}, with the key of the batch before", reused.told());
    session.deliver(&reused).await?.refused(&sent, 422, KEY_REUSED)?;
    Ok(())
}

async fn watermark(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("first")];
    session.apply(&rows).await?;
    let wanted = session.next - 1;
    let at = session.watermark(PARTITION).await?;
    if (at.partition, at.epoch, at.last_batch) == (PARTITION, EPOCH, wanted) {
        return Ok(());
    }
    let got = format!("partition {}, epoch {}, last_batch {}", at.partition, at.epoch, at.last_batch);
    let sent = format!("the question for the watermark of partition {PARTITION} after epoch={EPOCH}; batch={wanted}");
    fail(sent, got)
}

async fn watermark_of_nothing(session: &mut Session<'_>) -> Verdict {
    // Beside ours, where nobody writes either.
    let nowhere = PARTITION - 1;
    let at = session.watermark(nowhere).await?;
    if (at.partition, at.epoch, at.last_batch) == (nowhere, 0, 0) {
        return Ok(());
    }
    let sent = format!("the question for the watermark of partition {nowhere}, which has no batch");
    fail(sent, format!("partition {}, epoch {}, last_batch {}", at.partition, at.epoch, at.last_batch))
}

async fn watermark_members(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("first")];
    session.apply(&rows).await?;
    let at = session.watermark(PARTITION).await?;
    let version = rows[0].version.to_string();
    let told = (at.source.as_deref(), at.partitions, at.last_version.as_deref());
    if told == (Some(SOURCE), Some(PARTITION + 1), Some(version.as_str())) {
        return Ok(());
    }
    let or_none = |text: Option<&str>| text.unwrap_or("none").to_owned();
    let (source, version_told) = (or_none(told.0), or_none(told.2));
    let partitions = at.partitions.map_or("none".to_owned(), |it| it.to_string());
    fail(
        format!("a batch of source {SOURCE} dealt to {} partitions up to version {version}", PARTITION + 1),
        format!("a watermark with source {source}, partitions {partitions}, last_version {version_told}"),
    )
}

async fn gap(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("gap")];
    let mut ahead = session.batch(&rows)?;
    ahead.batch += 2;
    session.note(&rows);
    let problem = session.deliver(&ahead).await?.refused(&ahead.told(), 409, SEQUENCE_GAP)?;
    if problem.expected != Some(session.next) {
        let expected = problem.expected.map_or("none".to_owned(), |it| it.to_string());
        return fail(ahead.told(), format!("409 sequence-gap with expected {expected}; wanted {}", session.next));
    }
    let delivery = session.batch(&rows)?;
    let receipt = session.deliver(&delivery).await?.receipt(&delivery.told())?;
    expect(&receipt, [1, 0, 0, 0], &format!("{}, refused before as a gap", delivery.told()))
}

async fn old_batch(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("old batch")];
    session.apply(&rows).await?;
    let last = session.next - 1;
    let mut old = session.batch(&rows)?;
    old.batch = last;
    let sent = format!("{}, which was the last one, with a new key", old.told());
    let receipt = session.deliver(&old).await?.receipt(&sent)?;
    expect(&receipt, [0, 1, 0, 0], &sent)?;
    let at = session.watermark(PARTITION).await?.last_batch;
    if at == last { Ok(()) } else { fail(sent, format!("a watermark at batch {at}; wanted {last}")) }
}

async fn lower_epoch(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("lower epoch")];
    let mut fenced = session.batch(&rows)?;
    (fenced.epoch, fenced.batch) = (EPOCH - 1, 1);
    session.note(&rows);
    session.deliver(&fenced).await?.refused(&fenced.told(), 409, FENCED_EPOCH)?;
    Ok(())
}

async fn damaged(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("damaged")];
    let mut damaged = session.batch(&rows)?;
    damaged.digest = contract::content_digest(&contract::sha256(b"other bytes"));
    session.note(&rows);
    let sent = format!("{}, with the Content-Digest of other bytes", damaged.told());
    session.deliver(&damaged).await?.refused(&sent, 400, DIGEST_MISMATCH)?;
    let mut whole = session.batch(&rows)?;
    whole.key.clone_from(&damaged.key);
    let sent = format!("{}, again and whole", whole.told());
    let receipt = session.deliver(&whole).await?.receipt(&sent)?;
    expect(&receipt, [1, 0, 0, 0], &sent)
}

async fn wrong_count(session: &mut Session<'_>) -> Verdict {
    let rows = [session.upsert("wrong count")];
    session.note(&rows);
    let delivery = session.batch_changed(&rows, |body| body["batch"]["count"] = 2.into())?;
    let sent = format!("{}, with batch.count 2", delivery.told());
    refused_whole(session.deliver(&delivery).await?, &sent, &[400, 422])
}

async fn other_major(session: &mut Session<'_>) -> Verdict {
    let entity = session.entity();
    if entity.version.0 == u32::MAX {
        return skip("there is no higher version");
    }
    let rows = [session.upsert("other major")];
    session.note(&rows);
    let mut delivery = session.batch(&rows)?;
    delivery.schema = format!("{}/{}.0", entity.name, entity.version.0 + 1);
    delivery.key = Uuid::new_v4().to_string();
    let sent = format!("{}, with PDX-Schema {}", delivery.told(), delivery.schema);
    refused_whole(session.deliver(&delivery).await?, &sent, &[400, 409, 415, 422])
}

fn refused_whole(reply: Reply, sent: &str, statuses: &[u16]) -> Verdict {
    match reply {
        Reply::Refused(status, ..) if statuses.contains(&status) => Ok(()),
        Reply::Refused(_, _, told) => fail(sent, told),
        Reply::Receipt(receipt) => fail(sent, counts(&receipt)),
    }
}
