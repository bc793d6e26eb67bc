//! How many rows a second the planning sink delivers to the reference receiver, both in this process over loopback:
//! `cargo run --release -p syncline-sinks --example planning_rate -- [rows]`. First every key is new,
//! then every key is updated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, Decimal128Array, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
    new_null_array,
};
use arrow::datatypes::DataType;
use syncline_schemas::delta::{DeltaBatch, UPSERT};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::planner::{Access, Faults, PlannerConfig, serve};
use syncline_sinks::planning::{PlanningConfig, PlanningSink};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, Sink as _, SinkError, Span};

const ENTRY_ROWS: u64 = 10_000;

/// Balances made as they are read; every `rows` of them the keys begin again.
struct Balances {
    rows: u64,
}

impl DeltaSource for Balances {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        let offsets = span.after.0 + 1..=span.upto.0;
        Ok(Box::new(offsets.map(|offset| {
            let rows = balances(offset, self.rows);
            let deltas = vec![DeltaBatch { entity: "inventory_balance".to_owned(), rows }];
            Ok(OutboxEntry { offset: LogOffset(offset), deltas })
        })))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        panic!("nothing here is to be refused: {rejects:?}");
    }
}

fn balances(offset: u64, keys: u64) -> RecordBatch {
    let entity = entity::get("inventory_balance").expect("canonical");
    let count = usize::try_from(ENTRY_ROWS).expect("small");
    let text = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let instant = || {
        let array = TimestampMicrosecondArray::from(vec![1_779_789_601_120_000; count]);
        Arc::new(array.with_timezone("UTC")) as ArrayRef
    };
    let number = |row: u64| ((offset - 1) * ENTRY_ROWS + row) % keys;
    let versions = (0..ENTRY_ROWS).map(|row| {
        let row = u32::try_from(row).expect("small");
        *Version::new(1, LogOffset(offset), row).as_bytes()
    });
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![UPSERT; count])),
        Arc::new(FixedSizeBinaryArray::try_from_iter(versions).expect("16 bytes each")),
        text("erp"),
        text("public.stock_quant"),
        text("0/16B3748"),
        instant(),
        instant(),
    ];
    for field in &entity.fields {
        columns.push(match (field.name.as_str(), field.field_type.arrow()) {
            ("item_id", _) => {
                Arc::new(StringArray::from_iter_values((0..ENTRY_ROWS).map(|row| format!("{:07}", number(row) / 40))))
            }
            ("location_id", _) => {
                Arc::new(StringArray::from_iter_values((0..ENTRY_ROWS).map(|row| format!("W{:02}", number(row) % 40))))
            }
            (_, DataType::Utf8) if field.key => text("DE01"),
            (_, DataType::Decimal128(precision, scale)) if field.required => Arc::new(
                Decimal128Array::from_iter_values((0..ENTRY_ROWS).map(|row| i128::from(row * 500_000_000)))
                    .with_precision_and_scale(precision, scale)
                    .expect("canonical decimal"),
            ),
            (_, DataType::Timestamp(..)) => instant(),
            (_, data_type) => new_null_array(&data_type, count),
        });
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("canonical shape")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows: u64 = std::env::args().nth(1).map_or(Ok(200_000), |text| text.parse())?;
    let entries = rows.div_ceil(ENTRY_ROWS);
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| "another TLS provider is installed")?;
    let folder = tempfile::tempdir()?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let db = folder.path().join("planner.db");
    let planner = serve(PlannerConfig { listen, db, faults: Faults::default(), access: Access::default() }).await?;
    let url = format!("http://{}/pdx/v1", planner.addr).parse()?;
    let mut sink = PlanningSink::new(PlanningConfig::new(url, "rate"))?;
    let source = Balances { rows: entries * ENTRY_ROWS };
    for (what, from) in [("new keys", 0), ("updates", entries)] {
        let begun = Instant::now();
        let span = Span { after: LogOffset(from), upto: LogOffset(from + entries) };
        let written = sink.write(span, &source).await?;
        let micros = begun.elapsed().as_micros().max(1);
        let rate = u128::from(written.rows) * 1_000_000 / micros;
        println!("{what}: {} rows, {} bytes in {} ms: {rate} rows/s", written.rows, written.bytes, micros / 1_000);
    }
    planner.shutdown().await?;
    Ok(())
}
