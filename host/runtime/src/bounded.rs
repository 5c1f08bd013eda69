//! Connections to the admin server: so many at once, each for so long.
//!
//! Anybody who reaches the address may open connections and send nothing. They must not use up what
//! the daemon needs for registries and sinks, nor keep out who asks whether it is alive: one connection
//! more, and the oldest gives way.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

/// Probes and scrapers are a handful.
const CONNECTIONS_MAX: usize = 64;
/// For one request and its answer.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long a connection has before it may have to give way: an answer takes a millisecond or two.
/// So all together change 3200 times a second at most.
const CONNECTION_TIME_MIN: Duration = Duration::from_millis(20);
/// How many wait for that in the system: whoever comes last has its turn in a third of a second, and
/// probes wait for one. Of those beyond, the system hears nothing before they try again, which is
/// after a second.
const WAITING_MAX: u32 = 1024;
/// After a failure to accept, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener whose connections are bounded.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
    /// The oldest first. Those that ended are among them until the next one comes.
    open: VecDeque<Open>,
}

/// A connection, which breaks when its time is over or it has to give way.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    give_way: oneshot::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

/// What is known of a connection.
#[derive(Debug)]
struct Open {
    since: Instant,
    /// Closed when the connection has ended.
    give_way: oneshot::Sender<()>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Bounded {
    /// Listens on `address`.
    ///
    /// # Errors
    /// It is taken or not ours.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Connections of an earlier process may linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(WAITING_MAX)?;
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { listener, free, open: VecDeque::new() })
    }

    /// Makes room for one more connection.
    async fn room(&mut self) -> Option<OwnedSemaphorePermit> {
        self.open.retain(|open| !open.give_way.is_closed());
        let free = || Arc::clone(&self.free).acquire_owned();
        if self.free.available_permits() == 0
            && let Some(oldest) = self.open.front()
        {
            if let Ok(permit) = timeout_at(oldest.since + CONNECTION_TIME_MIN, free()).await {
                return permit.ok();
            }
            if let Some(oldest) = self.open.pop_front() {
                // It may have ended meanwhile.
                let _ = oldest.give_way.send(());
            }
        }
        // Nobody closes it.
        free().await.ok()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers one request on each connection, with the [`Peer`] as its `ConnectInfo`. Whoever kept one
    /// for the next request would lose that when the time of the connection is over.
    pub(crate) async fn serve(mut self, router: Router) {
        loop {
            let (connection, peer) = self.accept().await;
            let router = router.clone().layer(Extension(ConnectInfo(Peer(peer))));
            tokio::spawn(async move {
                let service = TowerToHyperService::new(router);
                let mut http = http1::Builder::new();
                let answered =
                    http.keep_alive(false).serve_connection(TokioIo::new(connection), service);
                // One that breaks, or speaks something else, has its end.
                let _ = answered.await;
            });
        }
    }

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            if let Ok((stream, peer)) = self.listener.accept().await
                && let Some(permit) = self.room().await
            {
                let over = Box::pin(sleep(CONNECTION_TIME));
                let (sender, give_way) = oneshot::channel();
                self.open.push_back(Open { since: Instant::now(), give_way: sender });
                return (Connection { stream, over, give_way, _permit: permit }, peer);
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.over.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match Pin::new(&mut self.give_way).poll(context) {
            Poll::Ready(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn answer(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_oldest_connection_gives_way() {
        let bounded = Bounded::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bounded.local_addr().unwrap();
        let free = Arc::clone(&bounded.free);
        let router = Router::new().route("/", get(async || "ok"));
        let server = tokio::spawn(bounded.serve(router));
        // They say nothing, and each that breaks comes again.
        let idle = || async move {
            loop {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _ = stream.read_u8().await;
            }
        };
        let idle: Vec<_> = (0..4 * CONNECTIONS_MAX).map(|_| tokio::spawn(idle())).collect();
        tokio::time::timeout(Duration::from_secs(5), async {
            while free.available_permits() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        for _ in 0..5 {
            let answered = tokio::time::timeout(CONNECTION_TIME / 2, answer(address)).await;
            assert!(answered.unwrap().ends_with("ok"));
        }
        assert_eq!(free.available_permits(), 0);
        idle.iter().for_each(tokio::task::JoinHandle::abort);
        server.abort();
    }
}
