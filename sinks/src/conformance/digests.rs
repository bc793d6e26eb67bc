//! Digests: the target must come to the same sums over its rows as we do over ours.

use futures::FutureExt as _;
use serde::Deserialize;
use serde_json::Value;

use super::case::Case;
use super::report::Grade::Must;
use super::report::{Stop, Verdict, fail, skip};
use super::rows::{Row, decimal};
use super::session::Session;
use super::wire::{read, told};
use crate::planning::digest::{Digest, bucket_of_json, hash_of_json};

const SECTION: &str = "Digests";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "digest-of-all",
        grade: Must,
        section: SECTION,
        asks: "level 0 is the count and the sum of the hashes of all rows that are there",
        run: |session| of_all(session).boxed(),
    },
    Case {
        name: "digest-of-buckets",
        grade: Must,
        section: SECTION,
        asks: "level 1 is the same for each of the 4,096 buckets that has rows, and adds up to level 0",
        run: |session| of_buckets(session).boxed(),
    },
    Case {
        name: "digest-of-rows",
        grade: Must,
        section: SECTION,
        asks: "level 2 lists the rows of a bucket with key, version and hash, and adds up to its level 1",
        run: |session| of_rows(session).boxed(),
    },
];

#[derive(Debug, Deserialize)]
struct Sum {
    #[serde(default)]
    bucket: u64,
    count: u64,
    digest: String,
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<Sum>,
}

impl Sum {
    fn digest(&self, sent: &str) -> Result<Digest, Stop> {
        match u128::from_str_radix(&self.digest, 16) {
            Ok(sum) => Ok(Digest { count: self.count, sum }),
            Err(_) => fail(sent, format!("the digest {:?}; wanted 32 hex digits", self.digest)),
        }
    }
}

async fn ask<T: serde::de::DeserializeOwned>(session: &mut Session<'_>, level: &str) -> Result<T, Stop> {
    let path = session.path(&["digest"]);
    let sent = format!("GET /{}?level={level}", path.join("/"));
    let answer = session.wire.get(&path, &[("level", level)]).await?;
    match answer.status {
        200 => read(&answer, &sent, "a digest"),
        404 | 405 | 501 => {
            session.digests = Some(false);
            skip("the target offers no digest; a difference between it and the source cannot be found")
        }
        _ => fail(sent, told(&answer)),
    }
}

/// Rows with every kind of value, told apart.
fn rows(session: &mut Session<'_>, name: &str) -> Vec<Row> {
    let field = decimal(session.entity()).map(|field| field.name.clone());
    let spelled = ["10", "010.50", "-0.000", "0.000000001", "-7"];
    let made = (0..).zip(spelled).map(|(n, text)| {
        let row = session.upsert(&format!("{name} {n}"));
        match &field {
            Some(field) => row.with(field, text),
            None => row,
        }
    });
    made.collect()
}

fn sum(session: &Session<'_>, rows: &[Row]) -> Digest {
    let mut sum = Digest::default();
    for row in rows {
        sum += Digest::of(hash_of_json(session.entity(), &row.key, &Value::Object(row.data.clone())));
    }
    sum
}

fn say(digest: Digest) -> String {
    format!("count {} digest {}", digest.count, digest.to_hex())
}

async fn of_all(session: &mut Session<'_>) -> Verdict {
    let rows = rows(session, "digest of all");
    let sent = format!("{} new rows between two digests of level 0", rows.len());
    let mut wanted = ask::<Sum>(session, "0").await?.digest(&sent)?;
    session.apply(&rows).await?;
    wanted += sum(session, &rows);
    let after = ask::<Sum>(session, "0").await?.digest(&sent)?;
    if after == wanted { Ok(()) } else { fail(sent, format!("{}; wanted {}", say(after), say(wanted))) }
}

async fn of_buckets(session: &mut Session<'_>) -> Verdict {
    let rows = rows(session, "digest of buckets");
    let sent = format!("{} new rows between two digests of level 1", rows.len());
    let before = ask::<Buckets>(session, "1").await?.buckets;
    session.apply(&rows).await?;
    let after = ask::<Buckets>(session, "1").await?.buckets;
    let of = |sums: &[Sum], bucket: u64| match sums.iter().find(|sum| sum.bucket == bucket) {
        Some(sum) => sum.digest(&sent),
        None => Ok(Digest::default()),
    };
    let mut touched: Vec<u64> = rows.iter().map(|row| bucket_of_json(session.entity(), &row.key)).collect();
    touched.sort_unstable();
    touched.dedup();
    for bucket in touched {
        let here = rows.iter().filter(|row| bucket_of_json(session.entity(), &row.key) == bucket);
        let mut wanted = of(&before, bucket)?;
        wanted += sum(session, &here.cloned().collect::<Vec<_>>());
        let found = of(&after, bucket)?;
        if found != wanted {
            return fail(sent, format!("bucket {bucket} with {}; wanted {}", say(found), say(wanted)));
        }
    }
    let all = ask::<Sum>(session, "0").await?.digest(&sent)?;
    let mut added = Digest::default();
    for sum in &after {
        added += sum.digest(&sent)?;
    }
    if added == all { Ok(()) } else { fail(sent, format!("buckets of {}, level 0 with {}", say(added), say(all))) }
}

async fn of_rows(session: &mut Session<'_>) -> Verdict {
    let rows = rows(session, "digest of rows");
    session.apply(&rows).await?;
    for row in &rows {
        super::records::holds(session, row, "a new row").await?;
    }
    let Some(first) = rows.first() else { return Ok(()) };
    let bucket = bucket_of_json(session.entity(), &first.key);
    let sent = format!("the digests of level 1 and 2 of bucket {bucket}");
    let told = ask::<Buckets>(session, "1").await?.buckets.into_iter().find(|sum| sum.bucket == bucket);
    let told = told.map_or(Ok(Digest::default()), |sum| sum.digest(&sent))?;
    let mut added = Digest::default();
    for row in session.bucket(&first.key).await? {
        match u128::from_str_radix(&row.hash, 16) {
            Ok(hash) => added += Digest::of(hash),
            Err(_) => return fail(sent, format!("the hash {:?}; wanted 32 hex digits", row.hash)),
        }
    }
    if added == told { Ok(()) } else { fail(sent, format!("rows of {}, level 1 with {}", say(added), say(told))) }
}
