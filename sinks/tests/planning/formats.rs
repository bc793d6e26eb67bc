//! Batches in every form and compression end as the same rows.

use proptest::test_runner::{Config, TestRunner};
use syncline_sinks::Sink as _;
use syncline_sinks::planner::Faults;
use syncline_sinks::planning::{Compression, Format, PlanningSink};

use crate::outbox::{Outbox, canonical};
use crate::target::Target;

const FORMATS: [Format; 3] = [Format::Json, Format::Ndjson, Format::Arrow];
const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];
const ENTITIES: [&str; 4] = ["inventory_balance", "purchase_order_line", "sales_order_line", "inventory_movement"];

#[test]
fn whatever_form_a_batch_has_the_target_ends_with_the_same_rows() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let change = (0..ENTITIES.len(), 0_u32..40, proptest::option::of(-9_i64..9));
    let history = proptest::collection::vec(proptest::collection::vec(change, 1..40), 1..6);
    let limits = (1_usize..60, 2_000_usize..60_000);
    let mut runner = TestRunner::new(Config { cases: 6, ..Config::default() });
    let tried = runner.run(&(history, limits), |(history, (max_records, max_bytes))| {
        let mut outbox = Outbox::default();
        for changes in &history {
            let changes: Vec<_> =
                changes.iter().map(|(entity, key, value)| (ENTITIES[*entity], *key, *value)).collect();
            outbox.push(1, &changes);
        }
        for (format, compression) in
            FORMATS.into_iter().flat_map(|it| COMPRESSIONS.map(|compression| (it, compression)))
        {
            runtime.block_on(async {
                let target = Target::start(Faults { drop_reply_rate: 0.2, seed: 7, ..Faults::default() }).await;
                let mut config = target.config();
                (config.format, config.compression) = (format, compression);
                (config.max_records, config.max_bytes) = (max_records, max_bytes);
                let mut sink = PlanningSink::new(config).expect("sound");
                sink.check().await.expect("the receiver takes all of them");
                sink.write(outbox.span(), &outbox).await.expect("delivered");
                target.assert_holds(&outbox).await;
                assert_eq!(target.stat("rejected").await, 0, "{format:?} {compression:?}");
            });
        }
        Ok(())
    });
    tried.expect("all forms agree");
}

#[tokio::test]
async fn a_body_that_grows_without_end_or_is_no_batch_is_refused_and_not_swallowed() {
    let target = Target::start(Faults::default()).await;
    let bomb = zstd::bulk::compress(&vec![b' '; 64 << 20], 19).expect("compresses");
    let send = async |media: &'static str, encoding: Option<&'static str>, body: Vec<u8>| {
        let mut request = target
            .request(reqwest::Method::POST, "/pdx/v1/flows/item/deltas")
            .header("content-type", media)
            .header("idempotency-key", "\"k\"")
            .header("content-digest", digest(&body))
            .header("pdx-partition", "0")
            .header("pdx-sequence", "epoch=1; batch=1")
            .header("pdx-schema", canonical("item").schema_id());
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        request.body(body).send().await.expect("an answer").status().as_u16()
    };
    let arrow = "application/vnd.apache.arrow.stream";
    assert_eq!(send("application/x-ndjson", Some("zstd"), bomb).await, 413);
    assert_eq!(send("application/x-ndjson", Some("gzip"), b"no gzip".to_vec()).await, 400);
    assert_eq!(send("application/x-ndjson", Some("br"), b"x".to_vec()).await, 415);
    assert_eq!(send("text/csv", None, b"x".to_vec()).await, 415);
    assert_eq!(send(arrow, None, b"no stream".to_vec()).await, 400);
    assert_eq!(send("application/x-ndjson", None, b"\n\n".to_vec()).await, 400);
    assert_eq!(target.stat("records").await, 0);
}

pub(crate) fn digest(body: &[u8]) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(body)))
}
