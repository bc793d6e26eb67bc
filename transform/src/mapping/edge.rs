//! A join of a compiled mapping: how the key of the joined row follows from the columns so far, and what the row adds.
//!
//! The joined side of each equality is a plain column, the other side any expression over the tables before it. Together
//! those columns must tell the joined table's rows apart; where they are not its key, that is checked row by row at
//! run time. Keys are compared as bytes, so both sides have one type: the only conversions are those that lose nothing.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::sqlparser::ast::{Expr, Spanned};
use datafusion_sql::sqlparser::tokenizer::Location;
use syncline_schemas::table::{Column, TableSchema};

use super::Mapping;
use super::compile::{Inputs, plain};
use super::expression::{Bound, Refused, Scope};
use super::sql::{Join, JoinKind};

/// A join at work.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) kind: JoinKind,
    /// What the joined row must hold, in the order of `on`.
    pub(crate) wanted: Vec<Arc<dyn PhysicalExpr>>,
    /// The joined table's columns that are compared.
    pub(crate) on: Vec<JoinColumn>,
    /// True where they are the joined table's key, in key order.
    pub(crate) by_key: bool,
    /// The columns that a matching row adds, by name and type.
    pub(crate) adds: SchemaRef,
}

/// A compared column of a joined table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinColumn {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
}

type Fault = (Refused, Location);

/// Binds a join over the columns so far; gives the columns after it too.
pub(crate) fn bind(mapping: &Mapping, join: &Join, table: &TableSchema, scope: &Scope) -> Result<(Edge, Scope), Fault> {
    let at = |expr: &Expr| expr.span().start;
    let adds = Inputs::new(mapping, &join.alias, table).schema;
    let own = Scope::new(&join.alias, &adds, &plain(table)).map_err(|refused| (refused, Location::empty()))?;
    let mut pairs: Vec<(&Column, Arc<dyn PhysicalExpr>)> = Vec::new();
    for (left, right) in &join.on {
        let sides = [(right, left), (left, right)];
        let matching = sides.iter().find_map(|(own_side, other)| {
            let column = plain_column(own_side, &own, scope)?;
            Some((table.columns.iter().find(|known| known.name == column)?, other))
        });
        let Some((column, other)) = matching else {
            let reason = format!("one side of ON is a column of {} alone, as in {}.id", join.alias, join.alias);
            return Err((Refused { reason, at: None }, at(left)));
        };
        if pairs.iter().any(|(known, ..)| known.name == column.name) {
            let reason = format!("{}.{} is compared twice", join.alias, column.name);
            return Err((Refused { reason, at: None }, at(left)));
        }
        let Bound { expr, data_type } = scope.bind((*other).clone()).map_err(|refused| (refused, at(other)))?;
        comparable(&data_type, &column.data_type).map_err(|reason| {
            (Refused { reason: format!("{}.{}: {reason}", join.alias, column.name), at: None }, at(other))
        })?;
        pairs.push((column, expr));
    }
    let keys: Vec<&str> = table.key_indexes().iter().map(|&i| table.columns[i].name.as_str()).collect();
    let place = |name: &str| keys.iter().position(|key| *key == name);
    let by_key = pairs.len() == keys.len() && pairs.iter().all(|(column, ..)| place(&column.name).is_some());
    if by_key {
        pairs.sort_by_key(|(column, ..)| place(&column.name));
    } else {
        // One index serves every join on the same columns.
        pairs.sort_by(|(left, ..), (right, ..)| left.name.cmp(&right.name));
    }
    let on = pairs
        .iter()
        .map(|(column, ..)| JoinColumn { name: column.name.clone(), data_type: column.data_type.clone() })
        .collect();
    let wider = scope.join(&own).map_err(|refused| (refused, Location::empty()))?;
    let wanted = pairs.into_iter().map(|(_, wanted)| wanted).collect();
    Ok((Edge { kind: join.kind, wanted, on, by_key, adds }, wider))
}

/// The name of the joined table's column that an expression is; none where it is anything else.
fn plain_column(expr: &Expr, own: &Scope, before: &Scope) -> Option<String> {
    let name = match expr {
        Expr::Nested(inner) => return plain_column(inner, own, before),
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => own.column(expr)?,
        _ => return None,
    };
    // An unqualified name that tables before it have too is not taken for this one's.
    let elsewhere = matches!(expr, Expr::Identifier(_)) && before.covers(expr);
    (!elsewhere).then_some(name)
}

/// Whether a value of one type can be looked up among values of another without losing anything.
fn comparable(given: &DataType, wanted: &DataType) -> Result<(), String> {
    let text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let fits = match (given, wanted) {
        (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from <= to,
        (given, DataType::Decimal128(_, to)) if given.is_integer() => *to >= 0,
        (DataType::Float32 | DataType::Float64, _) => false,
        (given, wanted) if given == wanted => true,
        (given, wanted) => text(given) && text(wanted) || given.is_integer() && wanted.is_integer(),
    };
    let remedy = if text(wanted) { "; write CAST(... AS VARCHAR)" } else { "" };
    if fits { Ok(()) } else { Err(format!("a {given} cannot be looked up among {wanted} values{remedy}")) }
}
