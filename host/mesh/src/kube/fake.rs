//! An API server that answers as a test says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The server's port, and what it was asked.
pub(super) struct Fake {
    pub(super) port: u16,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Method and path in lower case, without what follows a question mark.
    requests: Vec<String>,
    under_way: usize,
    peak: usize,
}

/// An answer.
#[derive(Clone)]
pub(super) struct Says {
    pub(super) status: u16,
    /// A header besides the usual ones, with its line break, or nothing.
    pub(super) header: &'static str,
    pub(super) text: String,
    /// Whether more may come, as in a watch; none does.
    pub(super) goes_on: bool,
}

/// How a request is answered: by method and path with what follows it, and the body.
type Answers = dyn Fn(&str, &[u8]) -> Says + Send + Sync;

/// A client of the server on this port.
pub(super) fn client(port: u16) -> kube::Client {
    let config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
    super::client_of(config).unwrap()
}

// === impl Says ===

impl Says {
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self { status, header: "", text: text.to_owned(), goes_on: false }
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, &value.to_string())
    }
}

// === impl Fake ===

impl Fake {
    /// Takes `pause` for each answer.
    pub(super) async fn start(
        pause: Duration,
        answers: impl Fn(&str, &[u8]) -> Says + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (answers, noted): (Arc<Answers>, _) = (Arc::new(answers), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, pause, Arc::clone(&answers), Arc::clone(&noted)));
            }
        });
        Self { port, seen }
    }

    /// All requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// How many were under way at once, at most.
    pub(super) fn peak(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).peak
    }
}

async fn serve(
    mut stream: TcpStream,
    pause: Duration,
    answers: Arc<Answers>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut read = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut read).await {
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(line.split('?').next().unwrap().to_owned());
            seen.under_way += 1;
            seen.peak = seen.peak.max(seen.under_way);
        }
        tokio::time::sleep(pause).await;
        let Says { status, header, text, goes_on } = answers(&line, &body);
        seen.lock().unwrap().under_way -= 1;
        let extent = match goes_on {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {}", text.len()),
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extent}\r\n{header}\r\n{text}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// The next request's head and body.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end])
                .to_lowercase()
                .replace(" http/1.1", " HTTP/1.1");
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let len: usize = len.map_or(0, |len| len.trim().parse().unwrap());
            if read.len() >= end + 4 + len {
                let body = read[end + 4..end + 4 + len].to_vec();
                read.drain(..end + 4 + len);
                return Some((head, body));
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => read.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}
