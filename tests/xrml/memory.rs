//! Memory: what is kept of a text, and what refusing it takes, stays within four times its length.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use keyward::xrml::content::Content;
use keyward::xrml::markup::ELEMENTS_MAX;
use keyward::xrml::revocation::RevocationList;
use keyward::xrml::text::{DOCUMENT_BYTES_MAX, Document};
use keyward::xrml::weight::BYTES_FREE;
use keyward::xrml::{carrier, chain};

use super::vectors;

/// Bytes of a long text here: more than what is free.
const LONG: usize = 100_000;

/// Counts what the thread has in use and the most it had. Other threads do not disturb it.
struct Counting;

thread_local! {
    static IN_USE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    let now = IN_USE.get().wrapping_add(bytes);
    IN_USE.set(now);
    // What another thread allocated and this one freed makes less than nothing.
    if now < usize::MAX / 2 {
        PEAK.set(PEAK.get().max(now));
    }
}

fn gave(bytes: usize) {
    IN_USE.set(IN_USE.get().wrapping_sub(bytes));
}

#[allow(unsafe_code)]
// SAFETY: every call goes on to the system's allocator unchanged; only numbers are kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    // Counted as old and new side by side, which is the worst that it can be.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that some work had in use beyond what was there before.
fn peak(work: impl FnOnce()) -> usize {
    let before = IN_USE.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

/// Reads and checks a file, and holds that to the bound. Says whether everything in it was taken.
fn hold(name: &str, file: &[u8]) -> bool {
    let bytes = peak(|| {
        let Ok(documents) = carrier::read(file) else { return };
        drop(chain::check(&documents, &[]));
        let lists = documents.iter().map(|document| RevocationList::read(document.body()));
        drop(lists.collect::<Vec<_>>());
    });
    assert!(bytes <= 4 * file.len() + BYTES_FREE, "{name}: {bytes} bytes for a text of {}", file.len());
    let documents = carrier::read(file).unwrap_or_default();
    !documents.is_empty() && documents.iter().all(|document| Content::read(document.body()).is_ok())
}

/// Rights data of something many times over, about so many bytes long.
fn many(before: &str, unit: &str, after: &str, bytes: usize) -> Vec<u8> {
    let units = unit.repeat((bytes / unit.len()).min((ELEMENTS_MAX - 20) / unit.matches('<').count().max(1)));
    let start = "<XrML><BODY type=\"Microsoft Rights Template\"><ISSUEDTIME>2026-01-01T00:00</ISSUEDTIME>";
    format!("{start}{before}{units}{after}</BODY></XrML>").into_bytes()
}

const POINT: &str = "<DISTRIBUTIONPOINT><OBJECT><ID type=\"\"/></OBJECT></DISTRIBUTIONPOINT>";
const USER: &str =
    "<PRINCIPAL><OBJECT><ID type=\"Unspecified\" /><NAME>someone@example.com</NAME></OBJECT></PRINCIPAL>";
const RANGE: &str = "<RANGETIME><FROM>2026-01-01T00:00</FROM><UNTIL>2027-01-01T00:00</UNTIL></RANGETIME>";

/// Everything that may stand many times: what it is, what stands around it, and whether such a text, being long, is taken.
const SHAPES: [(&str, &str, &str, &str, bool); 24] = [
    ("elements", "", "<A/>", "", true),
    ("elements with end tags", "", "<A></A>", "", true),
    ("elements with attributes", "", "<A b='' c='' d='' e='' f='' g='' h='' i='' j='' k=''/>", "", true),
    ("text", "<AUTHENTICATEDDATA id=\"\">", "QUJD", "</AUTHENTICATEDDATA>", true),
    ("entities", "<AUTHENTICATEDDATA id=\"\">", "&amp;", "</AUTHENTICATEDDATA>", true),
    ("rights", "<WORK><RIGHTSGROUP><RIGHTSLIST>", "<A/>", "</RIGHTSLIST></RIGHTSGROUP></WORK>", false),
    ("unknown conditions", "<CONDITIONLIST>", "<A/>", "</CONDITIONLIST>", true),
    ("unknown times", "<CONDITIONLIST><TIME>", "<A/>", "</TIME></CONDITIONLIST>", true),
    ("unknown preconditions", "<WORK><PRECONDITIONLIST>", "<A/>", "</PRECONDITIONLIST></WORK>", true),
    (
        "conditions of one right",
        "<WORK><RIGHTSGROUP><RIGHTSLIST><B>",
        "<A/>",
        "</B></RIGHTSLIST></RIGHTSGROUP></WORK>",
        true,
    ),
    (
        "lists of conditions",
        "<WORK><RIGHTSGROUP><RIGHTSLIST>",
        "<B><ACCESS><PRINCIPAL/></ACCESS></B>",
        "</RIGHTSLIST></RIGHTSGROUP></WORK>",
        false,
    ),
    ("principals", "<CONDITIONLIST><ACCESS>", "<PRINCIPAL/>", "</ACCESS></CONDITIONLIST>", false),
    ("users", "<CONDITIONLIST><ACCESS>", USER, "</ACCESS></CONDITIONLIST>", true),
    ("levels", "<ISSUER>", "<SECURITYLEVEL name=\"\" value=\"\"/>", "</ISSUER>", true),
    ("addresses", "<DESCRIPTOR><OBJECT><ID type=\"\"/>", "<ADDRESS type=\"\"/>", "</OBJECT></DESCRIPTOR>", true),
    ("points", "", POINT, "", true),
    ("points of lists", "<CONDITIONLIST><REFRESH>", POINT, "</REFRESH></CONDITIONLIST>", true),
    ("data", "", "<AUTHENTICATEDDATA id=\"\"/>", "", true),
    ("lists of policies", "", "<POLICYLIST type=\"exclusion\"/>", "", true),
    (
        "policies",
        "<POLICYLIST type=\"exclusion\">",
        "<POLICY><OBJECT><ID type=\"\"/></OBJECT></POLICY>",
        "</POLICYLIST>",
        true,
    ),
    ("named conditions", "<CONDITIONLIST>", "<CONDITION NAME=\"\"/>", "</CONDITIONLIST>", false),
    ("times", "<CONDITIONLIST><TIME>", RANGE, "</TIME></CONDITIONLIST>", false),
    (
        "a sealed key",
        "<ISSUER><ENABLINGBITS type=\"sealed-key\"><VALUE>",
        "QUJD",
        "</VALUE></ENABLINGBITS></ISSUER>",
        true,
    ),
    (
        "unknown among known",
        "<CONDITIONLIST><ACCESS>",
        "<A/><A/><A/><A/><A/><A/><PRINCIPAL/>",
        "</ACCESS></CONDITIONLIST>",
        false,
    ),
];

#[test]
fn what_is_kept_of_a_text_stays_within_four_times_its_length() {
    for (name, before, unit, after, taken) in SHAPES {
        for bytes in [1000, LONG] {
            let is_short = bytes == 1000;
            assert_eq!(hold(name, &many(before, unit, after, bytes)), taken || is_short, "{name} of {bytes} bytes");
        }
    }
    let most = many("", "<A/>", "", DOCUMENT_BYTES_MAX);
    let bytes = peak(|| assert!(carrier::read(&most).is_ok()));
    assert!(bytes <= 4 * most.len(), "{bytes} bytes for as many elements as there may be");
    let list = vectors::text("mode2/revocation-list.xml");
    let (start, rest) = list.split_once("<REVOCATIONLIST>").unwrap();
    let end = rest.split_once("</REVOCATIONLIST>").unwrap().1;
    let id = "<OBJECT><ID type=\"MS-GUID\">{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}</ID></OBJECT>";
    for (name, entry) in [
        ("unknown entries", "<REVOKE category=\"\" type=\"\"/>".to_owned()),
        ("large unknown entries", format!("<REVOKE category=\"\" type=\"\">{}</REVOKE>", "<A/>".repeat(100))),
        ("entries", format!("<REVOKE category=\"license\" type=\"license-id\">{id}</REVOKE>")),
    ] {
        let entries = entry.repeat(LONG / entry.len());
        let file = format!("{start}<REVOCATIONLIST>{entries}</REVOCATIONLIST>{end}");
        hold(name, file.as_bytes());
        let document = Document::read(&file).unwrap();
        assert_eq!(RevocationList::read(document.body()).is_ok(), name != "unknown entries", "{name}");
    }
}

/// What is free beside four times the text is for texts that are made to take much; nothing that software writes needs it.
#[test]
fn ordinary_documents_of_any_length_stay_within_four_times_theirs() {
    for (name, _) in vectors::manifest() {
        let text = vectors::text(&name);
        let bytes = peak(|| {
            let documents = carrier::read(text.as_bytes()).unwrap();
            drop(chain::check(&documents, &[]));
        });
        assert!(bytes <= 4 * text.len(), "{name}: {bytes} bytes for a text of {}", text.len());
    }
}

#[test]
fn refusing_a_text_takes_no_more_than_keeping_it() {
    let body = |inner: String| format!("<XrML><BODY>{inner}</BODY></XrML>");
    let elements = "<A/>".repeat(LONG / 4);
    let texts = [
        ("brackets", body("<".repeat(LONG))),
        ("levels", body("<A>".repeat(LONG / 3))),
        ("too many elements", body("<A/>".repeat(ELEMENTS_MAX))),
        ("an end that is missing", format!("<XrML><BODY>{elements}")),
        ("an entity at the end", body(format!("{elements}&x;"))),
        ("a comment at the end", body(format!("{elements}<!-- -->"))),
        ("a second body", body(format!("{elements}<BODY></BODY>"))),
        ("too many attributes", body(format!("<A{}/>", " a=\"\"".repeat(LONG / 5)))),
        ("a long name", body(format!("<{}/>", "n".repeat(LONG)))),
        ("a long attribute", body(format!("<A b=\"{}\"/>", "v".repeat(LONG)))),
        ("a long document", body("x".repeat(DOCUMENT_BYTES_MAX))),
        ("levels around", "<A>".repeat(LONG / 3)),
        ("levels in an envelope", format!("<E><XrML>{}</E>", "<A>".repeat(LONG / 3))),
        ("long names around", format!("<{}></{}>", "n".repeat(LONG), "m".repeat(LONG))),
        ("many texts", format!("<E>{}</E>", "<string>&lt;XrML&gt;</string>".repeat(LONG / 30))),
    ];
    for (name, text) in &texts {
        assert!(!hold(name, text.as_bytes()), "{name}");
    }
    let half = [&b"\xFF\xFE"[..], &utf16(&"語".repeat(LONG)), &[0, 0xD8]].concat();
    assert!(!hold("half a character", &half));
}

#[test]
fn carriers_take_no_more_than_what_they_carry() {
    let inner = |unit: &str| many("", unit, "", LONG);
    for unit in ["<A/>", "<A>語&amp;</A>"] {
        let document = String::from_utf8(inner(unit)).unwrap();
        let escaped = document.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let wide = [&b"\xFF\xFE"[..], &utf16(&document)].concat();
        for (name, file) in [
            ("utf-16", wide.as_slice()),
            ("escaped", format!("<E><string>{escaped}</string></E>").as_bytes()),
            ("cdata", format!("<E><string><![CDATA[{document}]]></string></E>").as_bytes()),
            ("inline", format!("<E><Certificate>{document}</Certificate></E>").as_bytes()),
            ("back to back", document.repeat(3).as_bytes()),
        ] {
            assert!(hold(name, file), "{name} {unit}");
        }
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
