//! The shape of a mapping's SQL: one SELECT over one driving table and the tables joined to it, each item a scalar
//! expression named after a field.
//!
//! What does not fit is refused with the line and column where it stands, never read as something else. Which columns of
//! a table the statement can mean follows from its text and that table alone, so that rows can be kept before the other
//! tables are known.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, GroupByExpr, Ident, Join as SqlJoin, JoinConstraint, JoinOperator, ObjectName,
    ObjectNamePart, Query as SqlQuery, Select, SelectItem, SetExpr, Spanned, Statement, TableFactor, visit_expressions,
};
use datafusion_sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};

use syncline_schemas::ident::{SourceId, TableId};

use crate::error::{MappingFault, Place};

/// The number of a join is one byte in state.
const JOINS_MAX: usize = 64;

/// The parts of a mapping's statement.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) table: TableRef,
    /// What columns of the driving table may be qualified with.
    pub(crate) alias: String,
    pub(crate) joins: Vec<Join>,
    pub(crate) filter: Option<Expr>,
    pub(crate) outputs: Vec<Output>,
    /// Every column that the statement names: what it is qualified with, and its name.
    names: BTreeSet<(Option<String>, String)>,
}

/// A table as written: `name`, `schema.name`, `source.name` or `source.schema.name`.
#[derive(Debug, Clone)]
pub(crate) struct TableRef {
    parts: Vec<String>,
    at: Location,
}

impl TableRef {
    pub(crate) fn place(&self, file: &str) -> Place {
        place(file, self.at)
    }

    /// True where more than the table's own name is written.
    pub(crate) const fn is_qualified(&self) -> bool {
        self.parts.len() > 1
    }

    /// True where it may be a table of a source that is named, which may also be a schema.
    pub(crate) fn may_be_of(&self, source: &SourceId) -> bool {
        self.is_qualified() && self.parts.first().is_some_and(|part| part == source.as_str())
    }

    /// True where a table is meant; `own` is the source of the mapping.
    pub(crate) fn means(&self, own: &SourceId, source: &SourceId, table: &TableId) -> bool {
        let named = |part: &str, name: &str| part == name;
        match self.parts.as_slice() {
            // What a system says beside its tables is only meant by its whole name.
            [name] => own == source && named(name, &table.name) && !table.schema.starts_with("pg_"),
            [first, name] => {
                let qualifier = if own == source { &*table.schema } else { source.as_str() };
                named(first, qualifier) && named(name, &table.name)
            }
            [first, schema, name] => {
                named(first, source.as_str()) && named(schema, &table.schema) && named(name, &table.name)
            }
            _ => false,
        }
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("."))
    }
}

/// How a joined table takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    /// A driving row without a match contributes nothing.
    Inner,
    /// A driving row without a match sees nulls.
    Left,
}

/// A table joined to those before it.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) table: TableRef,
    pub(crate) alias: String,
    pub(crate) kind: JoinKind,
    /// Both sides of each equality, as written.
    pub(crate) on: Vec<(Expr, Expr)>,
}

/// One item of the SELECT.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) field: String,
    pub(crate) expr: Expr,
    pub(crate) at: Location,
}

pub(crate) fn place(file: &str, at: Location) -> Place {
    Place { file: file.to_owned(), line: at.line, column: at.column }
}

impl Query {
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, MappingFault> {
        let fault = |at: Span, reason: &str| MappingFault { place: place(file, at.start), reason: reason.to_owned() };
        let statements = Parser::parse_sql(&PostgreSqlDialect {}, text).map_err(|error| syntax_fault(file, &error))?;
        let [Statement::Query(query)] = statements.as_slice() else {
            return Err(fault(Span::empty(), "a mapping is exactly one SELECT statement"));
        };
        let select = plain_select(query).map_err(|(at, reason)| fault(at, reason))?;
        let (table, alias) = driving_table(select).map_err(|(at, reason)| fault(at, reason))?;
        let joins = joins(select, &alias).map_err(|(at, reason)| fault(at, reason))?;
        let outputs = select
            .projection
            .iter()
            .map(|item| output(item).map_err(|(at, reason)| fault(at, reason)))
            .collect::<Result<_, _>>()?;
        Ok(Self { table, alias, joins, filter: select.selection.clone(), outputs, names: names(select) })
    }

    /// True where the statement can mean a column of the table that it calls `alias`.
    pub(crate) fn reads(&self, alias: &str, column: &str) -> bool {
        let named = |qualifier: Option<&str>| self.names.contains(&(qualifier.map(str::to_owned), column.to_owned()));
        named(Some(alias)) || named(None)
    }
}

fn names(select: &Select) -> BTreeSet<(Option<String>, String)> {
    let mut names = BTreeSet::new();
    let _ = visit_expressions(select, |expr| {
        match expr {
            Expr::Identifier(ident) => _ = names.insert((None, normalize(ident))),
            Expr::CompoundIdentifier(idents) => {
                if let [.., qualifier, column] = idents.as_slice() {
                    names.insert((Some(normalize(qualifier)), normalize(column)));
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    names
}

type Refusal = (Span, &'static str);

fn plain_select(query: &SqlQuery) -> Result<&Select, Refusal> {
    let at = query.span();
    if query.with.is_some() {
        return Err((at, "WITH is not supported: a mapping is one SELECT over tables"));
    }
    if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return Err((at, "ORDER BY, LIMIT and FETCH have no meaning in a mapping"));
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Err((at, "UNION and the like are not supported: write one mapping file per SELECT"));
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    if grouped || select.having.is_some() {
        return Err((at, "GROUP BY is not needed: contributions of many rows to one key add up by themselves"));
    }
    if matches!(select.distinct, Some(Distinct::Distinct | Distinct::On(_))) {
        return Err((at, "DISTINCT is not supported: every driving row contributes on its own"));
    }
    Ok(select)
}

fn driving_table(select: &Select) -> Result<(TableRef, String), Refusal> {
    let [from] = select.from.as_slice() else {
        return Err((
            select.span(),
            "FROM names exactly one driving table; other tables are joined to it with JOIN ... ON",
        ));
    };
    named_table(&from.relation)
}

fn joins(select: &Select, driving: &str) -> Result<Vec<Join>, Refusal> {
    let joins: Vec<Join> = select.from.iter().flat_map(|from| &from.joins).map(join).collect::<Result<_, _>>()?;
    for (i, join) in joins.iter().enumerate() {
        if join.alias == driving || joins[..i].iter().any(|other| other.alias == join.alias) {
            let at = Span::new(join.table.at, join.table.at);
            return Err((at, "two tables have the same name here; give one of them another with AS"));
        }
    }
    if joins.len() > JOINS_MAX {
        return Err((select.span(), "a mapping joins at most 64 tables"));
    }
    Ok(joins)
}

fn join(join: &SqlJoin) -> Result<Join, Refusal> {
    let at = join.relation.span();
    let (kind, constraint) = match &join.join_operator {
        JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => (JoinKind::Inner, constraint),
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => (JoinKind::Left, constraint),
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_) => {
            return Err((
                at,
                "only JOIN and LEFT JOIN are supported: begin FROM with the table whose rows are to be counted",
            ));
        }
        _ => return Err((at, "only JOIN ... ON and LEFT JOIN ... ON are supported")),
    };
    let JoinConstraint::On(condition) = constraint else {
        return Err((at, "a join says its condition with ON, as in ON a.id = b.a_id"));
    };
    let (table, alias) = named_table(&join.relation)?;
    let mut on = Vec::new();
    equalities(condition, &mut on)?;
    Ok(Join { table, alias, kind, on })
}

/// Takes a condition apart into its equalities.
fn equalities(condition: &Expr, out: &mut Vec<(Expr, Expr)>) -> Result<(), Refusal> {
    match condition {
        Expr::Nested(inner) => equalities(inner, out),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            equalities(left, out)?;
            equalities(right, out)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            out.push(((**left).clone(), (**right).clone()));
            Ok(())
        }
        other => Err((other.span(), "ON takes equalities joined by AND; put any other condition into WHERE")),
    }
}

fn named_table(factor: &TableFactor) -> Result<(TableRef, String), Refusal> {
    let TableFactor::Table { name, alias, args: None, .. } = factor else {
        return Err((factor.span(), "FROM and JOIN name a table, not a subquery or a function"));
    };
    let table =
        table_ref(name).ok_or((name.span(), "a table is written as name, schema.name or source.schema.name"))?;
    let alias = match alias {
        Some(alias) => normalize(&alias.name),
        None => table.parts.last().cloned().unwrap_or_default(),
    };
    Ok((table, alias))
}

fn table_ref(name: &ObjectName) -> Option<TableRef> {
    let parts: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| if let ObjectNamePart::Identifier(ident) = part { Some(normalize(ident)) } else { None })
        .collect();
    let parts = parts.filter(|parts| (1..=3).contains(&parts.len()))?;
    Some(TableRef { parts, at: name.span().start })
}

fn output(item: &SelectItem) -> Result<Output, Refusal> {
    let (field, expr, at) = match item {
        SelectItem::ExprWithAlias { expr, alias } => (normalize(alias), expr, alias.span),
        SelectItem::UnnamedExpr(expr) => {
            let named = match expr {
                Expr::Identifier(ident) => Some(ident),
                Expr::CompoundIdentifier(idents) => idents.last(),
                _ => None,
            };
            let ident = named.ok_or((expr.span(), "an expression needs AS and the name of a field"))?;
            (normalize(ident), expr, ident.span)
        }
        SelectItem::ExprWithAliases { .. } | SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => {
            return Err((item.span(), "each field is written out: expression AS field"));
        }
    };
    Ok(Output { field, expr: expr.clone(), at: at.start })
}

/// Unquoted names fold to lower case, as in PostgreSQL.
fn normalize(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The parser says its place only in prose: `... at Line: 3, Column: 7`.
fn syntax_fault(file: &str, error: &ParserError) -> MappingFault {
    let (ParserError::TokenizerError(text) | ParserError::ParserError(text)) = error else {
        return MappingFault { place: place(file, Location::empty()), reason: "nested too deeply".to_owned() };
    };
    let (reason, at) = text.rsplit_once(" at Line: ").map_or((text.as_str(), None), |(reason, at)| {
        let (line, column) = at.split_once(", Column: ").unwrap_or((at, ""));
        (reason, line.parse().ok().zip(column.parse().ok()))
    });
    let (line, column) = at.unwrap_or((0, 0));
    MappingFault { place: Place { file: file.to_owned(), line, column }, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Query::parse("m/erp/item.sql", text).expect_err("must be refused").to_string()
    }

    #[test]
    fn what_a_mapping_cannot_be_is_refused_with_its_place() {
        assert!(refusal("SELECT a FROM t\nRIGHT JOIN u ON u.x = t.x").starts_with("m/erp/item.sql:2:12: only JOIN"));
        assert!(refusal("SELECT a FROM t JOIN u ON u.x > t.x").contains("put any other condition into WHERE"));
        assert!(refusal("SELECT a FROM t JOIN u USING (x)").contains("says its condition with ON"));
        assert!(refusal("SELECT a FROM t JOIN t ON t.x = t.y").contains("give one of them another with AS"));
        assert!(refusal("SELECT a FROM t, u").contains("exactly one driving table"));
        assert!(refusal("SELECT a FROM t JOIN (SELECT 1) u ON u.x = t.x").contains("not a subquery"));
        assert!(refusal("SELECT a FROM t GROUP BY a").contains("contributions"));
        assert!(refusal("SELECT * FROM t").contains("written out"));
        assert!(refusal("SELECT a + 1 FROM t").starts_with("m/erp/item.sql:1:8: an expression needs AS"));
        assert!(refusal("SELECT a FROM t; SELECT b FROM t").contains("exactly one"));
        assert!(refusal("SELECT a,\n FROM FROM").starts_with("m/erp/item.sql:2:"));
        assert!(refusal("UPDATE t SET a = 1").contains("exactly one SELECT"));
    }

    #[test]
    fn names_fold_like_the_source_folds_them() {
        let query = Query::parse("f", "SELECT Q.Left_Qty AS on_hand, \"Left\" FROM Public.Stk q").expect("fits");
        assert_eq!(query.table.to_string(), "public.stk");
        assert_eq!(query.outputs[1].field, "Left");
        assert_eq!(query.alias, "q");
        assert!(query.reads("q", "left_qty") && query.reads("anything", "Left") && !query.reads("r", "left_qty"));
    }

    #[test]
    fn a_table_of_another_source_is_named_with_its_source() {
        let text = "SELECT a.x FROM a JOIN seeds.uom ON uom.c = a.c AND (uom.d = 'x') LEFT JOIN wms.dbo.u ON u.i = a.i";
        let query = Query::parse("f", text).expect("fits");
        let (erp, seeds, wms) = (SourceId::new("erp"), SourceId::new("seeds"), SourceId::new("wms"));
        let [uom, unit] = query.joins.as_slice() else { panic!("two joins") };
        assert!(uom.table.means(&erp, &seeds, &TableId::new("seeds", "uom")));
        assert!(uom.table.means(&erp, &erp, &TableId::new("seeds", "uom")), "a schema of one's own source");
        assert!(!uom.table.means(&erp, &wms, &TableId::new("seeds", "uom")));
        assert!(unit.table.means(&erp, &wms, &TableId::new("dbo", "u")));
        assert!(query.table.means(&erp, &erp, &TableId::new("any", "a")));
        assert!(!query.table.means(&erp, &wms, &TableId::new("any", "a")));
        assert_eq!((uom.on.len(), uom.kind, unit.kind), (2, JoinKind::Inner, JoinKind::Left));
    }
}
