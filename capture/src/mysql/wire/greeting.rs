//! What the server says first, and the answer to it.

use crate::mysql::bytes::Cursor;

/// What the client can do, and asks for.
pub(super) mod capability {
    const LONG_PASSWORD: u32 = 1;
    const PROTOCOL_41: u32 = 1 << 9;
    pub(in super::super) const TLS: u32 = 1 << 11;
    const TRANSACTIONS: u32 = 1 << 13;
    const SECURE_CONNECTION: u32 = 1 << 15;
    const PLUGIN_AUTH: u32 = 1 << 19;
    const PLUGIN_AUTH_LENGTH: u32 = 1 << 21;
    /// Without these it is too old.
    pub(in super::super) const NEEDED: u32 = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
    pub(in super::super) const OURS: u32 = NEEDED | LONG_PASSWORD | TRANSACTIONS | PLUGIN_AUTH_LENGTH;
}

/// utf8mb4, in the collation that every server has.
const COLLATION: u8 = 45;
/// What a server says at most in one packet.
const PACKET_MAX: u32 = 1 << 30;

/// What the server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) version: String,
    pub(super) capabilities: u32,
    /// What a password is mixed with.
    pub(super) challenge: Vec<u8>,
    pub(super) plugin: String,
}

/// A text that ends in a zero byte.
pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<String, &'static str> {
    let len = cursor.rest().iter().position(|byte| *byte == 0).ok_or(crate::mysql::bytes::SHORT)?;
    let text = String::from_utf8_lossy(cursor.take(len)?).into_owned();
    cursor.u8()?;
    Ok(text)
}

impl Greeting {
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != 10 {
            return Err("the server greets in another version of the protocol than 10");
        }
        let version = text(&mut cursor)?;
        cursor.u32()?;
        let mut challenge = cursor.take(8)?.to_vec();
        cursor.u8()?;
        let low = cursor.u16()?;
        cursor.take(3)?;
        let capabilities = u32::from(low) | u32::from(cursor.u16()?) << 16;
        if capabilities & capability::NEEDED != capability::NEEDED {
            return Err("the server is too old");
        }
        let challenge_len = usize::from(cursor.u8()?);
        cursor.take(10)?;
        challenge.extend_from_slice(cursor.take(challenge_len.saturating_sub(8).max(13))?);
        // A zero byte ends it.
        challenge.truncate(20);
        Ok(Self { version, capabilities, challenge, plugin: text(&mut cursor)? })
    }
}

/// The first part of the answer, which asks for TLS where it is all of it.
pub(super) fn put_head(out: &mut Vec<u8>, capabilities: u32) {
    out.extend_from_slice(&capabilities.to_le_bytes());
    out.extend_from_slice(&PACKET_MAX.to_le_bytes());
    out.push(COLLATION);
    out.extend_from_slice(&[0; 23]);
}

/// The rest of the answer.
pub(super) fn put_login(out: &mut Vec<u8>, user: &str, proof: &[u8], plugin: &str) {
    out.extend_from_slice(user.as_bytes());
    out.push(0);
    out.push(u8::try_from(proof.len()).expect("a proof is a digest"));
    out.extend_from_slice(proof);
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_gives_the_challenge_without_its_end() {
        let mut body = b"\x0a10.11.19-MariaDB\0\x01\0\0\0abcdefgh\0".to_vec();
        body.extend_from_slice(&[0xff, 0xff, 45, 2, 0, 0xff, 0x81, 21]);
        body.extend_from_slice(&[0; 10]);
        body.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
        let greeting = Greeting::parse(&body).unwrap();
        assert_eq!(greeting.challenge, b"abcdefghijklmnopqrst");
        assert_eq!(
            (greeting.version.as_str(), greeting.plugin.as_str()),
            ("10.11.19-MariaDB", "mysql_native_password")
        );
        for len in 0..body.len() {
            let _ = Greeting::parse(&body[..len]);
        }
        body[0] = 9;
        assert!(Greeting::parse(&body).is_err());
    }
}
