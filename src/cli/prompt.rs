//! Asks a person for a PIN, on the terminal, without showing it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

/// Asks for the PIN of a token.
///
/// # Errors
/// `PIN_SOURCE` if there is no terminal, or nothing was typed.
pub(super) fn pin(token: &str) -> Result<Pin> {
    let fault = |what: String| {
        Error::new(Reason::PinSource, format!("the PIN of token {token} is typed by a person, and {what}"))
            .hint("run this command on a terminal, or name a file: pin = { file = \"…\" }")
    };
    let no_terminal = |cause: std::io::Error| fault(format!("there is no terminal ({cause})"));
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    write!(terminal, "PIN of token {token}: ").map_err(no_terminal)?;
    let mut typed = Zeroizing::new(String::new());
    {
        let _silent = Silent::begin(&terminal).map_err(no_terminal)?;
        BufReader::new(&terminal).read_line(&mut typed).map_err(no_terminal)?;
    }
    let _ = writeln!(terminal);
    match typed.trim_end_matches(['\r', '\n']) {
        "" => Err(fault("nothing was typed".to_owned())),
        pin => Ok(Pin::new(pin.to_owned())),
    }
}

/// A terminal that does not show what is typed, as long as this lives.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn begin(terminal: &'a File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Silent { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
