//! Records: which version counts, which records are refused by themselves, and that values stay what they are.

use futures::FutureExt as _;
use serde_json::{Map, Value};

use super::case::Case;
use super::report::Grade::{Must, Should};
use super::report::{Verdict, fail, skip};
use super::rows::{Op, Row, decimal, told_by};
use super::session::{Session, counts, expect};
use crate::planning::contract::Receipt;
use crate::planning::digest::hash_of_json;

const SECTION: &str = "Records";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "newer-version-applied",
        grade: Must,
        section: SECTION,
        asks: "a record with a higher version than is held of its key is applied",
        run: |session| newer(session).boxed(),
    },
    Case {
        name: "equal-version-unchanged",
        grade: Must,
        section: SECTION,
        asks: "a record with the version that is held is `unchanged`, which is a success",
        run: |session| equal(session).boxed(),
    },
    Case {
        name: "lower-version-stale",
        grade: Must,
        section: SECTION,
        asks: "a record with a lower version than is held is `stale`, which is a success, and changes nothing",
        run: |session| lower(session).boxed(),
    },
    Case {
        name: "tombstone-kept",
        grade: Must,
        section: SECTION,
        asks: "a delete is kept with its version: an older upsert that comes later is stale, also of a key never seen",
        run: |session| tombstone(session).boxed(),
    },
    Case {
        name: "unknown-field-ignored",
        grade: Must,
        section: SECTION,
        asks: "fields that the receiver does not know are ignored: minor versions add some",
        run: |session| unknown_field(session).boxed(),
    },
    Case {
        name: "bad-record-refused-alone",
        grade: Must,
        section: SECTION,
        asks: "a record with a value of another type is in `rejects` with its index and a code; the others are applied",
        run: |session| wrong_type(session).boxed(),
    },
    Case {
        name: "missing-field-refused",
        grade: Should,
        section: SECTION,
        asks: "a record without a required field is refused, and not as retryable",
        run: |session| missing_field(session).boxed(),
    },
    Case {
        name: "unknown-reference-retryable",
        grade: Should,
        section: SECTION,
        asks: "a record that is refused because it cites a row that is not there has retryable true: that row may come",
        run: |session| unknown_reference(session).boxed(),
    },
    Case {
        name: "odd-keys-told-apart",
        grade: Must,
        section: SECTION,
        asks: "keys are compared byte for byte: slashes, quotes, case, blanks, characters beyond ASCII and empty text",
        run: |session| odd_keys(session).boxed(),
    },
    Case {
        name: "decimals-exact",
        grade: Must,
        section: SECTION,
        asks: "decimals are strings and are kept exactly, to the last of nine places",
        run: |session| decimals(session).boxed(),
    },
];

/// Delivers rows and compares what the receipt counts: applied, unchanged, stale, rejected.
async fn counted(
    session: &mut Session<'_>,
    rows: &[Row],
    wanted: [u64; 4],
    after: &str,
) -> Result<Receipt, super::report::Stop> {
    let delivery = session.batch(rows)?;
    session.note(rows);
    let sent = format!("{}{after}", delivery.told());
    let receipt = session.deliver(&delivery).await?.receipt(&sent)?;
    expect(&receipt, wanted, &sent)?;
    Ok(receipt)
}

/// Fails unless the target holds exactly this row, where that can be seen.
pub(super) async fn holds(session: &mut Session<'_>, row: &Row, after: &str) -> Verdict {
    let Some(held) = session.look(row).await? else { return Ok(()) };
    let hash = hash_of_json(session.entity(), &row.key, &Value::Object(row.data.clone()));
    let wanted = (row.op == Op::Upsert).then(|| (row.version.to_string(), format!("{hash:032x}")));
    let found = held.map(|held| (held.version, held.hash));
    if found == wanted {
        return Ok(());
    }
    let say =
        |it: Option<(String, String)>| it.map_or("no row".to_owned(), |it| format!("version {} hash {}", it.0, it.1));
    let sent = format!("{after}, then the digest of level 2 of key {}", row.key_text());
    fail(sent, format!("{}; wanted {}", say(found), say(wanted)))
}

async fn newer(session: &mut Session<'_>) -> Verdict {
    let first = session.upsert("version");
    counted(session, &[first], [1, 0, 0, 0], "").await?;
    let newer = session.upsert("version");
    counted(session, std::slice::from_ref(&newer), [1, 0, 0, 0], ", a newer version").await?;
    holds(session, &newer, "two versions of a row").await
}

async fn equal(session: &mut Session<'_>) -> Verdict {
    let row = session.upsert("version");
    session.apply(std::slice::from_ref(&row)).await?;
    counted(session, std::slice::from_ref(&row), [0, 1, 0, 0], ", the version that is held").await?;
    holds(session, &row, "a version twice").await
}

async fn lower(session: &mut Session<'_>) -> Verdict {
    let (older, newer) = (session.upsert("version"), session.upsert("version"));
    let older = match decimal(session.entity()) {
        Some(field) => older.with(&field.name, "2.5"),
        None => older,
    };
    session.apply(std::slice::from_ref(&newer)).await?;
    counted(session, std::slice::from_ref(&older), [0, 0, 1, 0], ", older than the version held").await?;
    session.note(std::slice::from_ref(&newer));
    holds(session, &newer, "a row and then an older version").await
}

async fn tombstone(session: &mut Session<'_>) -> Verdict {
    for (name, is_there) in [("tombstone", true), ("tombstone of nothing", false)] {
        let first = session.upsert(name);
        if is_there {
            session.apply(&[first]).await?;
        }
        let late = session.upsert(name);
        let version = session.version();
        let gone = session.maker.delete(name, version);
        counted(session, std::slice::from_ref(&gone), [1, 0, 0, 0], "").await?;
        counted(session, std::slice::from_ref(&late), [0, 0, 1, 0], ", older than the delete before").await?;
        holds(session, &gone, "a delete and then an older upsert").await?;
        session.note(&[gone]);
    }
    Ok(())
}

async fn unknown_field(session: &mut Session<'_>) -> Verdict {
    let row = session.upsert("unknown field");
    let sent = row.clone().with("syncline_verify_unknown", "x");
    counted(session, &[sent], [1, 0, 0, 0], ", with a field that no entity has").await?;
    session.note(std::slice::from_ref(&row));
    holds(session, &row, "a row with a field that no entity has").await
}

async fn wrong_type(session: &mut Session<'_>) -> Verdict {
    let fields = &session.entity().fields[session.entity().key_len()..];
    let Some(field) = fields.first() else { return skip("the entity has no field beside its key") };
    let name = decimal(session.entity()).unwrap_or(field).name.clone();
    let rows = [
        session.upsert("good before"),
        session.upsert("bad").with(&name, Value::Object(Map::new())),
        session.upsert("good behind"),
    ];
    let after = format!(", record 1 with an object in {name}");
    let delivery = session.batch(&rows)?;
    session.note(&rows);
    let sent = format!("{}{after}", delivery.told());
    let receipt = session.deliver(&delivery).await?.receipt(&sent)?;
    expect(&receipt, [2, 0, 0, 1], &sent)?;
    match receipt.rejects.as_slice() {
        [only] if only.index == 1 && !only.code.is_empty() && !only.retryable => Ok(()),
        [only] => {
            let told = format!("index {}, code {:?}, retryable {}", only.index, only.code, only.retryable);
            fail(sent, format!("a reject with {told}; wanted index 1, a code, retryable false"))
        }
        others => fail(sent, format!("{} entries in rejects; wanted one", others.len())),
    }
}

async fn missing_field(session: &mut Session<'_>) -> Verdict {
    let fields = &session.entity().fields[session.entity().key_len()..];
    let Some(field) = fields.iter().find(|field| field.required && !field.stamp) else {
        return skip("the entity has no required field beside its key");
    };
    let mut row = session.upsert("missing field");
    row.data.remove(&field.name);
    let delivery = session.batch(std::slice::from_ref(&row))?;
    session.note(&[row]);
    let sent = format!("{}, without {}", delivery.told(), field.name);
    let receipt = session.deliver(&delivery).await?.receipt(&sent)?;
    expect(&receipt, [0, 0, 0, 1], &sent)?;
    let is_retryable = receipt.rejects.iter().any(|reject| reject.retryable);
    if is_retryable { fail(sent, "a reject with retryable true") } else { Ok(()) }
}

async fn unknown_reference(session: &mut Session<'_>) -> Verdict {
    let entity = session.entity();
    let Some(reference) = entity.references.first() else { return skip("the entity cites no other") };
    let Some(field) = reference.fields.last().and_then(|place| entity.fields.get(*place)) else {
        return skip("the entity cites no other");
    };
    let mut row = session.upsert("unknown reference");
    match entity.fields[..entity.key_len()].iter().position(|key| key.name == field.name) {
        Some(place) => row.key[place] = Value::from("SYNCLINE-NOWHERE"),
        None => row = row.with(&field.name, "SYNCLINE-NOWHERE"),
    }
    let delivery = session.batch(std::slice::from_ref(&row))?;
    session.note(&[row]);
    let sent = format!("{}, with a {} that cites no {}", delivery.told(), field.name, reference.entity);
    let receipt = session.deliver(&delivery).await?.receipt(&sent)?;
    match receipt.rejects.as_slice() {
        [] if receipt.applied == 1 => skip("the target takes rows that cite unknown ones"),
        [only] if only.retryable => Ok(()),
        [only] => fail(sent, format!("a reject with code {} and retryable false", only.code)),
        _ => fail(sent, counts(&receipt)),
    }
}

async fn odd_keys(session: &mut Session<'_>) -> Verdict {
    const ODD: [&str; 13] =
        ["odd", "ODD", "odd ", " odd", "o/d", "o%2Fd", "o\\d", "o\"d", "o'd", "öd", "o\u{308}d", "漢字", "o😀d"];
    let version = session.version();
    let mut rows: Vec<Row> = ODD.iter().map(|name| session.maker.upsert(name, version)).collect();
    let entity = session.entity();
    let keys = entity.fields[..entity.key_len()].iter();
    // Empty text where the entity has it as a value of its own.
    let empty =
        keys.enumerate().find(|(place, field)| Some(*place) != told_by(entity) && field.default.as_deref() == Some(""));
    if let Some((place, _)) = empty {
        let mut row = session.maker.upsert(ODD[0], version);
        row.key[place] = Value::from("not empty");
        rows.push(row);
    }
    let many = rows.len() as u64;
    counted(session, &rows, [many, 0, 0, 0], ", keys that differ in little").await?;
    counted(session, &rows, [0, many, 0, 0], ", the same once more").await?;
    for row in &rows {
        holds(session, row, "keys that differ in little").await?;
    }
    Ok(())
}

async fn decimals(session: &mut Session<'_>) -> Verdict {
    const EXACT: [&str; 5] =
        ["0.123456789", "1234567890123456789.987654321", "-0.000000001", "9007199254740993", "0.100000000"];
    let Some(field) = decimal(session.entity()) else { return skip("the entity has no decimal with nine places") };
    let rows: Vec<Row> =
        (0..).zip(EXACT).map(|(n, text)| session.upsert(&format!("decimal {n}")).with(&field.name, text)).collect();
    session.apply(&rows).await?;
    for (row, text) in rows.iter().zip(EXACT) {
        if session.look(row).await?.is_none() {
            return skip("what the target holds cannot be seen without digests");
        }
        holds(session, row, &format!("{} {text}", field.name)).await?;
    }
    Ok(())
}
