//! The rows of one entity in a chunk, as they are to stand at the target: values computed column by column, the newest row of
//! each key there, and what is wrong with single rows.
//!
//! Rows are told apart by the key that they have there, not by ours: so whatever meets in one place goes through one lane, in
//! version order.

use std::collections::HashMap;

use arrow::array::{Array as _, AsArray, RecordBatch};
use arrow::datatypes::UInt8Type;
use syncline_schemas::delta::DELETE;
use syncline_schemas::entity::{Entity, Kind as EntityKind};
use syncline_schemas::ident::Version;
use xxhash_rust::xxh3::{Xxh3DefaultBuilder, xxh3_64};

use super::definition::{Decimals, Delete, Flow};
use super::expr::Column;
use crate::planning::json::{put_date, put_decimal, put_instant, put_text};
use crate::{DeltaSource, Reject, SinkError};

/// Our word for a row that would have no key there.
const NULL_KEY: &str = "null_key";

/// A row on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) version: Version,
    /// Its place in the batch.
    pub(super) at: usize,
    pub(super) deleted: bool,
    /// Its key there, JSON.
    pub(super) key: String,
    fault: Option<(&'static str, Option<usize>)>,
    /// Its key there cannot be told, so it is the only one of it.
    keyless: bool,
}

/// Rows dealt to lanes by their key there, in version order.
pub(super) struct Dealt {
    pub(super) lanes: Vec<Vec<Row>>,
    /// Rows left out because a newer one of their key is here, too.
    pub(super) coalesced: u64,
    /// Rows with which there is nothing to do: they are not to be there, and never were.
    pub(super) settled: u64,
}

/// The rows of one entity with their values there.
pub(super) struct Sheet<'a> {
    pub(super) entity: &'static Entity,
    pub(super) flow: &'a Flow,
    pub(super) batch: &'a RecordBatch,
    pub(super) decimals: Decimals,
    pub(super) columns: Vec<Column<'a>>,
    /// Where refused rows are told.
    pub(super) told: &'a dyn DeltaSource,
}

impl<'a> Sheet<'a> {
    /// Computes all values of a batch that has the shape of its entity.
    pub(super) fn compute(
        flow: &'a Flow,
        batch: &'a RecordBatch,
        decimals: Decimals,
        told: &'a dyn DeltaSource,
    ) -> Self {
        let columns = flow.members.iter().map(|member| member.expr.eval(batch)).collect();
        Self { entity: flow.entity, flow, batch, decimals, columns, told }
    }

    /// Deals the rows to lanes.
    ///
    /// # Errors
    /// [`SinkError::Refused`] where a field that is said to be the same in all rows is not.
    pub(super) fn deal(&self, lanes: usize, constants: &mut HashMap<String, String>) -> Result<Dealt, SinkError> {
        let ops = self.batch.column(0).as_primitive::<UInt8Type>().values();
        let versions = self.batch.column(1).as_fixed_size_binary();
        let own = self.flow.own.as_ref().map(|own| own.eval(self.batch));
        let keep = self.flow.keep.as_ref().map(|keep| keep.eval(self.batch));
        let mut dealt = Dealt { lanes: vec![Vec::new(); lanes], coalesced: 0, settled: 0 };
        for at in 0..self.batch.num_rows() {
            let (is_own, is_there) = (holds(own.as_ref(), at), holds(keep.as_ref(), at));
            if is_own == Ok(false) || (is_there == Ok(false) && self.flow.entity.kind == EntityKind::Event) {
                dealt.settled += 1;
                continue;
            }
            self.check_constants(at, constants)?;
            // Of a deleted row nothing but its key is there to be looked at.
            let is_gone = ops[at] == DELETE;
            let unknown = is_own.and(if is_gone { Ok(true) } else { is_there }).err();
            let deleted = is_gone || is_there == Ok(false);
            if deleted && self.flow.delete == Delete::Keep {
                dealt.settled += 1;
                continue;
            }
            let version = Version::from_bytes(versions.value(at).try_into().expect("join() saw 16 bytes"));
            let key = self.key(at);
            let lane = usize::try_from(xxh3_64(key.as_bytes()) % lanes as u64).expect("below the number of lanes");
            let key_fault = self.key_fault(at);
            let unknown = unknown.map(|code| (code, None));
            let fault = key_fault.or(unknown).or_else(|| self.fault(at, deleted));
            dealt.lanes[lane].push(Row { version, at, deleted, key, fault, keyless: key_fault.is_some() });
        }
        for lane in &mut dealt.lanes {
            lane.sort_by_key(|row| row.version);
            if self.entity.kind != EntityKind::Event {
                dealt.coalesced += coalesce(lane);
            }
        }
        Ok(dealt)
    }

    fn check_constants(&self, row: usize, constants: &mut HashMap<String, String>) -> Result<(), SinkError> {
        for at in &self.flow.constant {
            let texts = self.batch.column(*at).as_string::<i32>();
            if texts.is_null(row) {
                continue;
            }
            let name = format!("{}.{}", self.entity.name, self.batch.schema_ref().field(*at).name());
            match constants.get(&name) {
                Some(first) if first != texts.value(row) => {
                    return Err(SinkError::Refused {
                        target: format!("flow {}", self.entity.name),
                        reason: format!("{name} is constant in the profile and has several values"),
                        remedy: "take it into the key of the flow, or pin it with where".to_owned(),
                    });
                }
                Some(_) => {}
                None => drop(constants.insert(name, texts.value(row).to_owned())),
            }
        }
        Ok(())
    }

    /// What is wrong with the key of a row.
    fn key_fault(&self, at: usize) -> Option<(&'static str, Option<usize>)> {
        // A part of a key may be nothing on purpose, as of terms that hold anywhere.
        if self.flow.key.iter().all(|member| self.columns[*member].is_null(at)) {
            return Some((NULL_KEY, self.flow.key.first().copied()));
        }
        self.flow.key.iter().find_map(|member| Some((self.columns[*member].fault(at)?, Some(*member))))
    }

    /// What is wrong with the other values of a row; of a deleted one nothing but its key is used.
    fn fault(&self, at: usize, deleted: bool) -> Option<(&'static str, Option<usize>)> {
        let mut members = 0..if deleted { 0 } else { self.columns.len() };
        members.find_map(|member| Some((self.columns[member].fault(at)?, Some(member))))
    }

    /// Takes the faulty rows out of a lane and tells them; says how many.
    ///
    /// # Errors
    /// [`SinkError::Outbox`] where they cannot be written down.
    pub(super) fn refuse_faulty(&self, lane: &mut Vec<Row>) -> Result<u64, SinkError> {
        let rejects: Vec<Reject> = lane
            .iter()
            .filter_map(|row| row.fault.map(|(code, member)| self.reject(row, code, member, false)))
            .collect();
        lane.retain(|row| row.fault.is_none());
        let count = rejects.len() as u64;
        if count > 0 {
            self.told.refused(rejects)?;
        }
        Ok(count)
    }

    /// Tells a row as refused.
    pub(super) fn reject(&self, row: &Row, code: &str, member: Option<usize>, retryable: bool) -> Reject {
        Reject {
            entity: self.entity.name.clone(),
            row: self.batch.slice(row.at, 1),
            key: row.key.clone(),
            version: row.version.to_string(),
            code: code.to_owned(),
            field: member.map(|member| self.flow.members[member].name.clone()),
            retryable,
        }
    }

    /// The member of a name.
    pub(super) fn member(&self, name: &str) -> Option<usize> {
        self.flow.members.iter().position(|member| member.name == name)
    }

    fn key(&self, at: usize) -> String {
        let mut out = vec![b'{'];
        for (i, member) in self.flow.key.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.put_member(*member, at, &mut out);
        }
        out.push(b'}');
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    /// A row as a JSON object: all members, or of a deleted one its key and the fields that become zero.
    pub(super) fn json(&self, row: &Row) -> Vec<u8> {
        let mut out = vec![b'{'];
        for member in 0..self.columns.len() {
            let is_key = self.flow.key.contains(&member);
            let is_zero = row.deleted && matches!(&self.flow.delete, Delete::SetZero(zeros) if zeros.contains(&member));
            if row.deleted && !is_key && !is_zero {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            if is_zero {
                put_text(&self.flow.members[member].name, &mut out);
                let is_text = self.decimals == Decimals::Text && matches!(self.columns[member], Column::Decimal(..));
                out.extend_from_slice(if is_text { b":\"0\"" } else { b":0" });
            } else {
                self.put_member(member, row.at, &mut out);
            }
        }
        out.push(b'}');
        out
    }

    fn put_member(&self, member: usize, at: usize, out: &mut Vec<u8>) {
        put_text(&self.flow.members[member].name, out);
        out.push(b':');
        put_value(&self.columns[member], at, self.decimals, out);
    }
}

/// Whether a condition holds for a row; what is wrong where that cannot be told.
fn holds(condition: Option<&Column<'_>>, at: usize) -> Result<bool, &'static str> {
    match condition {
        None => Ok(true),
        Some(Column::Boolean(cells)) => cells[at].map(|cell| cell == Some(true)),
        Some(_) => Ok(false),
    }
}

/// Leaves the newest row of each key, and says how many went. Rows whose key cannot be told are all left: each is told.
fn coalesce(lane: &mut Vec<Row>) -> u64 {
    let before = lane.len();
    let mut newest: HashMap<&str, usize, Xxh3DefaultBuilder> =
        HashMap::with_capacity_and_hasher(before, Xxh3DefaultBuilder::new());
    for row in lane.iter().filter(|row| !row.keyless) {
        newest.insert(&row.key, row.at);
    }
    let kept: std::collections::HashSet<usize> = newest.into_values().collect();
    lane.retain(|row| row.keyless || kept.contains(&row.at));
    (before - lane.len()) as u64
}

/// Appends the JSON of a value; a fault stands as null and is told before anything is sent.
fn put_value(column: &Column<'_>, at: usize, decimals: Decimals, out: &mut Vec<u8>) {
    let put = |out: &mut Vec<u8>| -> Option<()> {
        match column {
            Column::Text(cells) => put_text(cells[at].as_ref().ok()?.as_deref()?, out),
            Column::Decimal(cells, scale) => {
                let before = out.len();
                put_decimal(cells[at].ok()??, usize::from(*scale), out);
                if decimals == Decimals::Number {
                    out.pop();
                    out.remove(before);
                }
            }
            Column::Integer(cells) => out.extend_from_slice(itoa::Buffer::new().format(cells[at].ok()??).as_bytes()),
            Column::Date(cells) => {
                let days = cells[at].ok()??;
                out.push(b'"');
                put_date(i64::from(days), out);
                out.push(b'"');
            }
            Column::Instant(cells) => put_instant(cells[at].ok()??, out),
            Column::Boolean(cells) => out.extend_from_slice(if cells[at].ok()?? { b"true" } else { b"false" }),
        }
        Some(())
    };
    if put(out).is_none() {
        out.extend_from_slice(b"null");
    }
}
