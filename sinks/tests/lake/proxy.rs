//! A proxy that loses replies: what the server did stands, and the client never hears of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Says of a request's first line whether its reply gets lost.
type Loses = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Listens until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, loses: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (lost, loses): (_, Loses) = (Arc::new(AtomicU64::new(0)), Arc::new(loses));
        let count = Arc::clone(&lost);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&loses), Arc::clone(&count)));
            }
        });
        Self { address, lost, task }
    }

    /// Replies that were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, on which requests follow each other: the next begins when the last is answered.
async fn carry(mut client: TcpStream, server: SocketAddr, loses: Loses, lost: Arc<AtomicU64>) {
    let mut server = TcpStream::connect(server).await.expect("the server listens");
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut doomed = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(bytes @ 1..) = read else { return };
                let line = String::from_utf8_lossy(asked[..bytes].split(|&byte| byte == b'\r').next().unwrap_or_default());
                if line.ends_with(" HTTP/1.1") {
                    doomed = loses(&line);
                }
                if server.write_all(&asked[..bytes]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(bytes @ 1..) = read else { return };
                if doomed {
                    // Every other time the connection is reset instead of closed: clients tell the two apart.
                    if lost.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                        let _ = client.set_zero_linger();
                    }
                    return;
                }
                if client.write_all(&answered[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }
}
