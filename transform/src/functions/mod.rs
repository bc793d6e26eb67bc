//! SQL functions for what ERP rows need and SQL does not have: exact unit conversion, sentinel dates, local time, check
//! digits and the money of SAP and D365. `docs/functions.md` describes each; its examples are run as tests.
//!
//! They compute whole columns, never in binary floats. A row that has no value fails its batch with a [`Fault`], which the
//! fold's halving pins to that row and holds under the rule and reason that the fault names.

mod arguments;
mod dates;
mod fault;
mod fraction;
mod function;
mod identifiers;
mod money;
#[cfg(test)]
mod tests;
mod units;
mod zones;

use datafusion_expr::ScalarUDF;
use syncline_schemas::table::instant;

pub(crate) use self::fault::Fault;
use self::function::{Definition, Function};

fn definitions() -> impl Iterator<Item = &'static Definition> {
    let parts: [&[Definition]; 5] =
        [&units::DEFINITIONS, &dates::DEFINITIONS, &zones::DEFINITIONS, &identifiers::DEFINITIONS, &money::DEFINITIONS];
    parts.into_iter().flatten()
}

/// All of them, for the planner of expressions.
pub(crate) fn all() -> impl Iterator<Item = ScalarUDF> {
    definitions().map(|definition| ScalarUDF::from(Function::new(definition)))
}
