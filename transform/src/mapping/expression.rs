//! DataFusion as our scalar expression engine: SQL text to a physical expression over Arrow batches.
//!
//! Only its sub-crates are used: no catalogue, no execution, no query planner. [Functions of ours](crate::functions) stand
//! beside its own. Number literals are decimals, because no binary float may enter a quantity. Functions that give another
//! result at another time are refused: the same log must give the same outbox.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, TableReference, plan_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::Expr as SqlExpr;
use datafusion_sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Location;

/// Why an expression was refused, with its place where DataFusion knows it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) at: Option<Location>,
}

impl From<DataFusionError> for Refused {
    fn from(error: DataFusionError) -> Self {
        let at = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| Location { line: span.start.line, column: span.start.column });
        let reason = error.strip_backtrace();
        // Prefixes such as "Schema error: " say which part of DataFusion speaks; the operator does not care.
        let reason = reason.strip_prefix("Error during planning: ").unwrap_or(&reason);
        let reason = reason.split_once("rror: ").map_or(reason, |(_, rest)| rest).to_owned();
        Self { reason, at }
    }
}

/// A resolved expression before it is bound to the columns it needs.
#[derive(Debug, Clone)]
pub(crate) struct Resolved(Expr);

impl Resolved {
    /// Resolves names and types of `sql` over the columns of `schema`.
    pub(crate) fn new(sql: SqlExpr, schema: &DFSchema) -> Result<Self, Refused> {
        let planner = SqlToRel::new_with_options(&*CONTEXT, CONTEXT.parser_options());
        let expr = planner.sql_to_expr(sql, schema, &mut PlannerContext::new())?;
        refuse_changing_functions(&expr)?;
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(&CONTEXT.options))
            .build();
        let simplifier = ExprSimplifier::new(context);
        Ok(Self(simplifier.simplify(simplifier.coerce(expr, schema)?)?))
    }

    /// Reads and resolves the text of an expression over plain columns.
    pub(crate) fn from_text(text: &str, schema: &DFSchema) -> Result<Self, Refused> {
        let refused =
            |error: datafusion_sql::sqlparser::parser::ParserError| Refused { reason: error.to_string(), at: None };
        let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).map_err(refused)?;
        Self::new(parser.parse_expr().map_err(refused)?, schema)
    }

    fn column(&self) -> Option<String> {
        if let Expr::Column(column) = &self.0 { Some(column.name.clone()) } else { None }
    }

    /// Binds it to a batch of just the columns of `schema`.
    pub(crate) fn bind(&self, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Refused> {
        Ok(create_physical_expr(&self.0, schema, &ExecutionProps::new(), &Default::default())?)
    }
}

/// The columns that an expression may name.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// Those that some expression of the mapping names: what batches hold.
    read: DFSchema,
    /// All columns of the tables, so that a fault can say which there are.
    all: DFSchema,
}

impl Scope {
    /// The columns of a table under the name by which a mapping calls it.
    pub(crate) fn new(alias: &str, read: &Schema, all: &Schema) -> Result<Self, Refused> {
        let qualified = |schema| DFSchema::try_from_qualified_schema(TableReference::bare(alias), schema);
        Ok(Self { read: qualified(read)?, all: qualified(all)? })
    }

    /// With the columns of a further table.
    pub(crate) fn join(&self, other: &Self) -> Result<Self, Refused> {
        Ok(Self { read: self.read.join(&other.read)?, all: self.all.join(&other.all)? })
    }

    /// Resolves an expression and binds it to batches.
    pub(crate) fn bind(&self, sql: SqlExpr) -> Result<Bound, Refused> {
        let bound = Resolved::new(sql.clone(), &self.read).and_then(|resolved| resolved.bind(&self.read));
        let expr = bound.map_err(|refused| Resolved::new(sql, &self.all).err().unwrap_or(refused))?;
        let data_type = expr.data_type(self.read.as_arrow())?;
        Ok(Bound { expr, data_type })
    }

    /// The column that an expression is, if it is nothing but one.
    pub(crate) fn column(&self, sql: &SqlExpr) -> Option<String> {
        Resolved::new(sql.clone(), &self.read).ok()?.column()
    }

    /// True where an expression needs nothing else.
    pub(crate) fn covers(&self, sql: &SqlExpr) -> bool {
        Resolved::new(sql.clone(), &self.read).is_ok()
    }
}

/// An expression ready to run, and what it gives.
pub(crate) struct Bound {
    pub(crate) expr: Arc<dyn PhysicalExpr>,
    pub(crate) data_type: DataType,
}

fn refuse_changing_functions(expr: &Expr) -> Result<(), Refused> {
    let mut changing = None;
    expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && call.func.signature().volatility != Volatility::Immutable
        {
            changing = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let Some(name) = changing else { return Ok(()) };
    let reason = format!("{name}() gives another result at another time; a mapping may only use what the row holds");
    Err(Refused { reason, at: None })
}

static CONTEXT: LazyLock<Context> = LazyLock::new(Context::new);

/// What DataFusion's planner asks for; we have functions and nothing else.
struct Context {
    options: Arc<ConfigOptions>,
    functions: HashMap<String, Arc<ScalarUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

impl Context {
    fn new() -> Self {
        let mut options = ConfigOptions::default();
        options.sql_parser.parse_float_as_decimal = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.collect_spans = true;
        let mut functions = HashMap::new();
        for function in datafusion_functions::all_default_functions() {
            for alias in function.aliases() {
                functions.insert(alias.clone(), Arc::clone(&function));
            }
            functions.insert(function.name().to_owned(), function);
        }
        for function in crate::functions::all() {
            functions.insert(function.name().to_owned(), Arc::new(function));
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(CoreFunctionPlanner::default()),
            Arc::new(DatetimeFunctionPlanner),
            Arc::new(UnicodeFunctionPlanner),
        ];
        Self { options: Arc::new(options), functions, planners }
    }

    fn parser_options(&self) -> ParserOptions {
        ParserOptions::from(&self.options.sql_parser)
    }
}

impl ContextProvider for Context {
    fn get_table_source(&self, name: TableReference) -> datafusion_common::Result<Arc<dyn TableSource>> {
        plan_err!("a subquery over {name} is not supported in a mapping")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn get_variable_field(&self, _names: &[String]) -> Option<FieldRef> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
