//! Strict markup: the rules of well-formedness that a reader leaves to its caller, and elements as offsets into the text.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::error::{Error, Reason, Result};

/// Deepest nesting of elements. The deepest real path, a client licensor certificate's sealed key, has eleven.
pub const DEPTH_MAX: usize = 32;
/// Most elements of one document.
pub const ELEMENTS_MAX: usize = 1 << 18;
/// Most attributes of one element. Real ones have at most three.
pub const ATTRIBUTES_MAX: usize = 16;
/// Longest name of an element or attribute, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest attribute value as written, in bytes of UTF-8.
pub const ATTRIBUTE_BYTES_MAX: usize = 8192;

/// One element: `text[start..end]`, in bytes of UTF-8. Where its parts are is looked up when they are asked for: an element
/// can be four bytes short, and what is kept of a text must stay in proportion to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    start: u32,
    end: u32,
}

/// Bytes that are kept of each element beside its text.
pub(super) const NODE_BYTES: usize = size_of::<Node>();
/// Bytes of the shortest element, `<A/>`.
const SHORTEST: usize = 4;

/// One element of a checked text.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    text: &'a str,
    nodes: &'a [Node],
    at: usize,
}

impl<'a> Element<'a> {
    pub(super) fn new(text: &'a str, nodes: &'a [Node], at: usize) -> Self {
        Element { text, nodes, at }
    }

    fn node(self) -> Node {
        self.nodes[self.at]
    }

    /// Index among the document's elements, in the order of their start tags.
    pub(super) fn index(self) -> usize {
        self.at
    }

    /// The tag between its brackets, without the slash of an empty element: name and attributes.
    fn tag(self) -> &'a str {
        let outer = self.outer();
        let tag = &outer[1..tag_end(outer) - 1];
        tag.strip_suffix('/').unwrap_or(tag)
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'a str {
        let tag = &self.outer()[1..];
        &tag[..tag.bytes().position(ends_name).unwrap_or(tag.len())]
    }

    fn is_named(self, name: &str) -> bool {
        let rest = self.outer()[1..].strip_prefix(name);
        rest.is_some_and(|rest| rest.bytes().next().is_none_or(ends_name))
    }

    /// The whole element as received, tags included.
    #[must_use]
    pub fn outer(self) -> &'a str {
        let node = self.node();
        &self.text[node.start as usize..node.end as usize]
    }

    /// What stands between its tags, as received.
    #[must_use]
    pub fn inner(self) -> &'a str {
        let outer = self.outer();
        let content = tag_end(outer);
        // The last bracket opens the end tag, if there is one.
        &outer[content..outer.rfind('<').unwrap_or(0).max(content).min(outer.len())]
    }

    /// The attributes in their order: name and value as written, entities not replaced.
    fn attributes(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let after_name = 1 + self.name().len();
        let outer = self.outer();
        // Most tags are a name and nothing else.
        let tag = if outer[after_name..].starts_with('>') { "" } else { &self.tag()[after_name - 1..] };
        // The text was checked when it was parsed, so nothing here can fail.
        Attributes(tag).filter_map(Result::ok)
    }

    /// The names of its attributes, in their order.
    pub(super) fn attribute_names(self) -> impl Iterator<Item = &'a str> {
        self.attributes().map(|(name, _)| name)
    }

    /// Whether one of its attributes holds a line feed or a tab.
    pub(super) fn has_spaced_attribute(self) -> bool {
        self.attributes().any(|(_, value)| value.contains(['\t', '\n']))
    }

    /// The value of an attribute.
    #[must_use]
    pub fn attribute(self, name: &str) -> Option<Cow<'a, str>> {
        self.attributes().find(|(n, _)| *n == name).map(|(_, value)| unescape(value))
    }

    /// The value of an attribute that must be there.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`.
    pub fn required_attribute(self, name: &str) -> Result<Cow<'a, str>> {
        self.attribute(name).ok_or_else(|| incomplete(format!("{} has no attribute {name}", self.name())))
    }

    /// The elements directly below, in their order.
    pub fn children(self) -> impl Iterator<Item = Element<'a>> + Clone {
        let end = self.node().end;
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let child = Element { at, ..self };
            if self.nodes.get(at)?.start >= end {
                return None;
            }
            at = child.after();
            Some(child)
        })
    }

    /// Index of the first element after this one and all that it holds: most hold few, so the steps grow.
    pub(super) fn after(self) -> usize {
        let is_within = |node: &Node| node.start < self.node().end;
        let (mut low, mut step) = (self.at + 1, 1);
        while self.nodes.get(low + step - 1).is_some_and(is_within) {
            low += step;
            step *= 2;
        }
        let high = (low + step - 1).min(self.nodes.len());
        low + self.nodes[low..high].partition_point(is_within)
    }

    /// The children of a name, in their order.
    pub fn all(self, name: &str) -> impl Iterator<Item = Element<'a>> + Clone {
        self.children().filter(move |child| child.is_named(name))
    }

    /// The child of a name, if there is one.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if there is more than one: two answers to one question are none.
    pub fn optional(self, name: &str) -> Result<Option<Element<'a>>> {
        let mut found = self.all(name);
        let first = found.next();
        if found.next().is_some() {
            return Err(incomplete(format!("{} has more than one {name}", self.name())));
        }
        Ok(first)
    }

    /// The child of a name.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if there is none or more than one.
    pub fn required(self, name: &str) -> Result<Element<'a>> {
        self.optional(name)?.ok_or_else(|| incomplete(format!("{} has no {name}", self.name())))
    }

    /// The runs of text directly below, as received: before, between and after its children.
    pub(super) fn runs(self) -> impl Iterator<Item = &'a str> + Clone {
        let (inner, first) = (self.inner(), self.node().start as usize + tag_end(self.outer()));
        let place = move |at: u32| at as usize - first;
        let starts = std::iter::once(0).chain(self.children().map(move |child| place(child.node().end)));
        let ends = self.children().map(move |child| place(child.node().start)).chain(std::iter::once(inner.len()));
        starts.zip(ends).map(move |(start, end)| &inner[start..end])
    }

    /// The text of an element that holds no others, entities replaced.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if it holds elements.
    pub fn content(self) -> Result<Cow<'a, str>> {
        if self.after() != self.at + 1 {
            return Err(incomplete(format!("{} holds elements where it must hold text", self.name())));
        }
        Ok(unescape(self.inner()))
    }
}

/// Whether a byte of a checked tag stands behind its name.
fn ends_name(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'>' | b'/')
}

/// The length of the start tag that an element begins with.
fn tag_end(outer: &str) -> usize {
    let mut bytes = outer.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'>' => return at + 1,
            // What is quoted may hold a bracket.
            b'"' | b'\'' => drop(bytes.find(|(_, other)| *other == byte)),
            _ => {}
        }
    }
    outer.len()
}

/// Reads some elements into a vector that has no room to spare.
///
/// # Errors
/// The first that `read` gives.
pub(super) fn read_each<'a, T>(
    elements: impl Iterator<Item = Element<'a>> + Clone,
    read: impl Fn(Element<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(elements.clone().count());
    for element in elements {
        all.push(read(element)?);
    }
    Ok(all)
}

/// Reads those of some elements that can be read.
pub(super) fn salvage_each<'a, T>(
    elements: impl Iterator<Item = Element<'a>> + Clone,
    read: impl Fn(Element<'a>) -> Result<T>,
) -> Vec<T> {
    let mut all = Vec::with_capacity(elements.clone().count());
    all.extend(elements.filter_map(|element| read(element).ok()));
    all
}

/// Shorthand for the most frequent failure of this room.
pub(super) fn incomplete(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentIncomplete, message)
}

fn malformed(at: usize, message: &str) -> Error {
    Error::new(Reason::DocumentMalformed, format!("{message}, at byte {at}"))
}

fn forbidden(at: usize, what: &str) -> Error {
    Error::new(Reason::DocumentForbidden, format!("the document has {what}, at byte {at}"))
        .hint("Send plain elements and text: licensing documents have nothing else")
}

fn limit(at: usize, what: &str, max: usize) -> Error {
    Error::new(Reason::LimitExceeded, format!("{what}: the bound is {max}, exceeded at byte {at}"))
}

pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Whether a text is only the white space of XML.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// Replaces the five predefined entities; the text was checked to have no other.
fn unescape(raw: &str) -> Cow<'_, str> {
    quick_xml::escape::unescape(raw).unwrap_or(Cow::Borrowed(raw))
}

/// Checks a text of exactly one element with nothing around it, each start tag by `check_tag`, and returns its elements in
/// the order of their start tags.
///
/// # Errors
/// `DOCUMENT_MALFORMED`, `DOCUMENT_FORBIDDEN_MARKUP` or `LIMIT_EXCEEDED`, with the offset.
pub(super) fn parse(text: &str, check_tag: fn(&str, usize) -> Result<()>) -> Result<Vec<Node>> {
    check_characters(text)?;
    // The reader would skip a byte order mark without counting it; every offset below relies on this first character.
    if !text.starts_with('<') {
        return Err(malformed(0, "the text does not begin with an element"));
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    // No text has more elements than it has room for, whatever its brackets promise.
    let mut nodes: Vec<Node> = Vec::with_capacity(start_tags(text)?.min(text.len() / SHORTEST + 1));
    let mut open: Vec<usize> = Vec::with_capacity(DEPTH_MAX);
    loop {
        let start = offset(reader.buffer_position())?;
        let event = reader.read_event().map_err(|e| malformed(start as usize, "the markup is broken").detail(e))?;
        let end = offset(reader.buffer_position())?;
        let at = start as usize;
        match event {
            Event::Start(_) | Event::Empty(_) if open.is_empty() && !nodes.is_empty() => {
                return Err(malformed(at, "a second element follows the first"));
            }
            Event::Start(tag) => {
                check_tag(&tag, at)?;
                if open.len() == DEPTH_MAX {
                    return Err(limit(at, "nesting of elements", DEPTH_MAX));
                }
                open.push(nodes.len());
                nodes.push(Node { start, end });
            }
            Event::Empty(tag) => {
                check_tag(&tag, at)?;
                nodes.push(Node { start, end });
            }
            Event::End(_) => {
                let opened = open.pop().ok_or_else(|| malformed(at, "an end tag without a start tag"))?;
                nodes[opened].end = end;
            }
            Event::Text(_) | Event::GeneralRef(_) if open.is_empty() => {
                return Err(malformed(at, "text stands outside the element"));
            }
            Event::Text(run) => check_run(&run, at)?,
            Event::GeneralRef(entity) => check_entity(&entity, at)?,
            Event::Comment(_) => return Err(forbidden(at, "a comment")),
            Event::CData(_) => return Err(forbidden(at, "a CDATA section")),
            Event::PI(_) => return Err(forbidden(at, "a processing instruction")),
            Event::Decl(_) => return Err(forbidden(at, "an XML declaration")),
            Event::DocType(_) => return Err(forbidden(at, "a document type definition")),
            Event::Eof => break,
        }
    }
    if nodes.is_empty() || !open.is_empty() {
        return Err(malformed(text.len(), "the text ends before the element does"));
    }
    Ok(nodes)
}

/// At most so many elements has a text, counted before anything is kept of them.
fn start_tags(text: &str) -> Result<usize> {
    let bytes = text.as_bytes();
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    let count: usize = pairs.map(|(c, next)| usize::from((*c == b'<') & (*next != b'/'))).sum();
    if count > ELEMENTS_MAX {
        let message = format!("number of elements: the bound is {ELEMENTS_MAX}, the text has {count} start tags");
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    Ok(count)
}

fn offset(position: u64) -> Result<u32> {
    u32::try_from(position).map_err(|_| Error::new(Reason::LimitExceeded, "the text is longer than 4 GiB"))
}

/// The characters XML 1.0 allows (section 2.2), over the whole text at once. A `str` has no lone surrogates.
pub(super) fn check_characters(text: &str) -> Result<()> {
    let bytes = text.as_bytes();
    let is_control = |b: &u8| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r');
    // Looking at all bytes first is faster than looking for one: the compiler takes many at a time.
    if bytes.iter().fold(false, |found, byte| found | is_control(byte)) {
        let at = bytes.iter().position(is_control).unwrap_or_default();
        return Err(malformed(at, "a control character stands in the text"));
    }
    match text.find(['\u{FFFE}', '\u{FFFF}']).filter(|_| !text.is_ascii()) {
        Some(at) => Err(malformed(at, "U+FFFE or U+FFFF stands in the text")),
        None => Ok(()),
    }
}

fn check_entity(name: &str, at: usize) -> Result<()> {
    match name {
        "lt" | "gt" | "amp" | "apos" | "quot" => Ok(()),
        _ => Err(forbidden(at, "an entity or character reference beyond the predefined five")),
    }
}

/// Checks a run of text: the end of a CDATA section may not stand in it.
pub(super) fn check_run(run: &str, at: usize) -> Result<()> {
    match run.contains(']') && run.contains("]]>") {
        true => Err(malformed(at, "']]>' stands in text")),
        false => Ok(()),
    }
}

/// Checks a start tag of a document, which knows no namespaces: to a reader that does, `x:BODY` and `<BODY xmlns="x">` are no
/// BODY. `xmlns=""` says nothing, and the prefix `xml` is XML's own.
pub(super) fn check_document_tag(tag: &str, at: usize) -> Result<()> {
    check_message_tag(tag, at)?;
    if !tag.contains(':') && !tag.contains("xmlns") {
        return Ok(());
    }
    let (name, attributes) = tag.split_at(tag.find(is_space).unwrap_or(tag.len()));
    let is_foreign = |(name, value): (&str, &str)| match name.strip_prefix("xml:") {
        Some(rest) => rest.contains(':') || check_name(rest, at).is_err(),
        None => name.contains(':') || (name == "xmlns" && !value.is_empty()),
    };
    match name.contains(':') || Attributes(attributes).filter_map(Result::ok).any(is_foreign) {
        true => Err(forbidden(at, "a namespace")),
        false => Ok(()),
    }
}

/// Checks a start tag of a message, which may name namespaces.
pub(super) fn check_message_tag(tag: &str, at: usize) -> Result<()> {
    check_tag(tag, at, check_entity)
}

/// Checks a start tag without its brackets: names, quoting, bounds and uniqueness of attributes; `reference` judges what
/// stands between `&` and `;`.
pub(super) fn check_tag(tag: &str, at: usize, reference: impl Fn(&str, usize) -> Result<()>) -> Result<()> {
    let end = tag.find(is_space).unwrap_or(tag.len());
    check_name(&tag[..end], at)?;
    let mut seen: [&str; ATTRIBUTES_MAX] = [""; ATTRIBUTES_MAX];
    for (count, attribute) in Attributes(&tag[end..]).enumerate() {
        let (name, value) = attribute.map_err(|message| malformed(at, message))?;
        if count == ATTRIBUTES_MAX {
            return Err(limit(at, "attributes of an element", ATTRIBUTES_MAX));
        }
        check_name(name, at)?;
        if seen[..count].contains(&name) {
            return Err(malformed(at, "an attribute is given twice"));
        }
        seen[count] = name;
        if value.len() > ATTRIBUTE_BYTES_MAX {
            return Err(limit(at, "bytes of an attribute", ATTRIBUTE_BYTES_MAX));
        }
        if value.contains('<') {
            return Err(malformed(at, "'<' stands in an attribute"));
        }
        for after in value.split('&').skip(1) {
            let entity = after.split_once(';').ok_or_else(|| malformed(at, "'&' stands in an attribute"))?.0;
            reference(entity, at)?;
        }
    }
    Ok(())
}

/// A name after XML 1.0, section 2.3.
pub(super) fn check_name(name: &str, at: usize) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(limit(at, "bytes of a name", NAME_BYTES_MAX));
    }
    let mut chars = name.chars();
    if chars.next().is_some_and(starts_name) && chars.all(|c| starts_name(c) || continues_name(c)) {
        return Ok(());
    }
    Err(malformed(at, "an element or attribute has no proper name"))
}

fn starts_name(c: char) -> bool {
    matches!(c, ':' | 'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

fn continues_name(c: char) -> bool {
    matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Splits what follows a tag's name into attributes, name and raw value; white space must part them.
struct Attributes<'a>(&'a str);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(&'a str, &'a str), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches(is_space);
        if rest.is_empty() {
            return None;
        }
        let parted = rest.len() < self.0.len();
        self.0 = "";
        if !parted {
            return Some(Err("no space parts two attributes"));
        }
        let Some((name, value)) = rest.split_once('=') else { return Some(Err("an attribute has no value")) };
        let value = value.trim_start_matches(is_space);
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Some(Err("an attribute's value is not quoted"));
        };
        let Some((value, rest)) = value[1..].split_once(quote) else {
            return Some(Err("an attribute's quote is not closed"));
        };
        self.0 = rest;
        Some(Ok((name.trim_end_matches(is_space), value)))
    }
}
