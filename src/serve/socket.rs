//! The operator's socket, and its file while this process listens on it.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::config::Config;
use crate::error::{Error, Reason, Result};

/// How long whoever listens on the operator's socket may take to accept, in seconds.
const PROBE_S: u64 = 2;

/// Opens the operator's socket. One that an earlier run left behind, on which nobody answers, is replaced; anything else
/// that stands in its place is left alone.
pub(super) async fn open(config: &Config) -> Result<(UnixListener, SocketFile)> {
    let path = config.path(&config.file.operator.socket);
    let elsewhere = "set operator.socket to a name that is free";
    let fault = |fault: std::io::Error| {
        Error::new(Reason::ConfigInvalid, format!("cannot listen on {}: {fault}", path.display())).hint(elsewhere)
    };
    match std::fs::symlink_metadata(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(fault(cause)),
        Ok(found) if found.file_type().is_socket() => {
            let answer = tokio::time::timeout(Duration::from_secs(PROBE_S), UnixStream::connect(&path)).await;
            let nobody = matches!(answer, Ok(Err(cause)) if cause.kind() == std::io::ErrorKind::ConnectionRefused);
            if !nobody {
                let words = format!("another process listens on {}", path.display());
                return Err(Error::new(Reason::AddressInUse, words).hint(format!("stop that process, or {elsewhere}")));
            }
            std::fs::remove_file(&path).map_err(fault)?;
        }
        Ok(_) => {
            let words = format!("operator.socket: {} exists and is no socket; it is left as it is", path.display());
            return Err(Error::new(Reason::ConfigInvalid, words).hint(elsewhere));
        }
    }
    let socket = UnixListener::bind(&path).map_err(fault)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
    let made = std::fs::symlink_metadata(&path).map_err(fault)?;
    Ok((socket, SocketFile { inode: (made.dev(), made.ino()), path }))
}

/// The file of a socket that this process listens on: removed when this is dropped, if it is still that file.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
