//! Of several servers the one that a session is with.
//!
//! All connections of a session go to one server: what a read saw is said in the numbers of its transactions, how late the log is by
//! its clock, and a place within a transaction by its cuts. A name or a proxy may lead to another one from one connection to the
//! next, so each is asked who answers.

use std::io;

use tracing::warn;

use super::config::{Address, MySqlConfig};
use super::server::identity;
use super::wire::Connection;
use crate::{CaptureError, StopSignal};

const DURING: &str = "connecting once more";

/// The server that a session is with.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) address: Address,
    /// What no other server says of itself.
    pub(super) identity: String,
}

impl Site {
    /// Another connection to it.
    pub(super) fn open(&self, config: &MySqlConfig, stop: &StopSignal) -> Result<Connection, CaptureError> {
        let mut connection = Connection::open(&config.login(&self.address), stop)?;
        let identity = identity(&mut connection)?;
        if identity == self.identity {
            return Ok(connection);
        }
        let address = config.endpoint(&self.address).address();
        let reason = format!("at {address} answers {identity}, and this session is with {}", self.identity);
        Err(connection.lost(DURING, io::Error::other(reason)))
    }
}

/// Tries the servers in their order, but first the one that was read `last`; gives what the first that is fit has to give, or
/// why none is.
pub(super) fn first<T>(
    config: &MySqlConfig,
    last: Option<&str>,
    stop: &StopSignal,
    mut each: impl FnMut(&Address) -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    let named = config.hosts.iter().map(|address| (config.endpoint(address).address(), address));
    let (mut hosts, others): (Vec<_>, Vec<_>) = named.partition(|(name, _)| Some(name.as_str()) == last);
    hosts.extend(others);
    let is_only = hosts.len() == 1;
    let mut faults = Vec::new();
    for (name, address) in hosts {
        match each(address) {
            Ok(found) => return Ok(found),
            Err(fault) if is_only || stop.is_stopped() => return Err(fault),
            Err(fault) => {
                warn!(source = %config.source, server = name, "passed over: {fault}");
                faults.push((name, fault));
            }
        }
    }
    Err(CaptureError::NoServer { source_id: config.source.clone(), faults })
}
