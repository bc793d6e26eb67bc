//! Proving who we are: trust, clear text, md5 and SCRAM-SHA-256.
//!
//! A password in clear text is only given over TLS or a Unix socket: anywhere else, whoever sits on the way could ask
//! for it.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use syncline_schemas::secret::Secret;

use super::connection::Connection;
use crate::CaptureError;

const DURING: &str = "authenticating";

pub(super) fn authenticate(connection: &mut Connection, password: Option<&Secret>) -> Result<(), CaptureError> {
    loop {
        let packet = connection.receive(DURING)?;
        if packet.tag != b'R' {
            let reason = format!("message {:?} where authentication was expected", char::from(packet.tag));
            return Err(connection.protocol(DURING, reason));
        }
        let body = connection.body(packet.body);
        let Some((method, rest)) = body.split_first_chunk::<4>() else {
            return Err(connection.protocol(DURING, "the request is cut short"));
        };
        match u32::from_be_bytes(*method) {
            0 => return Ok(()),
            3 => clear_text(connection, password)?,
            5 => {
                let Ok(salt) = <[u8; 4]>::try_from(rest) else {
                    return Err(connection.protocol(DURING, "the salt is not 4 bytes"));
                };
                let secret = wanted(connection, password)?;
                let hashed = md5_hash(connection.user.as_bytes(), secret.reveal().as_bytes(), salt);
                give_password(connection, hashed.as_bytes())?;
            }
            10 => {
                let mechanisms: Vec<&[u8]> = rest.split(|&byte| byte == 0).collect();
                if !mechanisms.contains(&SCRAM_SHA_256.as_bytes()) {
                    return Err(refusal(connection, "the server offers no SCRAM-SHA-256"));
                }
                scram(connection, password)?;
            }
            other => {
                let reason = format!(
                    "the server asks for method {other} (Kerberos, GSSAPI, SSPI or newer); allow scram-sha-256 in pg_hba.conf"
                );
                return Err(refusal(connection, &reason));
            }
        }
    }
}

fn refusal(connection: &Connection, reason: &str) -> CaptureError {
    CaptureError::Authentication {
        source_id: connection.source.clone(),
        user: connection.user.clone(),
        reason: reason.to_owned(),
    }
}

fn wanted<'a>(connection: &Connection, password: Option<&'a Secret>) -> Result<&'a Secret, CaptureError> {
    password.ok_or_else(|| refusal(connection, "the server asks for a password and none is configured; set password"))
}

fn clear_text(connection: &mut Connection, password: Option<&Secret>) -> Result<(), CaptureError> {
    if !connection.is_protected() {
        return Err(refusal(
            connection,
            "the server asks for the password in clear text over an unprotected connection; use sslmode=verify-full, or scram-sha-256 in pg_hba.conf",
        ));
    }
    let secret = wanted(connection, password)?;
    give_password(connection, secret.reveal().as_bytes())
}

fn give_password(connection: &mut Connection, bytes: &[u8]) -> Result<(), CaptureError> {
    if frontend::password_message(bytes, &mut connection.out).is_err() {
        return Err(refusal(connection, "the password holds a zero byte"));
    }
    connection.send(DURING)
}

fn scram(connection: &mut Connection, password: Option<&Secret>) -> Result<(), CaptureError> {
    let secret = wanted(connection, password)?;
    let mut scram = ScramSha256::new(secret.reveal().as_bytes(), ChannelBinding::unsupported());
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut connection.out)
        .map_err(|error| refusal(connection, &error.to_string()))?;
    connection.send(DURING)?;

    let challenge = sasl_step(connection, 11)?;
    scram.update(&challenge).map_err(|error| refusal(connection, &error.to_string()))?;
    frontend::sasl_response(scram.message(), &mut connection.out)
        .map_err(|error| refusal(connection, &error.to_string()))?;
    connection.send(DURING)?;

    let proof = sasl_step(connection, 12)?;
    scram.finish(&proof).map_err(|_| refusal(connection, "the server did not prove that it knows the password"))
}

/// The data of the server's next SASL message, which must be the given one.
fn sasl_step(connection: &mut Connection, wanted: u32) -> Result<Vec<u8>, CaptureError> {
    let packet = connection.receive(DURING)?;
    let body = connection.body(packet.body.clone());
    match body.split_first_chunk::<4>() {
        Some((method, data)) if packet.tag == b'R' && u32::from_be_bytes(*method) == wanted => Ok(data.to_vec()),
        _ => Err(connection.protocol(DURING, format!("expected SASL message {wanted}"))),
    }
}
