//! Bytes to and from the server over TCP, a Unix socket or TLS.
//!
//! The socket stays in blocking mode for writes; reads use `MSG_DONTWAIT`, so that the caller alone decides when to
//! wait. With TLS, decrypted bytes can be waiting inside while the socket is silent: always try to read before waiting.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv, sockopt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::CaptureError;
use crate::endpoint::{Endpoint, Host, Tls};

/// How long to wait for an address to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// After so long without a packet the system asks whether the other machine is still there, up to [`PROBES`] times.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// A server that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Reads what has arrived, never waits.
impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((len, _)) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection's byte streams.
pub(crate) struct Transport {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// Connects without TLS.
    pub(crate) fn connect(endpoint: &Endpoint<'_>) -> io::Result<Self> {
        let socket = match endpoint.host {
            Host::Tcp(host) => Socket::Tcp(connect_tcp(host, endpoint.port)?),
            Host::Unix(_) => {
                let stream = UnixStream::connect(&endpoint.socket)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Socket::Unix(stream)
            }
        };
        Ok(Self { socket, tls: None })
    }

    /// True where nobody on the way can read along.
    pub(crate) const fn is_protected(&self) -> bool {
        self.tls.is_some() || matches!(self.socket, Socket::Unix(_))
    }

    /// Reads what has arrived; `None` when nothing has.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => read_tls(tls, &mut self.socket, buffer),
        };
        match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until there may be something to read; false when the time is over.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.write_all(bytes) };
        let mut rest = bytes;
        while !rest.is_empty() {
            // Takes no more than its buffer of 64 KiB has room for.
            let taken = tls.writer().write(rest)?;
            rest = &rest[taken..];
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        Ok(())
    }

    /// Agrees on TLS as configured, after the server has said yes to it.
    pub(crate) fn start_tls(&mut self, endpoint: &Endpoint<'_>, deadline: Instant) -> Result<(), CaptureError> {
        let (Tls::VerifyFull { ca_file }, Host::Tcp(host)) = (endpoint.tls, endpoint.host) else { return Ok(()) };
        let fault = |reason: String| CaptureError::Tls {
            source_id: endpoint.source.clone(),
            address: endpoint.address(),
            reason,
        };
        let client = client_config(ca_file.as_deref()).map_err(fault)?;
        let name = ServerName::try_from(host.clone()).map_err(|error| fault(format!("host name: {error}")))?;
        let mut tls = ClientConnection::new(client, name).map_err(|error| fault(error.to_string()))?;
        self.handshake(&mut tls, deadline).map_err(|error| match error.downcast::<rustls::Error>() {
            Ok(refused) => fault(format!(
                "{refused}; check that the host in the url is the one in the certificate, and sslrootcert"
            )),
            Err(error) => CaptureError::Lost { source_id: endpoint.source.clone(), during: "agreeing on tls", error },
        })?;
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    fn handshake(&mut self, tls: &mut ClientConnection, deadline: Instant) -> io::Result<()> {
        while tls.is_handshaking() {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
            if !tls.is_handshaking() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left)? {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer"));
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if let Err(refused) = tls.process_new_packets() {
                // Tells the server why; that it may be gone by now changes nothing.
                let _ = tls.write_tls(&mut self.socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, refused));
            }
        }
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                watch_peer(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Has the system find out that the other machine is gone, also where nobody waits for an answer: after a minute of
/// unanswered probes, or of sent bytes that nobody confirms.
fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    #[cfg(target_os = "linux")]
    {
        let whole = PROBE_AFTER + PROBE_EVERY * PROBES;
        sockopt::set_tcp_user_timeout(stream, u32::try_from(whole.as_millis()).expect("a minute"))?;
    }
    Ok(())
}

fn read_tls(tls: &mut ClientConnection, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if tls.read_tls(socket)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

fn client_config(ca_file: Option<&std::path::Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let unreadable = |error: rustls::pki_types::pem::Error| format!("sslrootcert {}: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            roots
                .add(certificate.map_err(unreadable)?)
                .map_err(|error| format!("sslrootcert {}: {error}", path.display()))?;
        }
        if roots.is_empty() {
            return Err(format!("sslrootcert {} holds no certificate in PEM form", path.display()));
        }
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(client))
}
