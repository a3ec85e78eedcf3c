//! Elements that this room does not know: found by name and place, kept in the text, reported.

use super::markup::Element;
use super::text::Body;

/// Most unknown elements that are reported.
pub const UNKNOWN_MAX: usize = 100;

/// The known children of each element that has children (adrms_sdk, DTD; revocation lists: DTD of REVOKE).
const KNOWN: &[(&str, &[&str])] = &[
    (
        "BODY",
        &[
            "ISSUEDTIME",
            "VALIDITYTIME",
            "DESCRIPTOR",
            "ISSUER",
            "DISTRIBUTIONPOINT",
            "ISSUEDPRINCIPALS",
            "WORK",
            "AUTHENTICATEDDATA",
            "CONDITIONLIST",
            "FEDERATIONPRINCIPALS",
            "POLICYLIST",
            "REVOCATIONLIST",
        ],
    ),
    ("VALIDITYTIME", &["FROM", "UNTIL"]),
    ("RANGETIME", &["FROM", "UNTIL"]),
    ("DESCRIPTOR", &["OBJECT"]),
    ("OBJECT", &["ID", "NAME", "ADDRESS", "VERSIONSPAN"]),
    ("ISSUER", &["OBJECT", "PUBLICKEY", "SECURITYLEVEL"]),
    ("PRINCIPAL", &["OBJECT", "PUBLICKEY", "DIGEST", "SECURITYLEVEL", "ENABLINGBITS"]),
    ("ISSUEDPRINCIPALS", &["PRINCIPAL"]),
    ("FEDERATIONPRINCIPALS", &["PRINCIPAL"]),
    ("ACCESS", &["PRINCIPAL"]),
    ("DISTRIBUTIONPOINT", &["OBJECT", "PUBLICKEY"]),
    ("PUBLICKEY", &["ALGORITHM", "PARAMETER"]),
    ("PARAMETER", &["VALUE"]),
    ("DIGEST", &["ALGORITHM", "PARAMETER", "VALUE"]),
    ("ENABLINGBITS", &["VALUE"]),
    ("WORK", &["OBJECT", "METADATA", "CONDITIONLIST", "PRECONDITIONLIST", "RIGHTSGROUP"]),
    ("METADATA", &["OWNER"]),
    ("OWNER", &["OBJECT"]),
    ("PRECONDITIONLIST", &["TIME"]),
    ("RIGHTSGROUP", &["RIGHTSLIST"]),
    ("RIGHTSLIST", &[]),
    ("CONDITIONLIST", &["TIME", "ACCESS", "REFRESH", "CONDITION"]),
    ("TIME", &["RANGETIME", "INTERVALTIME"]),
    ("REFRESH", &["DISTRIBUTIONPOINT", "INTERVALTIME"]),
    ("POLICYLIST", &["POLICY"]),
    ("POLICY", &["OBJECT"]),
    ("REVOCATIONLIST", &["REVOKE"]),
    ("REVOKE", &["OBJECT", "DIGEST", "PUBLICKEY"]),
];

/// What a right holds, whatever its name.
const RIGHT: &[&str] = &["CONDITIONLIST", "TIME", "ACCESS", "REFRESH", "CONDITION"];

/// The paths of unknown elements of a BODY, as `BODY/WORK/X`; what lies below an unknown one is not looked at.
#[must_use]
pub fn paths(body: &Body) -> Vec<String> {
    let mut found = Vec::new();
    walk(body.element(), "BODY", known_of("BODY"), &mut found);
    found
}

fn walk(element: Element<'_>, path: &str, known: &[&str], found: &mut Vec<String>) {
    for child in element.children() {
        if found.len() == UNKNOWN_MAX {
            return;
        }
        let path = format!("{path}/{}", child.name());
        match below(element, child, known) {
            Some(known) => walk(child, &path, known, found),
            None => found.push(path),
        }
    }
}

/// The known children of an element, or nothing if it is itself none of the children, `known`, of its parent.
pub(super) fn below(parent: Element<'_>, element: Element<'_>, known: &[&str]) -> Option<&'static [&'static str]> {
    if parent.name() == "RIGHTSLIST" {
        return Some(RIGHT);
    }
    known.contains(&element.name()).then(|| known_of(element.name()))
}

/// The known children of an element by its name.
pub(super) fn known_of(name: &str) -> &'static [&'static str] {
    KNOWN.iter().find(|(parent, _)| *parent == name).map_or(&[], |(_, children)| children)
}
