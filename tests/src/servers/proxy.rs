//! Stands between Landfall and a registry: counts what is asked, and fails as registries fail.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::conformance::Break;

/// The end of a request's head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nobody answers: every connection is closed.
    Down,
    /// Every request is answered with this status.
    Status(u16),
    /// Requests for paths that contain the text are answered with this status.
    OnlyPath(String, u16),
    /// Every answer ends in its middle, and the connection with it.
    Cut,
    /// Every request reaches the registry so much later.
    Slow(Duration),
}

impl Fault {
    /// What goes wrong before any registry that breaks in this way. `None` where each does so in a
    /// way of its own, or cannot.
    #[must_use]
    pub fn of(how: Break) -> Option<Self> {
        match how {
            Break::Unreachable => Some(Self::Down),
            Break::Errors => Some(Self::Status(500)),
            Break::Gone => Some(Self::Status(404)),
            Break::Silent => Some(Self::Slow(Duration::from_secs(60))),
            Break::Cut => Some(Self::Cut),
            Break::Refused
            | Break::Limited
            | Break::Hidden
            | Break::Unsaid
            | Break::Leaderless
            | Break::Slow
            | Break::Oversize => None,
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it came.
    pub at: Instant,
    /// Path and query.
    pub path: String,
}

/// A proxy to one server. Closes when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    state: Mutex<State>,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    asked: Vec<Asked>,
    connections: Vec<TcpStream>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to this port of 127.0.0.1.
    ///
    /// # Panics
    /// It cannot listen.
    #[must_use]
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = State { fault: Fault::None, asked: Vec::new(), connections: Vec::new() };
        let stopped = AtomicBool::new(false);
        let shared = Arc::new(Shared { upstream, state: Mutex::new(state), stopped });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&accepting)) else { continue };
                // A connection that breaks is what faults are about.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on this goes wrong. What is under way breaks, unless nothing goes wrong any more.
    pub fn set(&self, fault: Fault) {
        let mut state = self.shared.state();
        let heals = fault == Fault::None;
        state.fault = fault;
        if !heals {
            for connection in state.connections.drain(..) {
                // It may be closed.
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }

    /// What was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// Waits until nothing was asked for `quiet`; says whether that came within `limit`.
    #[must_use]
    pub fn is_quiet(&self, quiet: Duration, limit: Duration) -> bool {
        let began = Instant::now();
        let mut last = self.shared.state().asked.last().map(|asked| asked.at);
        while began.elapsed() < limit {
            if last.is_none_or(|last| last.elapsed() >= quiet) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
            last = self.shared.state().asked.last().map(|asked| asked.at);
        }
        false
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.set(Fault::Down);
        // The listener sees that it is over with the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

// === impl Shared ===

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection to its end.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        self.state().connections.push(client.try_clone()?);
        let mut upstream: Option<TcpStream> = None;
        let mut rest = Vec::new();
        while let Some(request) = next_request(&mut client, &mut rest)? {
            let path = path(&request);
            let fault = {
                let mut state = self.state();
                state.asked.push(Asked { at: Instant::now(), path: path.clone() });
                match state.fault.clone() {
                    Fault::OnlyPath(part, status) if path.contains(&part) => Fault::Status(status),
                    Fault::OnlyPath(..) => Fault::None,
                    fault => fault,
                }
            };
            match fault {
                Fault::None | Fault::OnlyPath(..) => {}
                Fault::Cut => {
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream))?;
                    server.write_all(&request)?;
                    // Less than the head of any answer that has more to say.
                    let mut part = [0; 64];
                    let count = server.read(&mut part)?;
                    client.write_all(&part[..count])?;
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Slow(delay) => thread::sleep(delay),
                Fault::Down => return client.shutdown(Shutdown::Both),
                Fault::Status(status) => {
                    write!(client, "HTTP/1.1 {status} Fault\r\ncontent-length: 5\r\n\r\nfault")?;
                    continue;
                }
            }
            let server = match &mut upstream {
                Some(server) => server,
                None => upstream.insert(self.connect(&client)?),
            };
            server.write_all(&request)?;
        }
        if let Some(server) = upstream {
            // The client hung up, so nobody waits for what it asked.
            let _ = server.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// A connection to the server, whose answers go to `client`.
    fn connect(&self, client: &TcpStream) -> io::Result<TcpStream> {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream)) else {
            client.shutdown(Shutdown::Both)?;
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        server.set_nodelay(true)?;
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            // Either side may hang up.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        Ok(server)
    }
}

/// The next request, with its body; `None` when there is none.
fn next_request(client: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut part = [0; 4096];
    loop {
        if let Some(at) = rest.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) {
            let end = at + HEAD_END.len() + body_bytes(&rest[..at]);
            if end <= rest.len() {
                return Ok(Some(rest.drain(..end).collect()));
            }
        }
        match client.read(&mut part)? {
            0 => return Ok(None),
            count => rest.extend_from_slice(&part[..count]),
        }
    }
}

/// How many bytes follow a head.
fn body_bytes(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse().ok()).unwrap_or_default()
}

/// Path and query of a request.
fn path(request: &[u8]) -> String {
    let request = String::from_utf8_lossy(request);
    request.split(' ').nth(1).unwrap_or_default().to_owned()
}
