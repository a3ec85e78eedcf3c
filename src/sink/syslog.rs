//! The log as syslog messages (RFC 5424), one for each record, to a Unix datagram socket.
//!
//! Facility `authpriv`, severity `info`, MSGID the kind of event; structured data with log, seq and the record's SHA-256;
//! the message is the record. Syslog says nothing of what became of a message: a record may be lost there, or come twice
//! after a crash of this service. How far it was sent stands in a file of its own.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::sink::{Copied, End, Sink};

/// Facility 10 (authpriv), severity 6 (informational).
const PRIORITY: u8 = 10 * 8 + 6;
/// The enterprise number that RFC 5612 keeps for documentation: Keyward has none of its own.
const SD_ID: &str = "keyward@32473";
/// Longest message with its record, in bytes; a longer one goes without it. Receivers take 8 KiB or more.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// Time that the receiver has to take a message, in seconds.
const SEND_S: u64 = 2;

/// A syslog socket.
pub struct Syslog {
    socket: PathBuf,
    sent: PathBuf,
    connection: Option<UnixDatagram>,
    end: End,
    log: String,
}

impl Syslog {
    /// The receiver's socket, and the file that keeps how far it was sent.
    #[must_use]
    pub fn new(socket: PathBuf, sent: PathBuf) -> Self {
        Syslog { socket, sent, connection: None, end: End::default(), log: String::new() }
    }

    fn unusable(&self, fault: &std::io::Error) -> Error {
        Error::new(Reason::ConfigInvalid, format!("{} takes no messages: {fault}", self.socket.display()))
    }

    fn unkept(&self, fault: &std::io::Error) -> Error {
        Error::new(Reason::ConfigInvalid, format!("{} cannot be written: {fault}", self.sent.display()))
    }
}

impl Sink for Syslog {
    fn open(&mut self, log: &str) -> Result<End> {
        let connection = UnixDatagram::unbound().map_err(|fault| self.unusable(&fault))?;
        connection.connect(&self.socket).map_err(|fault| self.unusable(&fault))?;
        connection.set_write_timeout(Some(Duration::from_secs(SEND_S))).map_err(|fault| self.unusable(&fault))?;
        self.connection = Some(connection);
        let kept = match std::fs::read_to_string(&self.sent) {
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(fault) => return Err(self.unkept(&fault)),
            Ok(kept) => kept,
        };
        // Of another log, or cut off: sent from the beginning, for twice is better than not at all.
        self.end = kept.trim_end().strip_prefix(&format!("{log} ")).and_then(sent).unwrap_or_default();
        log.clone_into(&mut self.log);
        Ok(self.end.clone())
    }

    fn copy(&mut self, record: &Copied) -> Result<()> {
        let message = message(record);
        let connection =
            self.connection.as_ref().ok_or_else(|| Error::new(Reason::Internal, "the copy is not open"))?;
        if let Err(fault) = connection.send(&message) {
            // What was sent before it is not sent again.
            self.flush()?;
            return Err(self.unusable(&fault));
        }
        self.end = End::behind(record.seq, record.sha256);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let fresh = self.sent.with_extension("new");
        let End { next, sha256 } = &self.end;
        let last = sha256.map_or_else(String::new, |sha256| format!(" {sha256}"));
        let kept = format!("{} {next}{last}\n", self.log);
        let written = self.sent.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&fresh, kept))
            .and_then(|()| std::fs::rename(&fresh, &self.sent))
            .map_err(|fault| self.unkept(&fault))
    }
}

/// How far it was sent, as the file keeps it behind the log: the first place that was not, and the hash of the record
/// before it, which earlier versions did not keep.
fn sent(kept: &str) -> Option<End> {
    let (next, sha256) = kept.split_once(' ').map_or((kept, None), |(next, sha256)| (next, Some(sha256)));
    Some(End { next: next.parse().ok()?, sha256: sha256.map(str::parse).transpose().ok()? })
}

fn message(copied: &Copied) -> Vec<u8> {
    let Copied { seq, sha256, time, kind, log, record } = copied;
    let process = std::process::id();
    let head = format!(
        "<{PRIORITY}>1 {time} - keyward {process} {kind} [{SD_ID} log=\"{log}\" seq=\"{seq}\" sha256=\"{sha256}\"]"
    );
    let mut message = head.into_bytes();
    if message.len() + 4 + record.len() <= MESSAGE_BYTES_MAX {
        message.extend_from_slice(" \u{feff}".as_bytes());
        message.extend_from_slice(record);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::ChainHash;

    fn copied(record: &str) -> Copied {
        Copied {
            seq: 7,
            sha256: ChainHash::ZERO,
            time: "2026-11-24T09:30:00.000001Z".into(),
            kind: "token-state".into(),
            log: "a-log".into(),
            record: record.into(),
        }
    }

    #[test]
    fn a_message_has_the_form_of_rfc_5424() {
        let head = format!(
            "<86>1 2026-11-24T09:30:00.000001Z - keyward {} token-state [keyward@32473 log=\"a-log\" seq=\"7\" sha256=\"{}\"]",
            std::process::id(),
            "0".repeat(64)
        );
        assert_eq!(message(&copied("{}")), format!("{head} \u{feff}{{}}").into_bytes());
        assert_eq!(
            message(&copied(&"x".repeat(MESSAGE_BYTES_MAX))),
            head.into_bytes(),
            "too long goes without the record"
        );
    }
}
