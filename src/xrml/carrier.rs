//! Carriers of documents: UTF-8 and UTF-16 files, documents back to back, escaped or inline in SOAP.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::markup::{self, DEPTH_MAX, is_blank, is_space};
use super::text::{DOCUMENTS_BYTES_MAX, DOCUMENTS_MAX, Document, MARK, documents, strip_head};
use crate::error::{Error, Reason, Result};

/// Longest file, in bytes: the longest run of documents in UTF-16, and something around it.
pub const CARRIER_BYTES_MAX: usize = 20 * 1024 * 1024;

fn malformed(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentMalformed, message)
}

/// Finds the documents of a file, in their order.
///
/// # Errors
/// `LIMIT_EXCEEDED`, `DOCUMENT_MALFORMED` for an unknown encoding or broken markup, and those of [`documents`].
pub fn read(bytes: &[u8]) -> Result<Vec<Document>> {
    read_text(&decode(bytes)?)
}

/// Finds the documents of a text: back to back, or within another XML document.
///
/// # Errors
/// As [`read`].
pub fn read_text(text: &str) -> Result<Vec<Document>> {
    // Streams in compound files are filled up with NUL.
    let text = strip_head(text.trim_end_matches('\0'))?;
    match text.starts_with("<XrML") {
        true => documents(text),
        false => envelope(text),
    }
}

/// Turns the bytes of a file into text: by byte order mark, else by how its first bracket or white space is written, else
/// as UTF-8.
///
/// # Errors
/// `LIMIT_EXCEEDED`, or `DOCUMENT_MALFORMED` if the bytes are not in that encoding, a lone surrogate included.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>> {
    if bytes.len() > CARRIER_BYTES_MAX {
        let message = format!("the file has {} bytes; the bound is {CARRIER_BYTES_MAX}", bytes.len());
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    match bytes {
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [b'<' | b'\t' | b'\n' | b'\r' | b' ', 0, ..] => utf16(bytes, u16::from_le_bytes),
        [0, b'<' | b'\t' | b'\n' | b'\r' | b' ', ..] => utf16(bytes, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|e| {
        malformed(format!("the file is neither UTF-8 nor marked as UTF-16; byte {} does not fit", e.valid_up_to()))
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'static, str>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(malformed("the file is marked as UTF-16 and has an odd number of bytes"));
    }
    let characters = || char::decode_utf16(pairs.iter().map(|pair| unit(*pair)));
    // Counted first: a text that grew as it came would take more than twice what it needs.
    let length = characters().map(|decoded| decoded.map_or(0, char::len_utf8)).sum();
    let mut text = String::with_capacity(length);
    for decoded in characters() {
        text.push(decoded.map_err(|_| malformed("the file is UTF-16 with half of a surrogate pair"))?);
    }
    Ok(Cow::Owned(text))
}

/// Looks for documents in an XML envelope: inline elements, and texts that are documents once their escapes are undone. What
/// looks like a document and is none as it stands is refused: a document that is passed over could be the one that fails.
///
/// What is received of a document in an envelope is what XML hands on: line ends as LF (XML 1.0, 2.11).
fn envelope(text: &str) -> Result<Vec<Document>> {
    markup::check_characters(text)?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut around = Around::default();
    loop {
        let start = reader.buffer_position();
        let event =
            reader.read_event().map_err(|e| malformed("the markup around the documents is broken").detail(e))?;
        let rest = usize::try_from(reader.buffer_position()).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let at = usize::try_from(start).unwrap_or_default();
        match event {
            Event::Start(tag) if tag.name().as_ref() == "XrML" => {
                around.begin(true)?;
                skip(&mut reader)?;
                let end = usize::try_from(reader.buffer_position()).ok();
                let inline = end.and_then(|end| text.get(at..end)).unwrap_or_default();
                match around.texts.is_empty() || !inline.contains('\r') {
                    true => add(&mut around.found, inline)?,
                    false => add(&mut around.found, &line_feeds(inline).collect::<String>())?,
                }
            }
            Event::Start(tag) => {
                check_tag(&tag, at)?;
                around.begin(false)?;
                if around.texts.len() == DEPTH_MAX {
                    let message = format!("nesting around the documents: the bound is {DEPTH_MAX}");
                    return Err(Error::new(Reason::LimitExceeded, message));
                }
                around.texts.push(String::new());
            }
            Event::Empty(tag) => {
                check_tag(&tag, at)?;
                around.begin(false)?;
            }
            Event::End(_) => around.end()?,
            Event::Text(run) => {
                markup::check_run(&run, at)?;
                line_feeds(&run).try_for_each(|run| around.keep(run, rest))?;
            }
            Event::CData(run) => line_feeds(&run).try_for_each(|run| around.keep(run, rest))?,
            Event::GeneralRef(entity) => around.keep(character(&entity)?.encode_utf8(&mut [0; 4]), rest)?,
            Event::DocType(_) => {
                let message = "the markup around the documents has a document type definition";
                return Err(Error::new(Reason::DocumentForbidden, message));
            }
            Event::Decl(_) => {
                return Err(malformed("an XML declaration stands within the markup around the documents"));
            }
            Event::PI(instruction) if instruction.target().eq_ignore_ascii_case("xml") => {
                return Err(malformed("an instruction around the documents has a name that is XML's own"));
            }
            Event::PI(instruction) => markup::check_name(instruction.target(), at)?,
            Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    around.finish()
}

/// What is known of an envelope on the way through it.
#[derive(Default)]
struct Around {
    found: Vec<Document>,
    /// The texts of the open elements, outermost first.
    texts: Vec<String>,
    /// Whether what stands outermost is documents; none before there is anything.
    is_bare: Option<bool>,
    /// Bytes of the documents that stood as text.
    decoded: usize,
}

impl Around {
    /// Takes the begin of an element: outermost stands one envelope, or documents one after another.
    fn begin(&mut self, is_document: bool) -> Result<()> {
        if !self.texts.is_empty() {
            return Ok(());
        }
        match self.is_bare {
            None => self.is_bare = Some(is_document),
            Some(true) if is_document => {}
            Some(_) => return Err(malformed("something stands beside the documents or the one element around them")),
        }
        Ok(())
    }

    /// Adds a run to the text of the innermost element. No more can follow without a break than goes on to the next bracket.
    fn keep(&mut self, run: &str, rest: &str) -> Result<()> {
        let Some(text) = self.texts.last_mut() else {
            return match is_blank(run) {
                true => Ok(()),
                false => Err(malformed("text stands outside of the element around the documents")),
            };
        };
        if text.capacity() < text.len() + run.len() {
            text.reserve_exact(run.len() + rest.find('<').unwrap_or(rest.len()));
        }
        text.push_str(run);
        Ok(())
    }

    /// Takes the end of an element, and the documents that its text may be.
    fn end(&mut self) -> Result<()> {
        let content = self.texts.pop().unwrap_or_default();
        let content = content.trim_matches(|c| c == MARK || is_space(c));
        let content = strip_head(content)?;
        if content.starts_with("<XrML") {
            self.decoded += content.len();
            if self.decoded > DOCUMENTS_BYTES_MAX {
                let message = format!("the documents have more than {DOCUMENTS_BYTES_MAX} bytes");
                return Err(Error::new(Reason::LimitExceeded, message));
            }
            return add(&mut self.found, content);
        }
        if opens_document(content) {
            return Err(malformed("a text holds a document that does not begin it, has a prefix, or is escaped twice"));
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Document>> {
        if !self.texts.is_empty() {
            return Err(malformed("the text around the documents ends within an element"));
        }
        if self.found.is_empty() {
            return Err(Error::new(Reason::DocumentIncomplete, "the text holds no document"));
        }
        Ok(self.found)
    }
}

/// Refuses a tag that is a document's in other clothes: with a prefix, empty, or in an attribute.
fn check_tag(tag: &BytesStart<'_>, at: usize) -> Result<()> {
    if tag.local_name().as_ref() == "XrML" {
        return Err(malformed("an element XrML has a prefix or is empty"));
    }
    if opens_document(tag) {
        return Err(malformed("an attribute holds a document"));
    }
    markup::check_tag(tag, at, |entity, _| character(entity).map(|_| ()))
}

/// Whether a start tag of a document stands in a text, with any prefix, plain or escaped once more.
fn opens_document(text: &str) -> bool {
    let names = text.split('<').skip(1).chain(text.split("&lt;").skip(1));
    let mut names = names.map(|rest| rest.split(|c: char| is_space(c) || matches!(c, '<' | '>' | '/' | '&')).next());
    names.any(|name| name.is_some_and(|name| name == "XrML" || name.ends_with(":XrML")))
}

/// Reads over a document that has begun, to the end of its end tag.
fn skip(reader: &mut Reader<&[u8]>) -> Result<()> {
    let mut depth = 1;
    while depth > 0 {
        match reader.read_event().map_err(|e| malformed("a document does not end").detail(e))? {
            Event::Start(_) if depth == DEPTH_MAX => {
                return Err(Error::new(
                    Reason::LimitExceeded,
                    format!("nesting of elements: the bound is {DEPTH_MAX}"),
                ));
            }
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Eof => return Err(malformed("a document does not end")),
            _ => {}
        }
    }
    Ok(())
}

/// Around the documents, references to characters are what a SOAP stack may write.
fn character(entity: &str) -> Result<char> {
    let referred = BytesRef::new(entity).resolve_char_ref();
    match (referred.map_err(|e| malformed("a character reference is none").detail(e))?, entity) {
        (Some(c), _) => markup::check_characters(c.encode_utf8(&mut [0; 4])).map(|()| c),
        (None, "lt") => Ok('<'),
        (None, "gt") => Ok('>'),
        (None, "amp") => Ok('&'),
        (None, "apos") => Ok('\''),
        (None, "quot") => Ok('"'),
        (None, _) => {
            Err(Error::new(Reason::DocumentForbidden, "the markup around the documents has an unknown entity"))
        }
    }
}

/// A text in parts, with LF for CR LF and for CR.
fn line_feeds(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split('\r').enumerate();
    parts.flat_map(|(at, part)| match at {
        0 => ["", part],
        _ => ["\n", part.strip_prefix('\n').unwrap_or(part)],
    })
}

fn add(found: &mut Vec<Document>, text: &str) -> Result<()> {
    found.extend(documents(text).map_err(|e| e.while_doing(format!("after {} documents", found.len())))?);
    if found.len() > DOCUMENTS_MAX {
        return Err(Error::new(Reason::LimitExceeded, format!("more than {DOCUMENTS_MAX} documents")));
    }
    Ok(())
}
