//! The way to a software TPM that listens on Unix sockets alone.
//!
//! The TSS can go there (`swtpm:path=`), but the binding to it writes a host and a port into every TCTI of a swtpm. So for
//! as long as the connection to the TPM is there, this process listens on two neighbouring ports of the loopback interface
//! and carries what comes to the two sockets. It lets in nobody but its own user: the files' modes would otherwise mean
//! nothing.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

/// Pairs of ports that are tried before it is given up.
const PAIRS_MAX: u32 = 100;
/// How long it waits after a connection that could not be taken: with no descriptor left, the next cannot be either.
const PAUSE: Duration = Duration::from_millis(100);

/// Two open ports, for commands and for the control of the TPM. Closed when this is dropped.
pub(super) struct Loopback {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl Loopback {
    /// Begins to listen for the TPM whose command socket has this path; that of its control channel ends in `.ctrl`, as
    /// the TSS has it.
    ///
    /// # Errors
    /// That of connecting to one of the sockets; that of listening.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let control = PathBuf::from(format!("{}.ctrl", path.display()));
        for socket in [path, &control] {
            let named = |fault: io::Error| io::Error::new(fault.kind(), format!("{}: {fault}", socket.display()));
            UnixStream::connect(socket).map_err(named)?;
        }
        let [commands, controls] = neighbours()?;
        let port = commands.local_addr()?.port();
        let loopback = Loopback { port, closed: Arc::default() };
        for (listener, socket) in [(commands, path.to_owned()), (controls, control)] {
            let closed = Arc::clone(&loopback.closed);
            thread::Builder::new().name("tpm-loopback".into()).spawn(move || listen(&listener, &socket, &closed))?;
        }
        Ok(loopback)
    }

    /// How the TSS reaches the TPM by it.
    pub(super) fn tcti(&self) -> String {
        format!("swtpm:host={},port={}", Ipv4Addr::LOCALHOST, self.port)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // So that the threads look.
        for port in [self.port, self.port + 1] {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// Listeners on a port and on the one after it, where the TSS looks for the control channel.
fn neighbours() -> io::Result<[TcpListener; 2]> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PAIRS_MAX {
        let first = bind(0)?;
        match first.local_addr()?.port().checked_add(1).map(bind) {
            Some(Ok(second)) => return Ok([first, second]),
            Some(Err(fault)) => last = fault,
            None => {}
        }
    }
    Err(last)
}

/// Carries one connection after the other, as a software TPM serves them.
fn listen(listener: &TcpListener, socket: &Path, closed: &AtomicBool) {
    for stream in listener.incoming() {
        if closed.load(Ordering::Acquire) {
            return;
        }
        if stream.is_err() {
            thread::sleep(PAUSE);
        }
        // A connection that cannot be carried is closed: the TSS tells that the TPM is away.
        let carried = stream.and_then(|stream| if is_own(&stream)? { carry(&stream, socket) } else { Ok(()) });
        if let Err(fault) = carried {
            tracing::debug!(%fault, socket = %socket.display(), "a connection to the TPM ended");
        }
    }
}

/// Whether the other end is a socket of the user that this process runs as.
fn is_own(stream: &TcpStream) -> io::Result<bool> {
    let ends = [stream.peer_addr()?, stream.local_addr()?];
    Ok(is_of(rustix::process::geteuid().as_raw(), ends, &fs::read_to_string("/proc/net/tcp")?))
}

/// Whether the table of connections (proc(5), /proc/net/tcp) has one between these ends that belongs to this user.
fn is_of(user: u32, ends: [SocketAddr; 2], table: &str) -> bool {
    let written = ends.map(|end| match end {
        SocketAddr::V4(end) => format!("{:08X}:{:04X}", u32::from_ne_bytes(end.ip().octets()), end.port()),
        SocketAddr::V6(_) => String::new(),
    });
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        written.iter().all(|end| fields.next() == Some(end)) && fields.nth(4) == Some(&user.to_string())
    })
}

/// Carries bytes both ways until one side ends.
fn carry(stream: &TcpStream, socket: &Path) -> io::Result<()> {
    let tpm = UnixStream::connect(socket)?;
    stream.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*stream, &mut &tpm);
            let _ = tpm.shutdown(Shutdown::Both);
        });
        let answered = io::copy(&mut &tpm, &mut &*stream).map(drop);
        let _ = stream.shutdown(Shutdown::Both);
        answered
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_of_the_user_whose_socket_stands_at_its_other_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:0911 0100007F:D431 01 00000000:00000000 00:00000000 00000000     7        0 51 1\n   \
                     1: 0100007F:D431 0100007F:0911 01 00000000:00000000 00:00000000 00000000  1000        0 52 1\n";
        let (theirs, ours) = (SocketAddr::from(([127, 0, 0, 1], 54321)), SocketAddr::from(([127, 0, 0, 1], 2321)));
        assert!(is_of(1000, [theirs, ours], table));
        assert!(!is_of(7, [theirs, ours], table));
        assert!(!is_of(100, [theirs, ours], table));
        assert!(!is_of(1000, [SocketAddr::from(([127, 0, 0, 1], 54322)), ours], table));
    }
}
