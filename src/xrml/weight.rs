//! How much memory a typed view may take: in proportion to the text, whatever that is made of.
//!
//! A text of short elements could make a view of many times its length. So what the view will take is reckoned before it
//! is made, and a document that is made of little else is refused.

use super::element::{Address, DistributionPoint, Principal, SecurityLevel};
use super::license::{AuthenticatedData, Condition, Right};
use super::markup::{Element, NODE_BYTES};
use super::policy::{Policy, PolicyList};
use super::revocation::Revoke;
use super::unknown::{below, known_of};
use crate::error::{Error, Reason, Result};

/// Most bytes of elements and view for each byte of text. The text, which is kept as well, is one more.
pub const BYTES_PER_BYTE_MAX: usize = 3;
/// Bytes that are free beside that. Ordinary documents need no others.
pub const BYTES_FREE: usize = 64 * 1024;

/// What an element of a name takes in the view, beside its texts. Elements that stand once do not count.
const WEIGHTS: [(&str, usize); 9] = [
    ("PRINCIPAL", size_of::<Principal>()),
    ("DISTRIBUTIONPOINT", size_of::<DistributionPoint>()),
    ("SECURITYLEVEL", size_of::<SecurityLevel>()),
    ("ADDRESS", size_of::<Address>()),
    ("AUTHENTICATEDDATA", size_of::<AuthenticatedData>()),
    ("POLICYLIST", size_of::<PolicyList>()),
    ("POLICY", size_of::<Policy>()),
    ("CONDITION", size_of::<Condition>()),
    (REVOKE, size_of::<Revoke>()),
];
/// Most that one element can take in the view.
const HEAVIEST: usize = 256;
const REVOKE: &str = "REVOKE";

/// Refuses a BODY whose view would take too much.
///
/// # Errors
/// `LIMIT_EXCEEDED`.
pub(super) fn check(body: Element<'_>) -> Result<()> {
    let length = body.outer().len();
    let bound = BYTES_PER_BYTE_MAX * length + BYTES_FREE;
    if length + elements(body) * (NODE_BYTES + HEAVIEST) <= bound {
        return Ok(());
    }
    let weight = weigh(body, 0, known_of("BODY"));
    if weight > bound {
        let message = format!("memory for the document's elements: the bound is {bound} bytes, they take {weight}");
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    Ok(())
}

/// How many elements there are, this one included.
fn elements(element: Element<'_>) -> usize {
    element.after() - element.index()
}

/// The bytes of an element and all below: `own` for itself, its attributes and texts, its children. What is not known is
/// kept as text, and so may be an entry of a revocation list.
fn weigh(element: Element<'_>, own: usize, known: &[&str]) -> usize {
    let mut text = element.outer().len() - tags(element);
    let (mut below_it, parent) = (0, element.name());
    for child in element.children() {
        let (length, name) = (child.outer().len(), child.name());
        text -= length;
        below_it += match below(parent, name, known) {
            _ if name == REVOKE => length + elements(child) * NODE_BYTES + size_of::<Revoke>(),
            None => length + elements(child) * NODE_BYTES,
            Some(known) if parent == "RIGHTSLIST" => weigh(child, size_of::<Right>(), known),
            Some(known) => {
                let own = WEIGHTS.iter().find(|(weighty, _)| *weighty == name).map_or(0, |(_, bytes)| *bytes);
                weigh(child, own, known)
            }
        };
    }
    NODE_BYTES + own + text + below_it
}

/// The bytes of an element's tags without attributes.
fn tags(element: Element<'_>) -> usize {
    let name = element.name().len();
    if element.outer().ends_with("/>") { name + 2 } else { 2 * name + 5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_heavier_than_the_heaviest() {
        assert!(WEIGHTS.iter().all(|(_, bytes)| *bytes <= HEAVIEST));
        assert!(size_of::<Right>() <= HEAVIEST);
    }
}
