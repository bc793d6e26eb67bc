//! Where a server listens and how the connection to it is protected, whichever database it is.

use std::path::PathBuf;

use syncline_schemas::ident::SourceId;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or address, over TCP.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// One of the places where a server of a source may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The machine, or the socket.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

/// How the connection is protected. There is no mode that looks protected and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// In clear text: for Unix sockets, loopback and networks that are trusted.
    Disable,
    /// Encrypted, and the server's certificate must be valid for the host name.
    VerifyFull {
        /// PEM file with the authorities to trust; the public ones (Mozilla's list) without it.
        ca_file: Option<PathBuf>,
    },
}

/// All that connecting needs.
pub(crate) struct Endpoint<'c> {
    pub(crate) source: &'c SourceId,
    pub(crate) host: &'c Host,
    pub(crate) port: u16,
    /// The Unix socket's own path, where it is one.
    pub(crate) socket: PathBuf,
    pub(crate) tls: &'c Tls,
}

impl Endpoint<'_> {
    /// For messages.
    pub(crate) fn address(&self) -> String {
        match self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(_) => self.socket.display().to_string(),
        }
    }

    /// Whether TLS is to be agreed on.
    pub(crate) const fn wants_tls(&self) -> bool {
        matches!((self.tls, self.host), (Tls::VerifyFull { .. }, Host::Tcp(_)))
    }
}
