//! Received text, kept whole: one BODY, one document, or several back to back. Parsing is a view of it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::markup::{self, Element, Node, incomplete, is_blank, is_space};
use crate::error::{Error, Reason, Result};

/// Longest document, in bytes of UTF-8 (MS-RMPR 3.1.3.3: an issuance license has at most 8 MiB).
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most documents in one text. The longest real run, a protected Office file, has eight.
pub const DOCUMENTS_MAX: usize = 64;
/// Longest text of several documents, in bytes of UTF-8: the longest license and a chain of ordinary size.
pub const DOCUMENTS_BYTES_MAX: usize = 9 * 1024 * 1024;

struct Parsed {
    text: String,
    nodes: Vec<Node>,
}

impl Parsed {
    fn read(text: &str) -> Result<Parsed> {
        if text.len() > DOCUMENT_BYTES_MAX {
            let message = format!("the document has {} bytes; the bound is {DOCUMENT_BYTES_MAX}", text.len());
            return Err(Error::new(Reason::LimitExceeded, message));
        }
        let nodes = markup::parse(text, markup::check_document_tag)?;
        Ok(Parsed { text: text.to_owned(), nodes })
    }

    fn element(&self, at: usize) -> Element<'_> {
        Element::new(&self.text, &self.nodes, at)
    }

    /// The signed text is found twice, by scanning characters as other implementations do and by the parser, and both
    /// must give the same single BODY: whatever is hidden from one of them is refused. XrML, BODY and SIGNATURE stand
    /// at `places` (indices of elements) and nowhere else.
    fn check_single_body(&self, body: Element<'_>, places: &[usize]) -> Result<()> {
        let second = |what: &str| {
            Error::new(Reason::DocumentForbidden, format!("the document has a second {what}"))
                .hint("Send one license in one document; the signed text must be beyond doubt")
        };
        let mut elements = (0..self.nodes.len()).map(|at| self.element(at));
        let stray = |e: &Element<'_>| matches!(e.name(), "XrML" | "BODY" | "SIGNATURE") && !places.contains(&e.index());
        if let Some(element) = elements.find(stray) {
            return Err(second(element.name()));
        }
        let mut starts = self.text.match_indices("<BODY");
        let mut ends = self.text.match_indices("</BODY");
        let (start, end) = (starts.next(), ends.next());
        if starts.next().is_some() || ends.next().is_some() {
            return Err(second("BODY"));
        }
        let scanned = start.zip(end).and_then(|((start, _), (end, tag))| self.text.get(start..end + tag.len() + 1));
        if scanned != Some(body.outer()) {
            return Err(incomplete("BODY is empty, or its end tag is not written </BODY>"));
        }
        Ok(())
    }
}

/// The received text of one BODY: what is hashed and signed, never written anew. Cheap to clone.
#[derive(Clone)]
pub struct Body {
    parsed: Arc<Parsed>,
    at: usize,
}

impl Body {
    /// Takes exactly one `<BODY …>…</BODY>` with nothing around it.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED`, `DOCUMENT_MALFORMED`, `DOCUMENT_FORBIDDEN_MARKUP` (comment, CDATA, processing instruction, DTD,
    /// foreign entity, second BODY), or `DOCUMENT_INCOMPLETE` if the element is not a BODY.
    pub fn read(text: &str) -> Result<Body> {
        let parsed = Parsed::read(text)?;
        let root = parsed.element(0);
        if root.name() != "BODY" {
            return Err(incomplete(format!("the text is one {}, not one BODY", root.name()))
                .hint("Send the text from <BODY to </BODY> and nothing around it"));
        }
        parsed.check_single_body(root, &[0])?;
        Ok(Body { parsed: Arc::new(parsed), at: 0 })
    }

    /// The text from `<BODY` to `</BODY>`, as received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.element().outer()
    }

    /// The BODY element.
    #[must_use]
    pub fn element(&self) -> Element<'_> {
        self.parsed.element(self.at)
    }

    /// Refuses a text that XML software turns into another, so that its signature would not hold where it is to be used: CR
    /// anywhere, a line end or tab in an attribute (XML 1.0, 2.11 and 3.3.3), and white space that stands alone between two
    /// tags, which much software drops.
    ///
    /// # Errors
    /// `DOCUMENT_FORBIDDEN_MARKUP`, naming the element.
    pub fn check_stable(&self) -> Result<()> {
        let unstable = |message: String| {
            Error::new(Reason::DocumentForbidden, message + ", which does not survive XML software")
                .hint("Write line ends as LF, none in attributes, and no white space between tags")
        };
        if let Some(at) = self.as_str().find('\r') {
            return Err(unstable(format!("a carriage return stands in the text, at byte {at}")));
        }
        // Looking for what could be meant at all is much faster than looking where it stands, and most texts have none.
        let bytes = self.as_str().as_bytes();
        let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
        let is_suspect = |(one, next): (&u8, &u8)| matches!(one, b'\t' | b'\n') | ((*one == b'>') & (*next == b' '));
        if !pairs.fold(false, |found, pair| found | is_suspect(pair)) {
            return Ok(());
        }
        let root = self.element();
        let all = (root.index()..root.after()).map(|at| self.parsed.element(at));
        for element in all {
            let mut runs = element.runs();
            let what = match () {
                () if element.has_spaced_attribute() => "a line end or tab in an attribute",
                () if runs.any(|run| !run.is_empty() && is_blank(run)) => "nothing but white space between two tags",
                () => continue,
            };
            return Err(unstable(format!("{} has {what}", element.name())));
        }
        Ok(())
    }

    /// The attribute `type`, empty if there is none: `LICENSE` or one of the label and template types.
    #[must_use]
    pub fn kind(&self) -> Cow<'_, str> {
        self.element().attribute("type").unwrap_or_default()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?}, {} bytes)", self.kind(), self.as_str().len())
    }
}

/// One complete `<XrML …><BODY>…</BODY><SIGNATURE>…</SIGNATURE></XrML>` as received. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Document {
    body: Body,
    signature: Option<usize>,
}

impl Document {
    /// Takes exactly one signed document with nothing around it. White space between BODY and SIGNATURE is allowed.
    ///
    /// # Errors
    /// As [`Body::read`]; `DOCUMENT_INCOMPLETE` also for a missing SIGNATURE or any other child of XrML.
    pub fn read(text: &str) -> Result<Document> {
        let document = Document::read_unsigned(text)?;
        document.signature()?;
        Ok(document)
    }

    /// Takes one document whose SIGNATURE may be missing: rights data, and a publishing license before it is signed.
    ///
    /// # Errors
    /// As [`Document::read`].
    pub fn read_unsigned(text: &str) -> Result<Document> {
        let parsed = Arc::new(Parsed::read(text)?);
        let root = parsed.element(0);
        if root.name() != "XrML" {
            return Err(incomplete(format!("the document is a {}, not an XrML", root.name())));
        }
        let mut children = root.children();
        let body = children.next().filter(|child| child.name() == "BODY");
        let body = body.ok_or_else(|| incomplete("XrML does not begin with BODY"))?;
        let signature = children.next();
        if let Some(other) = signature.filter(|child| child.name() != "SIGNATURE").or(children.next()) {
            return Err(incomplete(format!(
                "XrML holds {} after its BODY; only one SIGNATURE may follow",
                other.name()
            )));
        }
        if !root.runs().all(is_blank) {
            return Err(incomplete("XrML holds text beside its BODY and SIGNATURE"));
        }
        let (at, signature) = (body.index(), signature.map(Element::index));
        parsed.check_single_body(body, &[0, at, signature.unwrap_or(at)])?;
        Ok(Document { body: Body { parsed: Arc::clone(&parsed), at }, signature })
    }

    /// The whole document, as received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.body.parsed.text
    }

    /// Its BODY.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Its root element.
    #[must_use]
    pub fn root(&self) -> Element<'_> {
        self.body.parsed.element(0)
    }

    /// Its SIGNATURE element.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if it has none.
    pub fn signature(&self) -> Result<Element<'_>> {
        let at = self.signature.ok_or_else(|| incomplete("the document has no SIGNATURE"))?;
        Ok(self.body.parsed.element(at))
    }
}

/// A byte order mark, which some writers put before every text.
pub(super) const MARK: char = '\u{FEFF}';

/// Takes off what a file may begin with before its document, and a text that was put together of files before each: white
/// space, a byte order mark, and an XML declaration. Its encoding must be one that was tried; which one it was, the bytes
/// have told.
pub(super) fn strip_head(text: &str) -> Result<&str> {
    let malformed = |message: &str| Error::new(Reason::DocumentMalformed, message);
    let text = text.trim_start_matches(|c| c == MARK || is_space(c));
    let Some(declared) = text.strip_prefix("<?xml").filter(|rest| rest.starts_with(is_space)) else {
        return Ok(text);
    };
    let (declaration, rest) = declared.split_once("?>").ok_or_else(|| malformed("the XML declaration does not end"))?;
    if let Some((_, value)) = declaration.split_once("encoding") {
        let name = value.split(['"', '\'']).nth(1).unwrap_or_default().to_ascii_lowercase();
        if !["utf-8", "utf-16", "utf-16le", "utf-16be", "us-ascii", "unicode"].contains(&name.as_str()) {
            return Err(malformed("the file declares an encoding other than UTF-8 and UTF-16")
                .hint("Convert the file to UTF-8 and declare that"));
        }
    }
    Ok(rest.trim_start_matches(|c| c == MARK || is_space(c)))
}

/// Takes the documents that stand back to back in a text, with nothing but what files begin with between them. A SIGNATURE
/// may be missing.
///
/// # Errors
/// As [`Document::read`], with the number of the document in the message; `DOCUMENT_INCOMPLETE` if there is none.
pub fn documents(text: &str) -> Result<Vec<Document>> {
    if text.len() > DOCUMENTS_BYTES_MAX {
        let message = format!("the documents have {} bytes; the bound is {DOCUMENTS_BYTES_MAX}", text.len());
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    let mut found = Vec::new();
    let mut rest = strip_head(text)?.trim_end_matches(is_space);
    while !rest.is_empty() {
        if found.len() == DOCUMENTS_MAX {
            return Err(Error::new(Reason::LimitExceeded, format!("more than {DOCUMENTS_MAX} documents")));
        }
        // Comments and CDATA are refused and attributes hold no '<', so the first end tag of that name is the end.
        let end = rest.find("</XrML").and_then(|at| Some(at + rest[at..].find('>')? + 1)).unwrap_or(rest.len());
        let document = Document::read_unsigned(&rest[..end]);
        found.push(document.map_err(|e| e.while_doing(format!("document {}", found.len() + 1)))?);
        rest = strip_head(&rest[end..])?;
    }
    if found.is_empty() {
        return Err(incomplete("the text holds no document"));
    }
    Ok(found)
}
