//! Writing in the server's form: double quotes, no white space between elements, `<X />` for an empty element.

use crate::error::{Error, Reason, Result};

/// A text under construction. What it yields is checked by the strict reader before anything is signed.
#[derive(Default)]
pub(super) struct Xml {
    text: String,
    /// Whether a character was written that XML software turns into another: CR, and any line end or tab in an attribute
    /// (XML 1.0, 2.11 and 3.3.3). The signature would not survive such software.
    is_fragile: bool,
}

impl Xml {
    pub(super) fn new() -> Self {
        Xml::default()
    }

    /// Writes a start tag.
    pub(super) fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.text.push('>');
    }

    /// Writes an end tag.
    pub(super) fn close(&mut self, name: &str) {
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    /// Writes an element of text, or an empty element if there is none.
    pub(super) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes);
        if text.is_empty() {
            return self.text.push_str(" />");
        }
        self.text.push('>');
        self.escape(text, false);
        self.close(name);
    }

    /// Copies an element as it was received.
    pub(super) fn received(&mut self, element: &str) {
        self.text.push_str(element);
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    /// The text, if it can go through other software and stay as it is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub(super) fn finish(self) -> Result<String> {
        if self.is_fragile {
            let message =
                "a carriage return in a text, or a line end or tab in an attribute, does not survive XML software";
            return Err(
                Error::new(Reason::InvalidArgument, message).hint("Write line ends as LF, and none in attributes")
            );
        }
        Ok(self.text)
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.text.push('<');
        self.text.push_str(name);
        for (attribute, value) in attributes {
            self.text.push(' ');
            self.text.push_str(attribute);
            self.text.push_str("=\"");
            self.escape(value, true);
            self.text.push('"');
        }
    }

    fn escape(&mut self, text: &str, in_attribute: bool) {
        self.is_fragile |= text.contains('\r') || (in_attribute && text.contains(['\n', '\t']));
        for c in text.chars() {
            match c {
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '&' => self.text.push_str("&amp;"),
                '"' if in_attribute => self.text.push_str("&quot;"),
                _ => self.text.push(c),
            }
        }
    }
}
