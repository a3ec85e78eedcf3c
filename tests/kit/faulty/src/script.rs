//! The script: one fault a line, `<function or *> <always or a count> <fault> [values]`; `#` starts a comment.
//!
//! `log` is no fault: it appends the function's name to the file `<script>.calls`, and the lines after it are read.
//! Faults: `return 0x30`, `delay 500` (milliseconds), `hang`, `crash`, `logout`, `close-session`, `corrupt`, `shorten` (C_Sign),
//! `flags 0x20000` (C_GetTokenInfo), `swap <id> <id>` (C_FindObjectsInit; hexadecimal), `rename` (C_GenerateKeyPair: the
//! private half gets another CKA_ID), `deny <class> <attribute> <value>` and `spoil <class> <attribute>`
//! (C_GetAttributeValue of objects of this class that asks for this attribute; numbers, hexadecimal). A counted fault
//! happens that often over all processes: each time takes a marker file beside the script.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Return(u64),
    Delay(Duration),
    Hang,
    Crash,
    Logout,
    CloseSession,
    Corrupt,
    Shorten,
    Flags(u64),
    Swap(Vec<u8>, Vec<u8>),
    Rename,
    Deny(Seen, u64),
    Spoil(Seen),
}

/// An attribute of objects of one class, by their numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) class: u64,
    pub(crate) attribute: u64,
}

/// The fault that is due at this call, if one is. Taking a counted one uses it up.
pub(crate) fn due(function: &str) -> Option<Fault> {
    let path = PathBuf::from(std::env::var_os("FAULTY_SCRIPT")?);
    let script = fs::read_to_string(&path).ok()?;
    for (number, line) in script.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let [name, times, rest @ ..] = words.as_slice() else { continue };
        if *name != "*" && *name != function {
            continue;
        }
        if rest == ["log"] {
            log(&path, function);
            continue;
        }
        let fault = parse(rest);
        if *times == "always" || is_left(&path, number, times.parse().expect("a count")) {
            return Some(fault);
        }
    }
    None
}

/// One line for this call; a line is written at once, so those of several threads do not mix.
fn log(script: &Path, function: &str) {
    let file = fs::OpenOptions::new().append(true).create(true).open(script.with_extension("calls"));
    file.and_then(|mut file| file.write_all(format!("{function}\n").as_bytes())).expect("the log of calls");
}

/// Whether one of the counted times is left; takes it.
fn is_left(script: &Path, line: usize, times: usize) -> bool {
    (0..times).any(|n| {
        let marker = script.with_extension(format!("line{line}.{n}"));
        fs::OpenOptions::new().write(true).create_new(true).open(marker).is_ok()
    })
}

fn parse(words: &[&str]) -> Fault {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number");
    let bytes = |text: &str| {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal bytes")).collect()
    };
    match words {
        ["return", value] => Fault::Return(number(value)),
        ["delay", ms] => Fault::Delay(Duration::from_millis(ms.parse().expect("milliseconds"))),
        ["hang"] => Fault::Hang,
        ["crash"] => Fault::Crash,
        ["logout"] => Fault::Logout,
        ["close-session"] => Fault::CloseSession,
        ["corrupt"] => Fault::Corrupt,
        ["shorten"] => Fault::Shorten,
        ["flags", value] => Fault::Flags(number(value)),
        ["swap", asked, given] => Fault::Swap(bytes(asked), bytes(given)),
        ["rename"] => Fault::Rename,
        ["deny", class, attribute, value] => {
            Fault::Deny(Seen { class: number(class), attribute: number(attribute) }, number(value))
        }
        ["spoil", class, attribute] => Fault::Spoil(Seen { class: number(class), attribute: number(attribute) }),
        other => panic!("the script has no fault {other:?}"),
    }
}
