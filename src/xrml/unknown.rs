//! Elements and attributes that this room does not know: found by name and place, kept in the text, reported.

use super::certificate::ISSUE;
use super::kind::Kind;
use super::markup::Element;
use super::text::Document;

/// Most that are reported of one document.
pub const UNKNOWN_MAX: usize = 100;
/// The last path where there is more than that.
pub const MORE: &str = "and more";
/// The only version of the format.
const VERSION: &str = "1.2";
/// The only version of BODY. Templates have none, and it need not be written.
const BODY_VERSION: &str = "3.0";

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
    ("SIGNATURE", &["DIGEST", "ALGORITHM", "VALUE"]),
];

/// The known attributes of each element that has some.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("XrML", &["xmlns", "version", "purpose"]),
    ("BODY", &["type", "version"]),
    ("OBJECT", &["type"]),
    ("ID", &["type"]),
    ("ADDRESS", &["type"]),
    ("PRINCIPAL", &["internal-id"]),
    ("SECURITYLEVEL", &["name", "value"]),
    ("PARAMETER", &["name"]),
    ("VALUE", &["encoding", "size"]),
    ("ENABLINGBITS", &["type"]),
    ("RIGHTSGROUP", &["name"]),
    ("RIGHT", &["name"]),
    ("INTERVALTIME", &["days", "hours", "minutes", "seconds"]),
    ("CONDITION", &["NAME", "TYPE"]),
    ("AUTHENTICATEDDATA", &["id", "name"]),
    ("POLICYLIST", &["type"]),
    ("VERSIONSPAN", &["min", "max"]),
    ("REVOCATIONLIST", &["type", "xml:space"]),
    ("REVOKE", &["category", "type"]),
];

/// What a right holds, whatever its name.
const RIGHT: &[&str] = &["CONDITIONLIST", "TIME", "ACCESS", "REFRESH", "CONDITION"];

/// Whether an element below BODY has a place in documents of a kind. Of one that has none, the kind's own type holds
/// nothing, so it would be lost without a word when the document is written from there.
fn has_place(kind: Option<Kind>, name: &str) -> bool {
    use Kind::{Clc, Pl, Rac, RevocationList, RightsData, Spc, Template, Ul, UserKey};
    let Some(kind) = kind else { return true };
    match name {
        "REVOCATIONLIST" => kind == RevocationList,
        "FEDERATIONPRINCIPALS" => kind == Rac,
        "AUTHENTICATEDDATA" | "POLICYLIST" => matches!(kind, Pl | Ul | RightsData | Template),
        "WORK" => !matches!(kind, Spc | Rac | UserKey | RevocationList),
        "CONDITIONLIST" => !matches!(kind, Spc | Rac | UserKey | Clc | RevocationList),
        "VALIDITYTIME" => !matches!(kind, Spc | Clc | Ul | RevocationList),
        "ISSUEDPRINCIPALS" => !matches!(kind, RightsData | Template | RevocationList),
        // Of the kinds that certify a key, only the client's has addresses.
        "DISTRIBUTIONPOINT" => kind == Clc || !(kind.issues() || kind == RevocationList),
        _ => true,
    }
}

/// The paths of what is unknown in a document, as `BODY/WORK/X` for an element and `BODY/WORK/@x` for an attribute. What
/// lies below an unknown element is not looked at. An element that has no place in a document of this kind is unknown, too.
/// Where there is more than is reported, the last path is [`MORE`].
#[must_use]
pub fn paths(document: &Document) -> Vec<String> {
    let kind = Kind::of(document.body()).ok();
    let mut found = Found { path: String::from("XrML/"), paths: Vec::new() };
    let root = document.root();
    found.attributes(root);
    if root.attribute("version").is_some_and(|version| version != VERSION) {
        found.tell("XrML/@version".to_owned());
    }
    for element in root.children() {
        found.path.clear();
        found.path.push_str(element.name());
        let is_body = element.name() == "BODY";
        if is_body && element.attribute("version").is_some_and(|version| version != BODY_VERSION) {
            found.tell("BODY/@version".to_owned());
        }
        let known = known_of(element.name()).iter().copied().filter(|name| !is_body || has_place(kind, name));
        found.walk(element, &known.collect::<Vec<_>>());
    }
    if kind.is_some_and(Kind::issues) {
        document.body().element().all("WORK").for_each(|work| found.beside_issue(work));
    }
    found.paths
}

struct Found {
    /// Where the walk is; one text that grows and shrinks.
    path: String,
    paths: Vec<String>,
}

impl Found {
    fn tell(&mut self, path: String) {
        match self.paths.len() {
            told if told < UNKNOWN_MAX => self.paths.push(path),
            UNKNOWN_MAX => self.paths.push(MORE.to_owned()),
            _ => {}
        }
    }

    fn attributes(&mut self, element: Element<'_>) {
        let mut names = element.attribute_names().peekable();
        if names.peek().is_none() {
            return;
        }
        let own = element.name();
        let known = ATTRIBUTES.iter().find(|(name, _)| *name == own).map_or(&[][..], |(_, known)| known);
        for name in names.filter(|name| !known.contains(name)) {
            self.tell(format!("{}@{name}", self.path));
        }
    }

    /// What is known and stands in WORK of an issuing certificate beside its right to issue, which is all that this grants.
    fn beside_issue(&mut self, work: Element<'_>) {
        for part in work.children() {
            match part.name() {
                "METADATA" | "CONDITIONLIST" | "PRECONDITIONLIST" => self.tell(format!("BODY/WORK/{}", part.name())),
                _ => {}
            }
        }
        let groups = work.all("RIGHTSGROUP").flat_map(|group| group.all("RIGHTSLIST"));
        for right in groups.flat_map(Element::children) {
            if right.name() != "RIGHT" || right.attribute("name").as_deref() != Some(ISSUE) {
                self.tell(format!("BODY/WORK/RIGHTSGROUP/RIGHTSLIST/{}", right.name()));
            }
        }
    }

    fn walk(&mut self, element: Element<'_>, known: &[&str]) {
        let length = self.path.len();
        self.path.push('/');
        self.attributes(element);
        let parent = element.name();
        for child in element.children() {
            let name = child.name();
            self.path.truncate(length + 1);
            self.path.push_str(name);
            match below(parent, name, known) {
                _ if self.paths.len() > UNKNOWN_MAX => break,
                Some(known) => self.walk(child, known),
                None => self.tell(self.path.clone()),
            }
        }
        self.path.truncate(length);
    }
}

/// Calls for each element of no known name, down from one whose parent knows `known`.
pub(super) fn each<'a>(element: Element<'a>, known: &[&str], found: &mut impl FnMut(Element<'a>)) {
    if !known.contains(&element.name()) {
        return found(element);
    }
    let known = known_of(element.name());
    element.children().for_each(|child| each(child, known, found));
}

/// The known children of an element by its name, or nothing if it is itself none of the children, `known`, of its parent.
pub(super) fn below(parent: &str, name: &str, known: &[&str]) -> Option<&'static [&'static str]> {
    if parent == "RIGHTSLIST" {
        return Some(RIGHT);
    }
    known.contains(&name).then(|| known_of(name))
}

/// The known children of an element by its name.
pub(super) fn known_of(name: &str) -> &'static [&'static str] {
    KNOWN.iter().find(|(parent, _)| *parent == name).map_or(&[], |(_, children)| children)
}
