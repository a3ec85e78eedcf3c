//! Connections on their way in: at most so many of one listener are open at a time, whatever comes.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Open connections of nodes, where the process may have enough files.
const NODES_MAX: u64 = 512;
/// Open connections of nodes that join, likewise.
const JOINERS_MAX: u64 = 64;
/// Open connections of operators. Always kept free of the others' reach.
const OPERATORS_MAX: u64 = 16;
/// Files that everything but connections has open: store, token, listeners, standard streams. About 25 were counted.
const OWN_FILES: u64 = 40;
/// Pause after a connection could not be accepted, in milliseconds: what it lacks does not come back at once.
const PAUSE_MS: u64 = 100;

/// How many connections each listener may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) nodes: usize,
    pub(super) joiners: usize,
    pub(super) operators: usize,
}

impl Room {
    /// The bounds under the limit of open files that this process has.
    pub(super) fn here() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let room = Room::within(files.unwrap_or(u64::MAX));
        if (room.nodes as u64) < NODES_MAX {
            tracing::warn!(files, room.nodes, room.joiners, "the limit of open files leaves room for few connections");
        }
        room
    }

    fn within(files: u64) -> Self {
        let left = files.saturating_sub(OWN_FILES + OPERATORS_MAX);
        let bound = |share: u64, most: u64| usize::try_from(share.clamp(1, most)).unwrap_or(1);
        Room {
            nodes: bound(left / 4 * 3, NODES_MAX),
            joiners: bound(left / 4, JOINERS_MAX),
            operators: bound(OPERATORS_MAX, OPERATORS_MAX),
        }
    }
}

/// A listener of stream connections.
pub(super) trait Listener: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
    /// Where a connection comes from, if from a network.
    fn peer(io: &Self::Io) -> Option<IpAddr>;
}

/// Who is told of a connection that ended within its handshake.
pub(super) type Tell = Arc<dyn Fn(IpAddr) + Send + Sync>;

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn peer(io: &TcpStream) -> Option<IpAddr> {
        io.peer_addr().ok().map(|address| address.ip())
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }

    fn peer(_io: &UnixStream) -> Option<IpAddr> {
        None
    }
}

/// Accepts connections while fewer than `most` are open; others wait in the kernel, without a file of this process.
/// Ends, and closes the listener, when what it gives is dropped.
pub(super) fn bounded<L: Listener>(
    listener: L,
    most: usize,
    tell: Option<Tell>,
) -> ReceiverStream<io::Result<Held<L::Io>>> {
    let (send, receive) = mpsc::channel(1);
    let room = Arc::new(Semaphore::new(most));
    tokio::spawn(async move {
        let next = async || {
            // The semaphore is never closed.
            let place = room.clone().acquire_owned().await.map_err(io::Error::other)?;
            let io = listener.accept().await?;
            let handshake =
                Handshake { heard: false, done: AtomicBool::new(false), tell: tell.clone().zip(L::peer(&io)) };
            Ok::<_, io::Error>(Held { io, handshake, _place: place })
        };
        loop {
            let accepted = tokio::select! {
                accepted = next() => accepted,
                () = send.closed() => return,
            };
            match accepted {
                Ok(held) => drop(send.send(Ok(held)).await),
                Err(fault) => {
                    tracing::warn!(%fault, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                }
            }
        }
    });
    ReceiverStream::new(receive)
}

/// A connection and its place among those that may be open.
pub(super) struct Held<I> {
    // Dropped first: who sees the connection closed may count on it.
    handshake: Handshake,
    io: I,
    _place: OwnedSemaphorePermit,
}

/// How far a connection came. Dropped before requests could be made on it, it is told of; but not if nothing was ever sent
/// on it: so do those who only look whether somebody listens.
struct Handshake {
    heard: bool,
    done: AtomicBool,
    tell: Option<(Tell, IpAddr)>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if let (true, false, Some((tell, peer))) = (self.heard, *self.done.get_mut(), &self.tell) {
            tell(*peer);
        }
    }
}

impl<I: Connected> Connected for Held<I> {
    type ConnectInfo = I::ConnectInfo;

    /// Asked for once the handshake is done.
    fn connect_info(&self) -> I::ConnectInfo {
        self.handshake.done.store(true, Ordering::Relaxed);
        self.io.connect_info()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Held<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.handshake.heard |= buf.filled().len() > before;
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Held<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_leave_the_files_that_everything_else_needs() {
        for files in [64, 256, 1024, 1_048_576] {
            let Room { nodes, joiners, operators } = Room::within(files);
            assert!(nodes > 0 && joiners > 0 && operators > 0);
            assert!((nodes + joiners + operators) as u64 + OWN_FILES <= files, "{files}");
        }
        assert_eq!(Room::within(1024).nodes, 512);
    }
}
