//! `syncline query`: a question in SQL to a lake, answered from its files.
//!
//! ```text
//! item, current.item              the rows of the last flush; with --at as of a time, or those of a snapshot
//! history.item                    every version
//! snapshots."cycle-31".item       what a snapshot kept
//! operations.lag                  what the daemon met, as of its last look
//! ```
//!
//! No daemon is needed, and nothing is changed: all tables are read in the versions of one cut, and only what is a question
//! is taken. Numbers with a point are decimals, never floats.

mod output;
mod scan;
mod tables;

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;
use syncline_sinks::lake::{LakeConfig, View};

use self::output::Format;
use self::tables::{LAKE, Moment};
use super::CommandError;
use crate::cli::QueryArgs;
use crate::config::{Config, SinkKind};

/// What sorts and joins may hold in memory, 1 GiB; beyond it they go to temporary files.
const MEMORY: usize = 1 << 30;

/// Asks, and prints the answer or writes it into a file.
pub(crate) async fn run(path: &Path, args: &QueryArgs) -> Result<(), CommandError> {
    let format = Format::wanted(args.format, args.output.as_deref())?;
    let sql = match &args.sql {
        Some(sql) => sql.clone(),
        None => {
            let mut sql = String::new();
            std::io::stdin().read_to_string(&mut sql)?;
            sql
        }
    };
    let (name, lake) = lake(Config::read(path)?, args.lake.as_deref())?;
    let Some(view) = View::open(&lake).await? else {
        return Err(CommandError::Usage(format!("nothing was flushed to {name} yet, at {}", lake.url)));
    };
    let moment = moment(&view, args.at.as_deref()).await?;
    let context = context(&view)?;
    let rows = ask(&context, &view, &moment, &sql).boxed().await?;
    output::write(rows, format, args.output.as_deref()).boxed().await
}

/// The lake that is meant.
fn lake(config: Config, wanted: Option<&str>) -> Result<(String, LakeConfig), CommandError> {
    let lakes = config.sinks.into_iter().filter_map(|sink| match sink.kind {
        SinkKind::Lake(lake) => Some((sink.name, *lake)),
        _ => None,
    });
    let mut lakes: Vec<_> = lakes.collect();
    let names = lakes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        lakes.retain(|(name, _)| name == wanted);
    }
    match (lakes.pop(), lakes.is_empty(), wanted) {
        (Some(lake), true, _) => Ok(lake),
        (Some(_), false, _) => Err(CommandError::Usage(format!("say which lake with --lake: {names}"))),
        (None, _, Some(wanted)) if !names.is_empty() => {
            Err(CommandError::Usage(format!("there is no lake {wanted}; there is {names}")))
        }
        (None, ..) => Err(CommandError::Usage("no sink is a lake".to_owned())),
    }
}

/// A tag has no colon, a time has some.
async fn moment(view: &View, at: Option<&str>) -> Result<Moment, CommandError> {
    let Some(at) = at else { return Ok(Moment::Cut) };
    if let Ok(time) = DateTime::parse_from_rfc3339(at) {
        return Ok(Moment::Time(time.with_timezone(&Utc)));
    }
    if at.contains(':') {
        return Err(CommandError::Usage(format!("{at} is no time; one with its zone is, as in 2026-05-26T22:00:00Z")));
    }
    let found = view.snapshot(at).await?;
    found.map(|found| Moment::Snapshot(Arc::new(found))).ok_or_else(|| tables::no_snapshot(view, at))
}

fn context(view: &View) -> Result<SessionContext, CommandError> {
    let mut config =
        SessionConfig::new().with_default_catalog_and_schema(LAKE, tables::CURRENT).with_information_schema(true);
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY, 1.0).build_arc()?;
    runtime.register_object_store(scan::store_url().as_ref(), view.files());
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Tables are looked at as far as they are asked for: each costs round trips.
async fn ask(
    context: &SessionContext,
    view: &View,
    moment: &Moment,
    sql: &str,
) -> Result<datafusion::execution::SendableRecordBatchStream, CommandError> {
    let state = context.state();
    let statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
    let asked = state.resolve_table_references(&statement)?;
    tables::register(context, view, moment, asked).await?;
    let plan = context.state().statement_to_plan(statement).await?;
    let questions = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    questions.verify_plan(&plan).map_err(|error| match error {
        DataFusionError::Plan(reason) => {
            CommandError::Usage(format!("only questions are taken, nothing that changes a lake: {reason}"))
        }
        error => error.into(),
    })?;
    Ok(context.execute_logical_plan(plan).await?.execute_stream().await?)
}
