//! What both sides of PDX/1 must spell alike: headers, media types, problem types and the bodies of answers.
//!
//! Two members extend the contract so that a lost reply or a killed sender never has to send a row twice; a target that
//! does not know them leaves them out and gets repeats, which its version gate makes harmless:
//! - `batch.partitions` in a request: rows are dealt to so many partitions;
//! - `source`, `partitions` and `last_version` in a watermark: who wrote the partition, dealt to how many, and the
//!   highest version in it. Versions rise within a partition, so everything up to `last_version` has arrived.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Media type of a batch.
pub(crate) const DELTA_JSON: &str = "application/vnd.pdx.delta+json; v=1";
/// The same as lines, the batch first.
pub(crate) const DELTA_NDJSON: &str = "application/x-ndjson";
/// The same as an Arrow stream.
pub(crate) const DELTA_ARROW: &str = "application/vnd.apache.arrow.stream";
/// The name under which the metadata of its schema holds the batch as JSON.
pub(crate) const BATCH_METADATA: &str = "batch";
/// Media type of a problem (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// RFC 8941 string; the same for every attempt of a batch.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// RFC 9530 digest of the body.
pub(crate) const CONTENT_DIGEST: &str = "content-digest";
/// Number of the partition.
pub(crate) const PARTITION: &str = "pdx-partition";
/// `epoch=3; batch=5512`, contiguous within an epoch of a partition.
pub(crate) const SEQUENCE: &str = "pdx-sequence";
/// `inventory_balance/1.2`.
pub(crate) const SCHEMA: &str = "pdx-schema";
/// `critical` or `noncritical`.
pub(crate) const CRITICALITY: &str = "pdx-criticality";
/// The batch as a trace.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The batch's id.
pub(crate) const CORRELATION_ID: &str = "correlation-id";

/// Of a signed request (Standard Webhooks): what tells it from others, seconds since 1970, and signatures with spaces between.
pub(crate) const WEBHOOK_ID: &str = "webhook-id";
pub(crate) const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
pub(crate) const WEBHOOK_SIGNATURE: &str = "webhook-signature";

/// Problem types are this followed by one of the names below.
pub(crate) const PROBLEM_BASE: &str = "https://syncline.dev/problems/";
/// A batch number beyond the next; the problem's member `expected` says which one is.
pub(crate) const SEQUENCE_GAP: &str = "sequence-gap";
/// An epoch below the one that the partition has seen.
pub(crate) const FENCED_EPOCH: &str = "fenced-epoch";
/// The same key is being worked on.
pub(crate) const REQUEST_IN_PROGRESS: &str = "request-in-progress";
/// The body is not the one that its digest names.
pub(crate) const DIGEST_MISMATCH: &str = "digest-mismatch";
/// A load did not come whole; it is begun anew.
pub(crate) const SNAPSHOT_INCOMPLETE: &str = "snapshot-incomplete";
/// No such load is open; it is begun anew.
pub(crate) const UNKNOWN_SNAPSHOT: &str = "unknown-snapshot";
/// The same key came with another body.
pub(crate) const KEY_REUSED: &str = "idempotency-key-reused";

/// SHA-256 of a body.
pub(crate) fn sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// The value of a `Content-Digest` header.
pub(crate) fn content_digest(sha256: &[u8; 32]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256))
}

/// The key of signatures: `whsec_` and base64.
pub(crate) fn signing_key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok().filter(|key| !key.is_empty())
}

/// The value of a `webhook-signature` header: HMAC-SHA256 of `id.timestamp.body`.
pub(crate) fn signature(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    format!("v1,{}", STANDARD.encode(mac(key, id, timestamp, body).finalize().into_bytes()))
}

/// True where one of the signatures of a header is right; how long that takes tells nobody how much of it was.
pub(crate) fn is_signed(key: &[u8], id: &str, timestamp: u64, body: &[u8], signatures: &str) -> bool {
    let decoded = signatures.split(' ').filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok());
    decoded.into_iter().any(|signature| mac(key, id, timestamp, body).verify_slice(&signature).is_ok())
}

fn mac(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    mac
}

/// The value of a `traceparent` header (W3C Trace Context, version 00): the trace is the batch, sampled; all attempts are one span of it.
pub(crate) fn traceparent(batch_id: &str, idempotency_key: &uuid::Uuid) -> String {
    let trace: String = batch_id.chars().filter(char::is_ascii_hexdigit).collect();
    let span = idempotency_key.as_u64_pair().0.max(1);
    format!("00-{trace:0>32.32}-{span:016x}-01")
}

/// The value of a `PDX-Sequence` header.
pub(crate) fn sequence(epoch: u32, batch: u64) -> String {
    format!("epoch={epoch}; batch={batch}")
}

/// Reads what [`sequence`] wrote.
pub(crate) fn parse_sequence(text: &str) -> Option<(u32, u64)> {
    let (epoch, batch) = text.split_once(';')?;
    Some((epoch.trim().strip_prefix("epoch=")?.parse().ok()?, batch.trim().strip_prefix("batch=")?.parse().ok()?))
}

/// A word of the other side as it may stand in a log line: short, and of letters, digits and a few signs.
pub(crate) fn word(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.');
    text.chars().filter(plain).take(CHARS_MAX).collect()
}

/// How far a partition of a flow is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watermark {
    /// The partition.
    pub(crate) partition: u32,
    /// Its epoch; 0 before the first batch.
    pub(crate) epoch: u32,
    /// The last batch of the epoch; 0 before the first.
    pub(crate) last_batch: u64,
    /// The pipeline that wrote the last batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Over how many partitions its rows were dealt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partitions: Option<u32>,
    /// The highest version received, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_version: Option<String>,
}

/// The answer to a processed batch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The batch's id, as sent.
    pub(crate) batch_id: String,
    /// Records in the batch.
    pub(crate) received: u64,
    /// Records that are now held.
    pub(crate) applied: u64,
    /// Records whose version was held already.
    pub(crate) unchanged: u64,
    /// Records older than the one held.
    pub(crate) stale: u64,
    /// Records refused.
    pub(crate) rejected: u64,
    /// Where the partition is now.
    pub(crate) watermark: Watermark,
    /// The refused records.
    #[serde(default)]
    pub(crate) rejects: Vec<Rejected>,
}

/// How a batch that was accepted for later stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JobReport {
    /// `queued`, `running`, `succeeded`, `succeeded_with_rejects` or `failed`.
    pub(crate) state: String,
    /// When to ask again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_s: Option<u64>,
    /// Once it has ended: what became of its records.
    #[serde(default)]
    pub(crate) counts: JobCounts,
    /// Once it has ended: where the partition is.
    #[serde(default)]
    pub(crate) watermark: Watermark,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<Problem>,
}

/// Records of a job, as in a [`Receipt`].
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobCounts {
    pub(crate) received: u64,
    pub(crate) applied: u64,
    pub(crate) unchanged: u64,
    pub(crate) stale: u64,
    pub(crate) rejected: u64,
}

/// Some of the refused records of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RejectPage {
    pub(crate) rejects: Vec<Rejected>,
    /// The `cursor` of the next page; none at the end.
    #[serde(default)]
    pub(crate) next: Option<String>,
}

/// A refused record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rejected {
    /// Its place in the batch, from 0.
    pub(crate) index: usize,
    /// Its key as sent.
    #[serde(default)]
    pub(crate) key: Option<Box<RawValue>>,
    /// The reason as a word.
    pub(crate) code: String,
    /// True where a later attempt can succeed.
    #[serde(default)]
    pub(crate) retryable: bool,
    /// The field at fault.
    #[serde(default)]
    pub(crate) field: Option<String>,
    /// The reason in a sentence.
    #[serde(default)]
    pub(crate) detail: String,
}

/// What a target takes.
#[derive(Debug, Deserialize)]
pub(crate) struct Capabilities {
    /// By entity.
    pub(crate) flows: BTreeMap<String, FlowLimits>,
    /// Media types of batches; none where the target does not say.
    #[serde(default)]
    pub(crate) content_types: Option<Vec<String>>,
    /// How batches may be compressed; as above.
    #[serde(default)]
    pub(crate) content_encodings: Option<Vec<String>>,
}

/// The most that a batch of a flow may hold; no limit where the target names none.
#[derive(Debug, Deserialize)]
pub(crate) struct FlowLimits {
    /// Records.
    #[serde(default)]
    pub(crate) max_records: Option<usize>,
    /// Bytes of the body.
    #[serde(default)]
    pub(crate) max_bytes: Option<usize>,
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// A URI whose last segment is the problem's name.
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// The name in words.
    #[serde(default)]
    pub(crate) title: String,
    /// The HTTP status.
    #[serde(default)]
    pub(crate) status: u16,
    /// What happened here.
    #[serde(default)]
    pub(crate) detail: String,
    /// Of a sequence gap: the batch that would have been next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<u64>,
}

impl Problem {
    /// The last segment of the type, as in `sequence-gap`.
    pub(crate) fn name(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_and_match_the_published_vectors() {
        assert_eq!(parse_sequence(&sequence(3, 5512)), Some((3, 5512)));
        assert_eq!(parse_sequence("epoch=3;batch=1"), Some((3, 1)));
        assert_eq!(parse_sequence("batch=1; epoch=3"), None);
        let id = uuid::Uuid::from_u128(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(traceparent(&id.to_string(), &id), "00-4bf92f3577b34da6a3ce929d0e0e4736-4bf92f3577b34da6-01");
        // RFC 9530 appendix B.1: the digest of {"hello": "world"} and a newline.
        assert_eq!(
            content_digest(&sha256(b"{\"hello\": \"world\"}\n")),
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        );
    }

    #[test]
    fn signatures_match_the_vector_of_the_standard_and_no_changed_request_passes() {
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let signed = signature(&key, id, at, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let rotated = format!("v1a,AAAA v1,AAAA {signed}");
        assert!(is_signed(&key, id, at, body, &rotated), "one of several suffices");
        assert!(!is_signed(&key, id, at + 1, body, &rotated) && !is_signed(&key, "other", at, body, &rotated));
        assert!(!is_signed(&key, id, at, b"{}", &rotated) && !is_signed(b"other", id, at, body, &rotated));
        assert!(signing_key("whsec_").is_none() && signing_key("not base64!").is_none());
    }
}
