//! A checked expression over a batch: whole columns at a time, borrowed from the batch where nothing is computed.
//!
//! A cell is a value, nothing, or the word for what is wrong with it. A fault counts only where its value is used: not behind
//! the branch of an `if` that is not taken, nor behind the first value of a `coalesce`.

use std::borrow::Cow;
use std::fmt::Write as _;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate, TimeDelta};

use super::decimal::{self, Rounding};
use super::fault::OUT_OF_RANGE;
use super::{Comparison, Expr, Kind};

/// The values of a column, row by row.
pub(in super::super) type Cells<T> = Vec<Result<Option<T>, &'static str>>;

/// A computed column.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Column<'b> {
    Text(Cells<Cow<'b, str>>),
    Decimal(Cells<i128>, u8),
    Integer(Cells<i64>),
    Date(Cells<i32>),
    Instant(Cells<i64>),
    Boolean(Cells<bool>),
}

impl Column<'_> {
    /// What is wrong with a row's value.
    pub(in super::super) fn fault(&self, row: usize) -> Option<&'static str> {
        self.look(row).err()
    }

    /// True where a row has no value.
    pub(in super::super) fn is_null(&self, row: usize) -> bool {
        self.look(row) == Ok(false)
    }

    fn look(&self, row: usize) -> Result<bool, &'static str> {
        match self {
            Self::Text(cells) => cells[row].as_ref().map(Option::is_some).map_err(|fault| *fault),
            Self::Decimal(cells, _) => cells[row].map(|cell| cell.is_some()),
            Self::Integer(cells) | Self::Instant(cells) => cells[row].map(|cell| cell.is_some()),
            Self::Date(cells) => cells[row].map(|cell| cell.is_some()),
            Self::Boolean(cells) => cells[row].map(|cell| cell.is_some()),
        }
    }

    /// The value of a row as text, as `concat` and files have it; nothing for null and for a faulty one.
    pub(in super::super) fn text(&self, row: usize) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Text(cells) => Cow::Borrowed(cells[row].as_ref().ok()?.as_deref()?),
            Self::Decimal(cells, scale) => decimal::text(cells[row].ok()??, *scale).into(),
            Self::Integer(cells) => cells[row].ok()??.to_string().into(),
            Self::Date(cells) => day(cells[row].ok()??)?.format("%Y-%m-%d").to_string().into(),
            Self::Instant(cells) => {
                DateTime::from_timestamp_micros(cells[row].ok()??)?.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
            }
            Self::Boolean(cells) => if cells[row].ok()?? { "true" } else { "false" }.into(),
        })
    }
}

impl Expr {
    /// Computes the column of a batch.
    pub(in super::super) fn eval<'b>(&'b self, batch: &'b RecordBatch) -> Column<'b> {
        let rows = batch.num_rows();
        match self {
            Self::Column { at, kind } => column(batch, *at, *kind),
            Self::Text(text) => Column::Text(vec![Ok(Some(Cow::Borrowed(text.as_str()))); rows]),
            Self::Decimal { digits, scale } => Column::Decimal(vec![Ok(Some(*digits)); rows], *scale),
            Self::Integer(integer) => Column::Integer(vec![Ok(Some(*integer)); rows]),
            Self::Truth(truth) => Column::Boolean(vec![Ok(Some(*truth)); rows]),
            Self::Null(kind) => nulls(*kind, rows),
            Self::Coalesce(parts) => coalesce(parts, batch),
            Self::Concat(parts) => concat(parts, batch),
            Self::Map { table, of, missing } => Column::Text(mapped(&of.eval(batch), |text| {
                let found = table.entries.get(text).or(table.otherwise.as_ref());
                found.map(|found| Cow::Borrowed(found.as_str())).ok_or(*missing)
            })),
            Self::Widen { of, scale } => rescaled(of.eval(batch), *scale, Rounding::Exact),
            Self::Round { of, scale, rounding } => rescaled(of.eval(batch), *scale, *rounding),
            Self::Format { of, format, zone } => formatted(&of.eval(batch), format, *zone),
            Self::If { when, then, otherwise } => {
                let (when, mut otherwise) = (truths(when, batch), otherwise.eval(batch));
                choose(&when, then.eval(batch), &mut otherwise)
            }
            Self::Compare { how, left, right } => {
                let (left, right) = (left.eval(batch), right.eval(batch));
                let compared = |order: Option<std::cmp::Ordering>| order.map(|order| how.holds(order));
                Column::Boolean((0..rows).map(|row| compare(&left, &right, row).map(compared)).collect())
            }
            Self::And(left, right) => Column::Boolean(join(left, right, batch, false)),
            Self::Or(left, right) => Column::Boolean(join(left, right, batch, true)),
            Self::Not(of) => {
                Column::Boolean(truths(of, batch).into_iter().map(|cell| cell.map(|it| it.map(|it| !it))).collect())
            }
            Self::IsNull(of) => {
                let of = of.eval(batch);
                Column::Boolean((0..rows).map(|row| of.look(row).map(|is_some| Some(!is_some))).collect())
            }
        }
    }

    /// The conditions that it joins with `and`, or itself.
    pub(in super::super) fn conjuncts(self) -> Vec<Self> {
        match self {
            Self::And(left, right) => [left.conjuncts(), right.conjuncts()].concat(),
            other => vec![other],
        }
    }

    /// The column that has one value wherever it holds, as of `column = 'text'`.
    pub(in super::super) fn pins(&self) -> Option<usize> {
        let Self::Compare { how: Comparison::Equal, left, right } = self else { return None };
        match (&**left, &**right) {
            (Self::Column { at, .. }, value) | (value, Self::Column { at, .. }) if !value.names(&|_| true) => Some(*at),
            _ => None,
        }
    }

    /// True where the expression names a column for which something holds.
    pub(in super::super) fn names(&self, holds: &dyn Fn(usize) -> bool) -> bool {
        match self {
            Self::Column { at, .. } => holds(*at),
            Self::Text(_) | Self::Decimal { .. } | Self::Integer(_) | Self::Truth(_) | Self::Null(_) => false,
            Self::Coalesce(parts) | Self::Concat(parts) => parts.iter().any(|part| part.names(holds)),
            Self::Map { of, .. } | Self::Widen { of, .. } | Self::Round { of, .. } | Self::Format { of, .. } => {
                of.names(holds)
            }
            Self::Not(of) | Self::IsNull(of) => of.names(holds),
            Self::If { when, then, otherwise } => [when, then, otherwise].iter().any(|part| part.names(holds)),
            Self::Compare { left, right, .. } | Self::And(left, right) | Self::Or(left, right) => {
                left.names(holds) || right.names(holds)
            }
        }
    }
}

fn cells<T>(array: &dyn Array, value: impl Fn(usize) -> T) -> Cells<T> {
    (0..array.len()).map(|row| Ok((!array.is_null(row)).then(|| value(row)))).collect()
}

/// The accessor of a column, whose type the shape check of the batch has made sure of.
fn column(batch: &RecordBatch, at: usize, kind: Kind) -> Column<'_> {
    let array = batch.column(at);
    match kind {
        Kind::Text | Kind::Null => {
            let texts = array.as_string::<i32>();
            Column::Text(cells(texts, |row| Cow::Borrowed(texts.value(row))))
        }
        Kind::Decimal(scale) => {
            let values = array.as_primitive::<Decimal128Type>();
            Column::Decimal(cells(values, |row| values.value(row)), scale)
        }
        Kind::Integer => {
            let values = array.as_primitive::<Int32Type>();
            Column::Integer(cells(values, |row| i64::from(values.value(row))))
        }
        Kind::Date => {
            let values = array.as_primitive::<Date32Type>();
            Column::Date(cells(values, |row| values.value(row)))
        }
        Kind::Instant => {
            let values = array.as_primitive::<TimestampMicrosecondType>();
            Column::Instant(cells(values, |row| values.value(row)))
        }
        Kind::Boolean => {
            let values = array.as_boolean();
            Column::Boolean(cells(values, |row| values.value(row)))
        }
    }
}

fn nulls(kind: Kind, rows: usize) -> Column<'static> {
    match kind {
        Kind::Text | Kind::Null => Column::Text(vec![Ok(None); rows]),
        Kind::Decimal(scale) => Column::Decimal(vec![Ok(None); rows], scale),
        Kind::Integer => Column::Integer(vec![Ok(None); rows]),
        Kind::Date => Column::Date(vec![Ok(None); rows]),
        Kind::Instant => Column::Instant(vec![Ok(None); rows]),
        Kind::Boolean => Column::Boolean(vec![Ok(None); rows]),
    }
}

fn coalesce<'b>(parts: &'b [Expr], batch: &'b RecordBatch) -> Column<'b> {
    let mut columns = parts.iter().map(|part| part.eval(batch));
    let first = columns.next().expect("an expression of at least one part");
    columns.fold(first, |first, mut next| {
        let here: Cells<bool> = (0..batch.num_rows()).map(|row| Ok(Some(!first.is_null(row)))).collect();
        choose(&here, first, &mut next)
    })
}

/// Nothing where any part is nothing: half a key would be the key of something else.
fn concat<'b>(parts: &'b [Expr], batch: &'b RecordBatch) -> Column<'b> {
    let columns: Vec<Column<'b>> = parts.iter().map(|part| part.eval(batch)).collect();
    let row = |row| {
        let mut joined = String::new();
        for column in &columns {
            if !column.look(row)? {
                return Ok(None);
            }
            joined.push_str(&column.text(row).ok_or(OUT_OF_RANGE)?);
        }
        Ok(Some(Cow::Owned(joined)))
    };
    Column::Text((0..batch.num_rows()).map(row).collect())
}

fn mapped<'t>(of: &Column<'_>, look_up: impl Fn(&str) -> Result<Cow<'t, str>, &'static str>) -> Cells<Cow<'t, str>> {
    match of {
        Column::Text(cells) => cells
            .iter()
            .map(|cell| match cell {
                Ok(Some(text)) => look_up(text).map(Some),
                Ok(None) => Ok(None),
                Err(fault) => Err(*fault),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn rescaled(of: Column<'_>, to: u8, rounding: Rounding) -> Column<'_> {
    let to_scale = |digits, from| decimal::rescale(digits, from, to, rounding).map(Some);
    match of {
        Column::Decimal(cells, from) => {
            let rescaled = cells.into_iter().map(|cell| cell?.map_or(Ok(None), |digits| to_scale(digits, from)));
            Column::Decimal(rescaled.collect(), to)
        }
        Column::Integer(cells) => {
            let rescaled = cells.into_iter().map(|cell| cell?.map_or(Ok(None), |value| to_scale(i128::from(value), 0)));
            Column::Decimal(rescaled.collect(), to)
        }
        other => other,
    }
}

fn day(days: i32) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(TimeDelta::try_days(i64::from(days))?)
}

fn formatted<'t>(of: &Column<'_>, format: &str, zone: chrono_tz::Tz) -> Column<'t> {
    let told = |value: Option<String>| value.map(|text| Some(Cow::Owned(text))).ok_or(OUT_OF_RANGE);
    let written = |shown: &dyn std::fmt::Display| {
        let mut text = String::new();
        write!(text, "{shown}").ok().map(|()| text)
    };
    let cells: Cells<Cow<'t, str>> = match of {
        Column::Date(cells) => {
            let one = |days: i32| told(day(days).and_then(|day| written(&day.format(format))));
            cells.iter().map(|cell| (*cell)?.map_or(Ok(None), one)).collect()
        }
        Column::Instant(cells) => {
            let one = |micros: i64| {
                let at = DateTime::from_timestamp_micros(micros);
                told(at.and_then(|at| written(&at.with_timezone(&zone).format(format))))
            };
            cells.iter().map(|cell| (*cell)?.map_or(Ok(None), one)).collect()
        }
        _ => Vec::new(),
    };
    Column::Text(cells)
}

fn truths(expr: &Expr, batch: &RecordBatch) -> Cells<bool> {
    match expr.eval(batch) {
        Column::Boolean(cells) => cells,
        _ => Vec::new(),
    }
}

/// The value of `then` where the condition is true, and otherwise the other.
fn choose<'b>(when: &Cells<bool>, then: Column<'b>, otherwise: &mut Column<'b>) -> Column<'b> {
    macro_rules! pick {
        ($then:expr, $kind:pat => $other:expr) => {
            $then
                .into_iter()
                .enumerate()
                .map(|(row, then)| match when[row]? {
                    Some(true) => then,
                    _ => match otherwise {
                        $kind => $other[row].clone(),
                        _ => Ok(None),
                    },
                })
                .collect()
        };
    }
    match then {
        Column::Text(then) => Column::Text(pick!(then, Column::Text(other) => other)),
        Column::Decimal(then, scale) => Column::Decimal(pick!(then, Column::Decimal(other, _) => other), scale),
        Column::Integer(then) => Column::Integer(pick!(then, Column::Integer(other) => other)),
        Column::Date(then) => Column::Date(pick!(then, Column::Date(other) => other)),
        Column::Instant(then) => Column::Instant(pick!(then, Column::Instant(other) => other)),
        Column::Boolean(then) => Column::Boolean(pick!(then, Column::Boolean(other) => other)),
    }
}

fn compare(left: &Column<'_>, right: &Column<'_>, row: usize) -> Result<Option<std::cmp::Ordering>, &'static str> {
    fn both<T: Ord>(
        left: &Result<Option<T>, &'static str>,
        right: &Result<Option<T>, &'static str>,
    ) -> Result<Option<std::cmp::Ordering>, &'static str> {
        match (left, right) {
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
            (Ok(left), Ok(right)) => Ok(left.as_ref().zip(right.as_ref()).map(|(left, right)| left.cmp(right))),
        }
    }
    match (left, right) {
        (Column::Text(left), Column::Text(right)) => both(&left[row], &right[row]),
        (Column::Decimal(left, _), Column::Decimal(right, _)) => both(&left[row], &right[row]),
        (Column::Integer(left), Column::Integer(right)) | (Column::Instant(left), Column::Instant(right)) => {
            both(&left[row], &right[row])
        }
        (Column::Date(left), Column::Date(right)) => both(&left[row], &right[row]),
        (Column::Boolean(left), Column::Boolean(right)) => both(&left[row], &right[row]),
        _ => Ok(None),
    }
}

/// `and` and `or` of SQL: what decides outranks what is not known, and what is faulty.
fn join(left: &Expr, right: &Expr, batch: &RecordBatch, decides: bool) -> Cells<bool> {
    let both = truths(left, batch).into_iter().zip(truths(right, batch));
    both.map(|(left, right)| match (left, right) {
        (Ok(Some(side)), _) | (_, Ok(Some(side))) if side == decides => Ok(Some(decides)),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
        (Ok(Some(_)), Ok(Some(_))) => Ok(Some(!decides)),
        _ => Ok(None),
    })
    .collect()
}
