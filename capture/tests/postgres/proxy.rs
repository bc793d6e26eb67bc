//! A network in between: it breaks when it is told to, and something can be done before the server hears what a client says.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Passes bytes on between whoever connects and a server, as long as it is let.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    links: Arc<Mutex<Vec<TcpStream>>>,
    is_cut: Arc<AtomicBool>,
}

/// Sees what a client says before the server does.
type Listener = Arc<dyn Fn(&[u8]) + Send + Sync>;

impl Proxy {
    pub(crate) fn to(server: u16) -> Self {
        Self::overhearing(server, Arc::new(|_| {}))
    }

    /// Does something once, before the server hears the client say this.
    pub(crate) fn before(server: u16, said: &'static [u8], act: impl FnOnce() + Send + 'static) -> Self {
        let act = Mutex::new(Some(act));
        let hears = move |bytes: &[u8]| {
            if bytes.windows(said.len()).any(|some| some == said) {
                // Whoever says the same at the same time waits until it is done.
                let mut act = act.lock().unwrap();
                if let Some(act) = act.take() {
                    act();
                }
            }
        };
        Self::overhearing(server, Arc::new(hears))
    }

    fn overhearing(server: u16, hears: Listener) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = Self { port, links: Arc::default(), is_cut: Arc::default() };
        let (links, is_cut) = (Arc::clone(&this.links), Arc::clone(&this.is_cut));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_cut.load(Ordering::Acquire) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                links.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let hears = Arc::clone(&hears);
                std::thread::spawn(move || pass(from, to, &*hears));
                std::thread::spawn(move || pass(server, client, &|_| {}));
            }
        });
        this
    }

    /// Breaks every connection at whatever byte it is, and takes no new one.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.links.lock().unwrap().drain(..).for_each(|link| drop(link.shutdown(Shutdown::Both)));
    }

    /// Takes new connections again.
    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::Release);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, hears: &dyn Fn(&[u8])) {
    let mut bytes = [0; 1 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        hears(&bytes[..len]);
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
