//! The start of a session: who connects, the server's greeting, TLS, and the proof that the password is known.
//!
//! The first proof is of the method that the server greets with. Where the user has another one the server asks for that, as often
//! as the user has methods; a MariaDB greets with `mysql_native_password` whoever comes.

use std::time::Instant;

use syncline_schemas::secret::Secret;

use super::auth::{Method, sealed, signed};
use super::connection::{Connection, STARTING};
use super::greeting::{Greeting, capability, put_head, put_login, text};
use crate::CaptureError;
use crate::endpoint::Endpoint;
use crate::mysql::bytes::Cursor;

/// Who connects where.
pub(crate) struct Login<'c> {
    pub(crate) endpoint: Endpoint<'c>,
    pub(crate) user: &'c str,
    pub(crate) password: Option<&'c Secret>,
}

impl Connection {
    /// Protects the connection and proves who we are.
    pub(super) fn start(&mut self, login: &Login<'_>) -> Result<(), CaptureError> {
        let packet = self.receive(STARTING)?;
        let greeting = Greeting::parse(self.body(packet.body)).map_err(|reason| self.protocol(STARTING, reason))?;
        self.version.clone_from(&greeting.version);
        let mut sequence = packet.sequence.wrapping_add(1);
        let mut capabilities = capability::OURS;
        if login.endpoint.wants_tls() {
            if greeting.capabilities & capability::TLS == 0 {
                return Err(CaptureError::Tls {
                    source_id: self.source.clone(),
                    address: login.endpoint.address(),
                    reason: "the server has no tls; give it a certificate, or write sslmode=disable in the url"
                        .to_owned(),
                });
            }
            capabilities |= capability::TLS;
            let mut body = Vec::new();
            put_head(&mut body, capabilities);
            self.send(sequence, &body, STARTING)?;
            let deadline = self.deadline.unwrap_or_else(Instant::now);
            self.transport.start_tls(&login.endpoint, deadline)?;
            sequence = sequence.wrapping_add(1);
        }
        let password = login.password.map_or("", |password| password.reveal());
        // Where the server would have another one it says so, with a challenge for that.
        let method = Method::of(&greeting.plugin).filter(|method| method.is_first()).unwrap_or(Method::Native);
        let mut body = Vec::new();
        put_head(&mut body, capabilities);
        put_login(&mut body, login.user, &method.proof(password, &greeting.challenge), method.plugin());
        self.send(sequence, &body, STARTING)?;
        self.authenticate(login, method, greeting.challenge)
    }

    fn authenticate(&mut self, login: &Login<'_>, method: Method, challenge: Vec<u8>) -> Result<(), CaptureError> {
        let (mut method, mut challenge) = (method, challenge);
        let password = login.password.map_or("", |password| password.reveal());
        loop {
            let packet = self.receive(STARTING)?;
            let reply = packet.sequence.wrapping_add(1);
            let body = self.body(packet.body).to_vec();
            match body.as_slice() {
                [0, ..] => return Ok(()),
                // Another method, with a challenge of its own.
                [254, rest @ ..] => {
                    let mut cursor = Cursor::new(rest);
                    let plugin = text(&mut cursor).map_err(|reason| self.protocol(STARTING, reason))?;
                    method = Method::of(&plugin).ok_or_else(|| self.refuse(login, unknown_method(&plugin)))?;
                    challenge = method.challenge(cursor.rest()).map_err(|reason| self.protocol(STARTING, reason))?;
                    if method == Method::ClearText && !self.transport.is_protected() {
                        let reason = "the server wants the password in clear text over a connection that anybody can \
                                      read; write sslmode=verify-full in the url";
                        return Err(self.refuse(login, reason.to_owned()));
                    }
                    let proof = method.proof(password, &challenge);
                    self.send(reply, &proof, STARTING)?;
                }
                // The server knows the proof.
                [1, 3] if method == Method::CachingSha2 => {}
                // It does not, and wants the password.
                [1, 4] if method == Method::CachingSha2 && self.transport.is_protected() => {
                    self.send(reply, &Method::ClearText.proof(password, &[]), STARTING)?;
                }
                [1, 4] if method == Method::CachingSha2 => self.send(reply, &[2], STARTING)?,
                [1, key @ ..] if method == Method::CachingSha2 => {
                    let sealed =
                        sealed(password, &challenge, key).map_err(|reason| self.refuse(login, reason.to_owned()))?;
                    self.send(reply, &sealed, STARTING)?;
                }
                // What the key is derived with, which was asked for.
                derivation if method == Method::Parsec => {
                    let signed = signed(password, &challenge, derivation)
                        .map_err(|reason| self.refuse(login, reason.to_owned()))?;
                    self.send(reply, &signed, STARTING)?;
                }
                _ => return Err(self.protocol(STARTING, "the server goes on in a way that is not known")),
            }
        }
    }

    fn refuse(&self, login: &Login<'_>, reason: String) -> CaptureError {
        CaptureError::Authentication { source_id: self.source.clone(), user: login.user.to_owned(), reason }
    }
}

fn unknown_method(plugin: &str) -> String {
    format!(
        "the server wants {plugin}, which this version does not know; check the user name, as MySQL asks so of users that are \
         not there, or give the user ed25519 or mysql_native_password (MariaDB) or caching_sha2_password (MySQL)"
    )
}
