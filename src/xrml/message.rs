//! XML that is no XrML: the messages that carry keys and certificates between clusters and authorities, read with the
//! same care.

use super::carrier::decode;
use super::markup::{self, Element, Node};
use super::text::{DOCUMENT_BYTES_MAX, strip_head};
use crate::error::{Error, Reason, Result};

/// One checked element with nothing around it but an XML declaration.
pub struct Message {
    text: String,
    nodes: Vec<Node>,
}

impl Message {
    /// Reads a message in UTF-8 or UTF-16.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED`, `DOCUMENT_MALFORMED` or `DOCUMENT_FORBIDDEN_MARKUP`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let decoded = decode(bytes)?;
        let text = strip_head(&decoded)?.trim_end_matches(['\t', '\n', '\r', ' ']).to_owned();
        if text.len() > DOCUMENT_BYTES_MAX {
            let message = format!("the message has {} bytes; the bound is {DOCUMENT_BYTES_MAX}", text.len());
            return Err(Error::new(Reason::LimitExceeded, message));
        }
        let nodes = markup::parse(&text, markup::check_message_tag)?;
        Ok(Message { text, nodes })
    }

    /// The element.
    #[must_use]
    pub fn root(&self) -> Element<'_> {
        Element::new(&self.text, &self.nodes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_message_is_read_and_a_forbidden_one_is_not() {
        let message = Message::read(b"<?xml version=\"1.0\"?>\r\n<A>\n <B>x</B>\n</A>\n").unwrap();
        assert_eq!(message.root().required("B").unwrap().content().unwrap(), "x");
        let serialized = Message::read(b"<A xmlns:i=\"urn:i\" xmlns=\"urn:a\"><B i:nil=\"true\" /></A>").unwrap();
        assert!(serialized.root().required("B").is_ok(), "as serializers write it");
        let forbidden = Message::read(b"<A><!-- x --></A>").err().unwrap();
        assert_eq!(forbidden.reason(), Reason::DocumentForbidden);
    }
}
