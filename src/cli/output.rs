//! How commands print: aligned words for people, JSON for programs.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::audit::record::time_text;
use crate::error::{Error, Reason, Result};

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What kept standard output from being written, if anything did.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Prints, so that a terminal shows all of it and nothing else.
pub(super) fn print(words: Arguments<'_>) {
    raw(&shown(&words.to_string()));
}

/// Prints a document to the byte. A reader that has gone ends the printing and nothing else: what a command does, it does
/// to its end.
pub(super) fn raw(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(fault) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && fault.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(fault);
    }
}

/// Says something beside the output. There is nobody to tell if it cannot be said.
pub(super) fn tell(words: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_all(shown(&words.to_string()).as_bytes());
}

/// The same on a terminal in place of the last line.
pub(super) fn tell_over(words: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_fmt(format_args!("\u{1b}[1A\u{1b}[2K{}", shown(&words.to_string())));
}

/// Whether all that was printed could be written.
pub(super) fn whole() -> Result<()> {
    LOST.get().map_or(Ok(()), |fault| Err(unwritable(Path::new("standard output"), fault)))
}

/// Says what went wrong and what to do next.
pub(super) fn fault(fault: &Error) {
    // Each on a line of its own, whatever words of others it repeats.
    eprintln!("error: {} [{}]", clean(fault.message()), fault.reason().code());
    if let Some(detail) = fault.private_detail() {
        eprintln!("detail: {}", clean(detail));
    }
    next_step(fault);
}

/// Says what to do next, if there is something to say.
pub(super) fn next_step(fault: &Error) {
    if let Some(hint) = fault.next_step() {
        eprintln!("next: {}", clean(hint));
    }
}

/// Prints one object: a line for each member.
pub(super) fn object(format: Format, value: &Value) {
    match (format, value) {
        (Format::Table, Value::Object(members)) => {
            let width = members.keys().map(String::len).max().unwrap_or(0);
            for (name, value) in members {
                println!("{name:width$}  {}", clean(&word(value)));
            }
        }
        _ => println!("{value:#}"),
    }
}

/// Prints a list of objects: a line for each, under the names of the first one's members.
pub(super) fn list(format: Format, rows: &[Value]) {
    if format == Format::Json {
        println!("{:#}", Value::Array(rows.to_vec()));
        return;
    }
    let Some(Value::Object(first)) = rows.first() else {
        println!("none");
        return;
    };
    let names: Vec<&String> = first.keys().collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| names.iter().map(|name| clean(&word(&row[name.as_str()]))).collect()).collect();
    let width = |column: usize| {
        let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        longest.max(names[column].len())
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    };
    line(names.iter().map(|name| name.as_str()).collect());
    for row in &cells {
        line(row.iter().map(String::as_str).collect());
    }
}

/// A text in which nothing is left by which it could write over, reorder or hide what a terminal shows, or begin a line:
/// words of documents, records and requests are printed, and they may come from anybody.
pub(super) fn clean(text: &str) -> String {
    text.replace(is_unprintable, " ")
}

/// Lines as a terminal may have them. What it would not show is written as its code, `\u001b`, which says the same in JSON.
fn shown(lines: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c == '\n' || !is_unprintable(c);
    if lines.chars().all(is_plain) {
        return Cow::Borrowed(lines);
    }
    let mut shown = String::with_capacity(lines.len());
    for c in lines.chars() {
        match is_plain(c) {
            true => shown.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Cow::Owned(shown)
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A protocol timestamp in words, to the second.
pub(super) fn time(timestamp: Option<prost_types::Timestamp>) -> String {
    let Some(time) = timestamp else { return String::new() };
    let text = time_text(time.seconds.saturating_mul(1_000_000));
    text.replace(".000000", "")
}

/// Writes a new file. One that exists is never overwritten, and a file that could not be written whole is removed.
pub(super) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    NewFile::create(path, mode)?.finish(content)
}

/// Writes a file that may be there already: under another name first, so that whoever looks finds it whole.
pub(super) fn write_over(path: &Path, fresh: &Path, content: &[u8]) -> Result<()> {
    let written = File::create(fresh).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.and_then(|()| std::fs::rename(fresh, path)).map_err(|fault| unwritable(path, &fault))
}

/// A file that is made before what goes into it, so that nothing is spent on what cannot be kept. Removed again if it is
/// dropped before it is finished.
pub(super) struct NewFile<'a> {
    path: &'a Path,
    file: File,
    done: bool,
}

impl<'a> NewFile<'a> {
    /// Makes the file, empty. One that exists is never overwritten.
    pub(super) fn create(path: &'a Path, mode: u32) -> Result<Self> {
        let file = File::options().create_new(true).write(true).mode(mode).open(path);
        let file = file.map_err(|fault| unwritable(path, &fault))?;
        Ok(NewFile { path, file, done: false })
    }

    /// Writes the content and sees all of it to the disk.
    pub(super) fn finish(mut self, content: &[u8]) -> Result<()> {
        let written = self.file.write_all(content).and_then(|()| self.file.sync_all());
        written.map_err(|fault| unwritable(self.path, &fault))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// Reads a text file.
pub(super) fn read(path: &Path, hint: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|fault| unreadable(path, &fault, hint))
}

/// Why a file cannot be read, and what to do.
pub(super) fn unreadable(path: &Path, fault: &std::io::Error, hint: &str) -> Error {
    Error::new(Reason::InvalidArgument, format!("{} cannot be read: {fault}", path.display())).hint(hint)
}

/// Why a file cannot be written, and what to do.
pub(super) fn unwritable(path: &Path, fault: &std::io::Error) -> Error {
    let hint = match fault.kind() {
        ErrorKind::AlreadyExists => "choose another name, or remove the file yourself",
        _ => "choose a place that this user may write, with enough space",
    };
    Error::new(Reason::InvalidArgument, format!("{} cannot be written: {fault}", path.display())).hint(hint)
}
