//! Writing in the server's form: double quotes, no white space between elements, `<X />` for an empty element.

/// A text under construction. What it yields is checked by the strict reader before anything is signed.
#[derive(Default)]
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn new() -> Self {
        Xml::default()
    }

    /// Writes a start tag.
    pub(super) fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.0.push('>');
    }

    /// Writes an end tag.
    pub(super) fn close(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// Writes an element of text, or an empty element if there is none.
    pub(super) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes);
        if text.is_empty() {
            return self.0.push_str(" />");
        }
        self.0.push('>');
        self.escape(text, false);
        self.close(name);
    }

    /// Copies an element as it was received.
    pub(super) fn received(&mut self, element: &str) {
        self.0.push_str(element);
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.0.push('<');
        self.0.push_str(name);
        for (attribute, value) in attributes {
            self.0.push(' ');
            self.0.push_str(attribute);
            self.0.push_str("=\"");
            self.escape(value, true);
            self.0.push('"');
        }
    }

    fn escape(&mut self, text: &str, in_attribute: bool) {
        for c in text.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' if in_attribute => self.0.push_str("&quot;"),
                _ => self.0.push(c),
            }
        }
    }
}
