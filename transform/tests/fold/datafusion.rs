//! The same SQL over the final tables, run by DataFusion's own planner and join operators, of which the fold has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::frames::Value;
use crate::joins::{COLUMNS, NAMES, Plan, Tables};

/// On hand by item and place, as DataFusion sees it.
pub(crate) fn sums(tables: &Tables, plan: &Plan) -> BTreeMap<(String, String), i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    for (table, name) in NAMES.iter().enumerate() {
        let rows: Vec<&Vec<Value>> = tables.rows(table).collect();
        let columns =
            COLUMNS[table].iter().enumerate().map(|(at, (name, kind))| (*name, column(&rows, at, kind), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("a table");
        context.register_batch(*name, batch).expect("a free name");
    }
    let inner = plan.sql("unit", &format!("{} AS on_hand", plan.quantity()));
    let sql = format!("SELECT item_id, location_id, sum(on_hand) FROM ({inner}) GROUP BY 1, 2");
    let batches = runtime.block_on(async { context.sql(&sql).await.expect("the mapping's own SQL").collect().await });
    let mut sums = BTreeMap::new();
    for batch in batches.expect("rows") {
        let (item, place) = (text(batch.column(0)), text(batch.column(1)));
        let sum = batch.column(2).as_primitive::<Int64Type>();
        sums.extend((0..batch.num_rows()).map(|row| ((item[row].clone(), place[row].clone()), sum.value(row))));
    }
    sums
}

fn column(rows: &[&Vec<Value>], at: usize, kind: &str) -> ArrayRef {
    if kind == "bigint" {
        let number = |row: &&Vec<Value>| if let Value::Int(value) = row[at] { Some(value) } else { None };
        return Arc::new(rows.iter().map(number).collect::<Int64Array>());
    }
    let text = |row: &&Vec<Value>| if let Value::Text(value) = &row[at] { Some(value.clone()) } else { None };
    Arc::new(rows.iter().map(text).collect::<StringArray>())
}

/// Text in whichever layout the engine chose.
fn text(column: &ArrayRef) -> Vec<String> {
    let plain = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).expect("text");
    plain.as_string::<i32>().iter().map(|value| value.unwrap_or_default().to_owned()).collect()
}
