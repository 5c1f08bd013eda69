//! What traffic ends at: a server that answers every request with its own name.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A backend. Stops when dropped.
#[derive(Debug)]
pub struct Backend {
    address: (Ipv4Addr, u16),
    stopped: Arc<AtomicBool>,
}

impl Backend {
    /// Listens on 127.0.0.`host`, for Envoy has the service's ports on 127.0.0.1 itself.
    ///
    /// # Panics
    /// The port is taken.
    #[must_use]
    pub fn start(host: u8, port: u16, name: &str) -> Self {
        let address = (Ipv4Addr::new(127, 0, 0, host), port);
        let listener = TcpListener::bind(address)
            .unwrap_or_else(|error| panic!("{name} cannot listen on {address:?}: {error}"));
        let stopped = Arc::new(AtomicBool::new(false));
        let (name, over) = (name.to_owned(), Arc::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let name = name.clone();
                // Whoever hangs up needs no answer.
                thread::spawn(move || drop(answer(stream, &name)));
            }
        });
        Self { address, stopped }
    }

    /// The address without its port.
    #[must_use]
    pub fn ip(&self) -> String {
        self.address.0.to_string()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.1
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // The listener sees that it is over with the next connection.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers the requests of a connection, which have no bodies.
fn answer(stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line.trim_end() != "" || line.is_empty() {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let length = name.len();
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}")?;
    }
}
