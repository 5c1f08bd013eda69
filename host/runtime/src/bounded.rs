//! Connections to the admin server: so many at once, each for so long.
//!
//! Anybody who reaches the address may open connections and send nothing. They must not use up what
//! the daemon needs for registries and sinks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Probes and scrapers are a handful.
const CONNECTIONS_MAX: usize = 64;
/// Whoever keeps a connection for its next request makes a new one then.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// After a failure to accept, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener whose connections are bounded. Who comes beyond waits.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    open: Arc<Semaphore>,
}

/// A connection, which breaks when its time is over.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Bounded {
    /// Bounds the connections of `listener`.
    #[must_use]
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, open: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Nobody closes it.
            let permit = Arc::clone(&self.open).acquire_owned().await;
            if let (Ok(permit), Ok((stream, peer))) = (permit, self.listener.accept().await) {
                let over = Box::pin(sleep(CONNECTION_TIME));
                return (Connection { stream, over, _permit: permit }, peer);
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.over.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
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
