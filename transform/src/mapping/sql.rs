//! The shape of a mapping's SQL: one SELECT over one table, each item a scalar expression named after a field.
//!
//! What does not fit is refused with the line and column where it stands, never read as something else.

use datafusion_sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query as SqlQuery, Select, SelectItem, SetExpr,
    Spanned, Statement, TableFactor,
};
use datafusion_sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};

use crate::error::{MappingFault, Place};

/// The parts of a mapping's statement.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) table: TableRef,
    /// What columns may be qualified with.
    pub(crate) alias: String,
    pub(crate) filter: Option<Expr>,
    pub(crate) outputs: Vec<Output>,
}

/// The driving table as written.
#[derive(Debug, Clone)]
pub(crate) struct TableRef {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    at: Location,
}

impl TableRef {
    pub(crate) fn place(&self, file: &str) -> Place {
        place(file, self.at)
    }
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
        let outputs = select
            .projection
            .iter()
            .map(|item| output(item).map_err(|(at, reason)| fault(at, reason)))
            .collect::<Result<_, _>>()?;
        Ok(Self { table, alias, filter: select.selection.clone(), outputs })
    }
}

type Refusal = (Span, &'static str);

fn plain_select(query: &SqlQuery) -> Result<&Select, Refusal> {
    let at = query.span();
    if query.with.is_some() {
        return Err((at, "WITH is not supported: a mapping is one SELECT over one table"));
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
    let at = select.span();
    let [from] = select.from.as_slice() else {
        return Err((at, "FROM names exactly one table"));
    };
    if let Some(join) = from.joins.first() {
        return Err((join.relation.span(), "joins are not supported yet: a mapping reads one table"));
    }
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else {
        return Err((from.relation.span(), "FROM names a table, not a subquery or a function"));
    };
    let table = table_ref(name).ok_or((name.span(), "a table is written as name or schema.name"))?;
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |alias| normalize(&alias.name));
    Ok((table, alias))
}

fn table_ref(name: &ObjectName) -> Option<TableRef> {
    let idents: Option<Vec<&Ident>> = name
        .0
        .iter()
        .map(|part| if let ObjectNamePart::Identifier(ident) = part { Some(ident) } else { None })
        .collect();
    let at = name.span().start;
    match idents?.as_slice() {
        [table] => Some(TableRef { schema: None, name: normalize(table), at }),
        [schema, table] => Some(TableRef { schema: Some(normalize(schema)), name: normalize(table), at }),
        _ => None,
    }
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
        assert!(refusal("SELECT a FROM t\nJOIN u ON u.x = t.x").starts_with("m/erp/item.sql:2:6: joins"));
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
        assert_eq!((query.table.schema.as_deref(), query.table.name.as_str()), (Some("public"), "stk"));
        assert_eq!(query.outputs[1].field, "Left");
        assert_eq!(query.alias, "q");
    }
}
