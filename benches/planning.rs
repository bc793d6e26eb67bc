//! Delivery to a planning platform alone: the planning sink in this process, the reference receiver, which keeps nothing, in
//! another one.
//!
//! Run it through `benches/planning`. Each delta is a changed stock balance with a key of its own, so none is coalesced. The
//! floor posts bodies of the size of the Arrow batches over as many connections, to a handler that reads them and says yes.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Decimal128Array, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
    new_null_array,
};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use syncline_schemas::delta::{DeltaBatch, UPSERT};
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::planning::{Compression, Format, PlanningConfig, PlanningSink};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, Sink as _, SinkError, Span};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Deltas of a log entry, as the fold of a busy day makes them.
const ENTRY: usize = 1_000;
/// Entries whose rows are made once; their versions go on.
const MADE: usize = 100;
const PARTITIONS: u32 = 8;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [deltas, rounds] = match arguments.as_slice() {
        [] => [1_000_000, 3],
        [deltas, rounds] => [deltas.parse()?, rounds.parse()?],
        _ => return Err("usage: benches/planning [DELTAS ROUNDS]".into()),
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // As the daemon runs it: each sink has one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(deltas, rounds))
}

async fn measure(deltas: usize, rounds: usize) -> Outcome<()> {
    let outbox = Outbox::new(deltas);
    let forms = [
        ("JSON", Format::Json, Compression::None),
        ("NDJSON", Format::Ndjson, Compression::None),
        ("Arrow", Format::Arrow, Compression::None),
        ("Arrow, zstd", Format::Arrow, Compression::Zstd),
    ];
    let mut figures: Vec<(String, Vec<Figure>)> = vec![("bare posts".to_owned(), Vec::new())];
    figures.extend(forms.iter().map(|(name, ..)| ((*name).to_owned(), Vec::new())));
    for _ in 0..rounds {
        let mut size = 0;
        for (at, (_, format, compression)) in forms.iter().enumerate() {
            let figure = deliver(&outbox, *format, *compression).await?;
            if *format == Format::Arrow && *compression == Compression::None {
                size = figure.bytes;
            }
            figures[at + 1].1.push(figure);
        }
        figures[0].1.push(bare_posts(size).await?);
    }
    println!(
        "| | deltas/s median | best | of bare posts | bytes each | sender CPU s per million |\n|---|---|---|---|---|---|"
    );
    let rates = |figures: &[Figure]| {
        let mut rates: Vec<f64> = figures.iter().map(|figure| deltas as f64 / figure.took.as_secs_f64()).collect();
        rates.sort_by(f64::total_cmp);
        rates
    };
    let floor = rates(&figures[0].1);
    for (name, of) in &figures {
        let rates = rates(of);
        let cpu: f64 = of.iter().map(|figure| figure.cpu).sum::<f64>() / of.len() as f64;
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} |",
            rates[rates.len() / 2],
            rates[rates.len() - 1],
            rates[rates.len() / 2] / floor[floor.len() / 2],
            of[0].bytes as f64 / deltas as f64,
            cpu * 1e6 / deltas as f64,
        );
    }
    println!("\npeak of this process: {} MiB", peak_mib()?);
    Ok(())
}

/// What one delivery took.
struct Figure {
    took: Duration,
    bytes: u64,
    /// Seconds of this process.
    cpu: f64,
}

/// Seconds of CPU that this process has had.
fn cpu() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

fn peak_mib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? / 1_024)
}

async fn deliver(outbox: &Outbox, format: Format, compression: Compression) -> Outcome<Figure> {
    let folder = tempfile::tempdir()?;
    let receiver = Receiver::start(folder.path()).await?;
    let mut config = PlanningConfig::new(format!("http://{}/pdx/v1", receiver.addr).parse()?, "bench");
    (config.format, config.compression, config.partitions) = (format, compression, PARTITIONS);
    let mut sink = PlanningSink::new(config)?;
    let (began, before) = (Instant::now(), cpu()?);
    let mut written = 0;
    // Spans as the pump cuts them.
    let step = sink.batching().max_rows / ENTRY;
    for after in (0..outbox.entries).step_by(step) {
        let upto = (after + step).min(outbox.entries);
        let span = Span { after: LogOffset(after as u64), upto: LogOffset(upto as u64) };
        written += sink.write(span, outbox).await?.rows;
    }
    let figure = Figure { took: began.elapsed(), bytes: sink.stats().read().bytes, cpu: cpu()? - before };
    if written != (outbox.entries * ENTRY) as u64 {
        return Err(format!("{written} of {} deltas arrived", outbox.entries * ENTRY).into());
    }
    Ok(figure)
}

/// The floor: so many bytes in bodies of a quarter of a megabyte.
async fn bare_posts(bytes: u64) -> Outcome<Figure> {
    const BODY: usize = 256 * 1024;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // A thread stands for the receiver's process.
    let listener = listener.into_std()?;
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let reads = Router::new()
                .route("/", post(|body: axum::body::Bytes| async move { body.len().to_string() }))
                .layer(DefaultBodyLimit::disable());
            let served = tokio::spawn(async move { axum::serve(listener, reads).await });
            tokio::task::spawn_blocking(move || stopped.recv()).await.map(drop).unwrap_or_default();
            served.abort();
        });
    });
    let http = reqwest::Client::builder().no_proxy().build()?;
    let (began, before) = (Instant::now(), cpu()?);
    let posts = usize::try_from(bytes)? / BODY;
    let lanes = (0..PARTITIONS as usize).map(|lane| {
        let http = http.clone();
        async move {
            for _ in (lane..posts).step_by(PARTITIONS as usize) {
                let sent = http.post(format!("http://{addr}/")).body(vec![7_u8; BODY]).send().await?;
                sent.error_for_status()?.bytes().await?;
            }
            Ok::<_, reqwest::Error>(())
        }
    });
    futures::future::try_join_all(lanes).await?;
    let figure = Figure { took: began.elapsed(), bytes: (posts * BODY) as u64, cpu: cpu()? - before };
    let _ = stop.send(());
    server.join().map_err(|_| "the server panicked")?;
    Ok(figure)
}

/// The reference receiver in a process of its own.
struct Receiver {
    child: Child,
    addr: SocketAddr,
}

impl Receiver {
    async fn start(folder: &Path) -> Outcome<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(env!("CARGO_BIN_EXE_syncline"))
            .args(["planner", "--forget", "--listen", &addr.to_string(), "--db"])
            .arg(folder.join("planner.sqlite"))
            .stderr(Stdio::null())
            .spawn()?;
        let receiver = Self { child, addr };
        let http = reqwest::Client::builder().no_proxy().build()?;
        for _ in 0..500 {
            if http.get(format!("http://{addr}/stats")).send().await.is_ok() {
                return Ok(receiver);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the receiver does not answer".into())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Balances, the same rows over and over under versions that rise.
struct Outbox {
    entries: usize,
    entity: &'static Entity,
    made: Vec<Vec<ArrayRef>>,
}

impl Outbox {
    fn new(deltas: usize) -> Self {
        let entity = entity::get("inventory_balance").expect("canonical");
        let made = (0..MADE).map(|entry| columns(entity, entry)).collect();
        Self { entries: deltas / ENTRY, entity, made }
    }
}

fn columns(entity: &Entity, entry: usize) -> Vec<ArrayRef> {
    let instant = || -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![1_779_789_601_120_000; ENTRY]).with_timezone("UTC"))
    };
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; ENTRY])) };
    let quantity = |of: fn(usize) -> i128| -> ArrayRef {
        let values = Decimal128Array::from_iter_values((0..ENTRY).map(of));
        Arc::new(values.with_precision_and_scale(28, 9).expect("canonical decimal"))
    };
    let mut columns = vec![
        Arc::new(UInt8Array::from(vec![UPSERT; ENTRY])) as ArrayRef,
        // Replaced by those of the entry.
        Arc::new(UInt8Array::from(vec![0; ENTRY])),
        text("erp"),
        text("public.stock"),
        text("0/16B3748"),
        instant(),
        instant(),
    ];
    for field in &entity.fields {
        columns.push(match field.name.as_str() {
            "company_id" => text("DE01"),
            "location_id" => text("BER"),
            "item_id" => {
                Arc::new(StringArray::from_iter_values((0..ENTRY).map(|row| format!("A{:07}", entry * ENTRY + row))))
            }
            "owner_id" | "stock_class" => text(""),
            "on_hand" | "reserved" | "available" => quantity(|row| (row as i128 + 1) * 250_000_000),
            "as_of" => instant(),
            _ if field.required => quantity(|_| 0),
            _ => new_null_array(&field.field_type.arrow(), ENTRY),
        });
    }
    columns
}

impl DeltaSource for Outbox {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        Ok(Box::new((span.after.0 + 1..=span.upto.0).map(|offset| {
            let nth = usize::try_from(offset).unwrap_or_default() % MADE;
            let rows = 0..u32::try_from(ENTRY).expect("few");
            let versions: Vec<_> = rows.map(|row| *Version::new(1, LogOffset(offset), row).as_bytes()).collect();
            let mut columns = self.made[nth].clone();
            columns[1] = Arc::new(FixedSizeBinaryArray::try_from_iter(versions.into_iter())?);
            let rows = RecordBatch::try_new(self.entity.delta_schema(), columns)?;
            let delta = DeltaBatch { entity: self.entity.name.clone(), rows };
            Ok(OutboxEntry { offset: LogOffset(offset), deltas: vec![delta] })
        })))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        let first = rejects.first().map(|reject| format!(", the first as {} {:?}", reject.code, reject.field));
        let reason = format!("{} rows were refused{}", rejects.len(), first.unwrap_or_default());
        Err(SinkError::Outbox { reason })
    }
}
