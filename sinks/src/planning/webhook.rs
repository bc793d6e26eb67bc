//! Is a webhook of whom it says? Standard Webhooks: an HMAC-SHA256 over `id.timestamp.body`, on the bytes as they came.

use super::contract;

/// A signature of another time may be a request that somebody caught (Standard Webhooks recommend five minutes).
pub const SIGNED_WITHIN_S: u64 = 300;

/// The headers of a webhook.
#[derive(Debug, Clone, Copy)]
pub struct SignedHeaders<'a> {
    /// What tells the message from others; the same at each attempt.
    pub id: &'a str,
    /// Seconds since 1970.
    pub timestamp: &'a str,
    /// Signatures with spaces between; one that is right suffices.
    pub signature: &'a str,
}

/// Their names, in the order of [`SignedHeaders`].
pub const HEADERS: [&str; 3] = [contract::WEBHOOK_ID, contract::WEBHOOK_TIMESTAMP, contract::WEBHOOK_SIGNATURE];

/// True where a message was signed with the key (`whsec_` and base64), at most five minutes from `now_s`. How long that takes
/// tells nobody how much of a signature was right.
#[must_use]
pub fn is_genuine(key: &str, headers: SignedHeaders<'_>, body: &[u8], now_s: u64) -> bool {
    let (Some(key), Ok(at)) = (contract::signing_key(key), headers.timestamp.parse::<u64>()) else { return false };
    now_s.abs_diff(at) <= SIGNED_WITHIN_S && contract::is_signed(&key, headers.id, at, body, headers.signature)
}

/// The signature of a message, as its header has it; none where the key is none.
#[must_use]
pub fn sign(key: &str, id: &str, timestamp_s: u64, body: &[u8]) -> Option<String> {
    Some(contract::signature(&contract::signing_key(key)?, id, timestamp_s, body))
}

/// True for a text that can be such a key.
#[must_use]
pub fn is_key(text: &str) -> bool {
    contract::signing_key(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_was_caught_is_worth_nothing_after_five_minutes_and_a_forged_one_never() {
        let (key, at, body) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1_614_265_330, br#"{"test": 2432232314}"#);
        let headers = SignedHeaders {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        };
        assert!(is_genuine(key, headers, body, at) && is_genuine(key, headers, body, at + 300));
        assert!(!is_genuine(key, headers, body, at + 301) && !is_genuine(key, headers, body, at - 301));
        assert!(!is_genuine(key, headers, b"{}", at));
        assert!(!is_genuine("whsec_AAAA", headers, body, at) && !is_genuine("", headers, body, at));
        assert!(!is_genuine(key, SignedHeaders { timestamp: "soon", ..headers }, body, at));
        assert!(!is_genuine(key, SignedHeaders { signature: "", ..headers }, body, at));
    }
}
