//! Form: a document that is signed and linked, and is none of its kind.

use keyward::error::Reason;
use keyward::key::Hash;
use keyward::xrml::chain::{self, Finding, Link};
use keyward::xrml::signature::Root;
use keyward::xrml::text::{Body, Document};

use super::chains::{ABOVE_SLC, at, load, root_pin};
use super::kit::Key;
use super::vectors;

/// A vector with another text in one place, signed again by a key of its hierarchy.
pub(super) fn changed(name: &str, signer: &str, from: &str, to: &str) -> Document {
    let text = vectors::document(&format!("mode2/{name}")).body().as_str().to_owned();
    assert!(text.contains(from), "{name}: {from}");
    Key::load("mode2", signer).document(Root::Server, &Body::read(&text.replace(from, to)).unwrap(), Hash::Sha256)
}

/// What stands in a vector from one text to the end of another.
pub(super) fn part(name: &str, start: &str, end: &str) -> String {
    let text = vectors::document(&format!("mode2/{name}")).body().as_str().to_owned();
    let from = text.find(start).unwrap();
    text[from..from + text[from..].find(end).unwrap() + end.len()].to_owned()
}

fn without(name: &str, start: &str, end: &str) -> Document {
    changed(name, "slc", &part(name, start, end), "")
}

/// The findings over documents and the certificates above a server.
pub(super) fn under_the_server(leaves: Vec<Document>) -> Vec<Finding> {
    chain::check(&[leaves, load("mode2", &ABOVE_SLC)].concat(), &[root_pin("mode2")])
}

#[test]
fn a_document_without_what_its_kind_must_have_is_not_good_whoever_signed_it() {
    let issuer = part("ul.xml", "<ISSUER>", "</ISSUER>");
    let template = format!(
        "<BODY type=\"Microsoft Official Rights Template\"><ISSUEDTIME>2026-02-01T00:00</ISSUEDTIME>{issuer}</BODY>"
    );
    let template = Key::load("mode2", "slc").document(Root::Server, &Body::read(&template).unwrap(), Hash::Sha256);
    let time = part("clc.xml", "<TIME>", "</TIME>");
    let account = "<PRINCIPAL internal-id=\"1\"><OBJECT type=\"Group-Identity\">";
    let access = "<ACCESS><PRINCIPAL internal-id=\"1\">";
    let rows = [
        (without("ul.xml", "<RIGHTSGROUP", "</RIGHTSGROUP>"), "WORK grants no right"),
        (without("ul.xml", "<WORK>", "</WORK>"), "BODY has no WORK"),
        (without("ul.xml", "<ISSUEDTIME>", "</ISSUEDTIME>"), "BODY has no ISSUEDTIME"),
        (without("ul.xml", "<ENABLINGBITS", "</ENABLINGBITS>"), "the right VIEW has no ENABLINGBITS"),
        (without("pl-online.xml", "<ENABLINGBITS", "</ENABLINGBITS>"), "PRINCIPAL has no ENABLINGBITS"),
        (
            without("pl-online.xml", "<AUTHENTICATEDDATA", "</AUTHENTICATEDDATA>"),
            "one AUTHENTICATEDDATA of rights data",
        ),
        (template, "BODY has no WORK"),
        (without("rac.xml", "<ENABLINGBITS", "</ENABLINGBITS>"), "FEDERATIONPRINCIPALS has no ENABLINGBITS"),
        (changed("rac.xml", "slc", account, &account.replace("Group", "Other")), "not of type Group-Identity"),
        (without("clc.xml", "<ENABLINGBITS", "</ENABLINGBITS>"), "ACCESS has no ENABLINGBITS"),
        (changed("clc.xml", "slc", access, &access.replace('1', "7")), "not given to the certificate's principal"),
        (changed("clc.xml", "slc", &time, &format!("{time}<NEW />")), "conditions beside its time"),
    ];
    for (document, words) in rows {
        let findings = under_the_server(vec![document.clone()]);
        let leaf = &findings[0];
        assert!(leaf.signature.is_ok(), "{words}: {:?}", leaf.signature);
        let fault = leaf.form.as_ref().expect_err(words);
        assert!(fault.message().contains(words), "{fault}");
        assert!(
            !leaf.is_good() && !leaf.is_pinned && findings[1..].iter().all(|f| f.is_good() && f.is_pinned),
            "{words}"
        );
        let documents = [vec![document], load("mode2", &ABOVE_SLC)].concat();
        assert!(chain::require(&documents, &[root_pin("mode2")], at("2026-06-01T00:00")).is_err(), "{words}");
    }
}

#[test]
fn a_certificate_without_a_proper_right_to_issue_issues_nothing() {
    let right = part("clc.xml", "<RIGHT name=\"ISSUE\">", "</RIGHT>");
    let time = part("clc.xml", "<TIME>", "</TIME>");
    let access = "<ACCESS><PRINCIPAL internal-id=\"1\">";
    let element = right.replace("RIGHT name=\"ISSUE\"", "ISSUE").replace("</RIGHT>", "</ISSUE>");
    let over = "<VALIDITYTIME><FROM>2020-01-01T00:00</FROM><UNTIL>2020-01-02T00:00</UNTIL></VALIDITYTIME>";
    for (from, to) in [
        (right.as_str(), element.as_str()),
        (&right, ""),
        (&right, &format!("{right}{right}")),
        (access, &access.replace('1', "7")),
        (&time, ""),
        (&time, &format!("{time}<NEW />")),
        (&time, &format!("{time}<TIME><INTERVALTIME days=\"1\" /></TIME>")),
        ("<RIGHTSGROUP", "<PRECONDITIONLIST /><RIGHTSGROUP"),
        ("</BODY>", "<CONDITIONLIST><CONDITION NAME=\"X\" /></CONDITIONLIST></BODY>"),
        ("<DESCRIPTOR>", &format!("{over}<DESCRIPTOR>")),
    ] {
        let leaves = vec![vectors::document("mode2/pl-offline.xml"), changed("clc.xml", "slc", from, to)];
        let findings = under_the_server(leaves);
        assert!(findings[0].form.is_ok() && findings[0].signature.is_ok(), "{to}");
        assert!(matches!(findings[0].link, Link::Broken(_)) && !findings[0].is_pinned, "{to}: {:?}", findings[0].link);
    }
}

#[test]
fn a_certificate_whose_key_has_a_size_that_its_kind_does_not_allow_is_not_good() {
    let given = part("slc.xml", "<ISSUEDPRINCIPALS>", "</ISSUEDPRINCIPALS>");
    let modulus = part("slc.xml", "<ISSUEDPRINCIPALS>", "size=\"2048\">").len();
    let modulus = &given[modulus..modulus + given[modulus..].find('<').unwrap()];
    let long = given.replace(modulus, &"/".repeat(512)).replace("2048", "3072");
    let slc = changed("slc.xml", "es", &given, &long);
    let findings = chain::check(&[vec![slc], load("mode2", &ABOVE_SLC[1..])].concat(), &[root_pin("mode2")]);
    assert!(findings[0].signature.is_ok() && matches!(findings[0].link, Link::Document(1)));
    assert!(findings[0].form.as_ref().unwrap_err().message().contains("has 3072 bits"));
    let bare = given.replace(&part("slc.xml", "<ADDRESS", "</ADDRESS>"), "");
    let slc = changed("slc.xml", "es", &given, &bare);
    assert!(chain::check(&[slc], &[])[0].form.as_ref().unwrap_err().message().contains("no ADDRESS"));
    let zeros = given.replace(modulus, &format!("{}AA==", &modulus[..modulus.len() - 4]));
    let slc = changed("slc.xml", "es", &given, &zeros);
    assert!(chain::check(&[slc], &[])[0].form.as_ref().unwrap_err().message().contains("leading zeros"));
    let even = given.replace(modulus, &format!("/A{}", &modulus[2..]));
    let slc = changed("slc.xml", "es", &given, &even);
    assert!(chain::check(&[slc], &[])[0].form.as_ref().unwrap_err().message().contains("even"));
}

#[test]
fn a_leaf_without_dates_is_good_at_no_time() {
    let rac = without("rac.xml", "<VALIDITYTIME>", "</VALIDITYTIME>");
    let findings = under_the_server(vec![rac.clone()]);
    assert!(findings[0].is_good(), "the format says only that it should be there");
    for moment in ["2026-06-01T00:00", "2099-01-01T00:00"] {
        assert_eq!(findings[0].check_time(at(moment)).unwrap_err().reason(), Reason::DocumentDates);
    }
    let clc = without("clc.xml", "<TIME>", "</TIME>");
    assert!(under_the_server(vec![clc])[0].check_time(at("2026-06-01T00:00")).is_err());
}

#[test]
fn a_use_license_is_good_at_a_time_if_one_of_its_rights_is() {
    let view = part("ul.xml", "<VIEW>", "</VIEW>");
    let range = |from: &str, until: &str| {
        format!("<TIME><RANGETIME><FROM>{from}T00:00</FROM><UNTIL>{until}T00:00</UNTIL></RANGETIME></TIME>")
    };
    let with = |time: &str| view.replace("</ACCESS>", &format!("</ACCESS>{time}"));
    let print = |time: &str| with(time).replace("VIEW>", "PRINT>");
    let (over, running) = (range("2020-01-01", "2020-01-02"), range("2026-01-01", "2027-01-01"));
    let interval = "<TIME><INTERVALTIME days=\"30\" /></TIME>";
    for (rights, moment, is_good, idle) in [
        (with(&over), "2026-06-01T00:00", false, &["VIEW"][..]),
        (with(&over) + &print(&running), "2026-06-01T00:00", true, &["VIEW"]),
        (with(&running), "2026-06-01T00:00", true, &[]),
        (with(&running), "2025-06-01T00:00", false, &["VIEW"]),
        (with(interval), "2026-01-20T00:00", true, &[]),
        (with(interval), "2026-02-20T00:00", false, &["VIEW"]),
    ] {
        let findings = under_the_server(vec![changed("ul.xml", "slc", &view, &rights)]);
        assert!(findings[0].is_good(), "{:?}", findings[0].form);
        assert_eq!(findings[0].check_time(at(moment)).is_ok(), is_good, "{rights}");
        assert_eq!(findings[0].idle_rights(at(moment)), idle, "{rights}");
    }
    let whole = format!("<CONDITIONLIST>{over}</CONDITIONLIST></BODY>");
    let findings = under_the_server(vec![changed("ul.xml", "slc", "</BODY>", &whole)]);
    assert!(findings[0].check_time(at("2026-06-01T00:00")).is_err(), "a condition on the whole license");
    let whole = format!("<CONDITIONLIST>{interval}</CONDITIONLIST>");
    for (place, inserted) in [("</BODY>", format!("{whole}</BODY>")), ("</METADATA>", format!("</METADATA>{whole}"))] {
        let findings = under_the_server(vec![changed("ul.xml", "slc", place, &inserted)]);
        assert!(findings[0].check_time(at("2026-01-20T00:00")).is_ok(), "{place}");
        assert!(findings[0].check_time(at("2026-02-20T00:00")).is_err(), "{place}");
    }
    let issuer = part("ul.xml", "<ISSUER>", "</ISSUER>");
    let template = format!(
        "<BODY type=\"Microsoft Official Rights Template\"><ISSUEDTIME>2026-01-02T03:07</ISSUEDTIME><DESCRIPTOR><OBJECT>\
         <ID type=\"MS-GUID\">{{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}}</ID><NAME>x</NAME></OBJECT></DESCRIPTOR>{issuer}\
         <WORK><OBJECT><ID type=\"\" /></OBJECT><PRECONDITIONLIST>{interval}</PRECONDITIONLIST><RIGHTSGROUP \
         name=\"Main-Rights\"><RIGHTSLIST><VIEW><CONDITIONLIST><ACCESS><PRINCIPAL><OBJECT><ID type=\"Internal\">Anyone\
         </ID></OBJECT></PRINCIPAL></ACCESS></CONDITIONLIST></VIEW></RIGHTSLIST></RIGHTSGROUP></WORK></BODY>"
    );
    let template = Key::load("mode2", "slc").document(Root::Server, &Body::read(&template).unwrap(), Hash::Sha256);
    let findings = under_the_server(vec![template]);
    assert!(findings[0].is_good(), "{:?}", findings[0]);
    assert!(findings[0].check_time(at("2026-06-01T00:00")).is_ok(), "it bounds what is published, from then on");
}

#[test]
fn a_part_that_cannot_be_read_is_not_good_and_hides_no_signature_or_link() {
    let bad =
        "</ACCESS><TIME><RANGETIME><FROM>2026-13-45T99:99</FROM><UNTIL>2027-01-01T00:00</UNTIL></RANGETIME></TIME>";
    let junk =
        "<CONDITIONLIST><CONDITION NAME=\"OS-Exclusion\" TYPE=\"versionspan\">junk</CONDITION></CONDITIONLIST></BODY>";
    let twice = "<CONDITIONLIST><CONDITION NAME=\"X\" /></CONDITIONLIST>".repeat(2) + "</BODY>";
    for (from, to, words) in [
        ("</ACCESS>", bad, "2026-13-45T99:99"),
        ("</ACCESS>", "</ACCESS><TIME><INTERVALTIME days=\"many\" /></TIME>", "days=\"many\""),
        ("</ACCESS>", "</ACCESS><TIME><INTERVALTIME weeks=\"1\" /></TIME>", "an attribute weeks"),
        ("</ACCESS>", "</ACCESS><TIME><INTERVALTIME days=\"+5\" /></TIME>", "days=\"+5\", not a number"),
        ("</ACCESS>", "</ACCESS><TIME><INTERVALTIME days=\"\" /></TIME>", "days=\"\", not a number"),
        ("</ACCESS>", "</ACCESS><TIME><INTERVALTIME days=\"0\" /></TIME>", "INTERVALTIME of TIME is zero"),
        ("</BODY>", junk, "a CONDITION of type versionspan is not made of two versions"),
        ("</BODY>", "<POLICYLIST type=\"Exclusion\" /></BODY>", "neither of type exclusion nor of type inclusion"),
        ("</ACCESS>", "</ACCESS><ACCESS />", "more than one ACCESS"),
        ("</BODY>", &twice, "more than one CONDITIONLIST"),
        ("</BODY>", "<POLICYLIST /></BODY>", "POLICYLIST has no attribute type"),
    ] {
        let license = changed("ul.xml", "slc", from, to);
        let findings = under_the_server(vec![license.clone()]);
        assert!(findings[0].signature.is_ok() && matches!(findings[0].link, Link::Document(1)), "{words}");
        assert!(findings[0].form.as_ref().unwrap_err().message().contains(words), "{:?}", findings[0].form);
        assert!(!findings[0].is_good() && !findings[0].is_pinned, "{words}");
        let documents = [vec![license], load("mode2", &ABOVE_SLC)].concat();
        assert!(chain::require(&documents, &[root_pin("mode2")], at("2026-06-01T00:00")).is_err());
    }
    // Without a date nothing links it to others, and its signature is still judged.
    let undated = changed("ul.xml", "slc", "<ISSUEDTIME>", "<ISSUEDTIME>x");
    let findings = under_the_server(vec![undated]);
    assert!(findings[0].content.is_err() && findings[0].signature.is_ok(), "{:?}", findings[0].signature);
    let tampered = Document::read(&vectors::text("mode2/ul.xml").replace("<ISSUEDTIME>", "<ISSUEDTIME>x")).unwrap();
    let findings = under_the_server(vec![tampered]);
    assert_eq!(findings[0].signature.as_ref().unwrap_err().reason(), Reason::SignatureInvalid);
}

#[test]
fn an_issuer_must_have_the_type_of_the_principal_and_other_differences_are_noted() {
    let issuer = part("ul.xml", "<ISSUER>", "</ISSUER>");
    let other = |from: &str, to: &str| {
        let license = changed("ul.xml", "slc", &issuer, &issuer.replace(from, to));
        under_the_server(vec![license]).swap_remove(0)
    };
    assert!(matches!(other("MS-DRM-Server", "ms-drm-server").link, Link::Broken(_)));
    let named = other("<NAME>EXAMPLE-RMS</NAME>", "<NAME>ANOTHER</NAME>");
    assert!(named.is_good() && named.differences == ["NAME"], "{named:?}");
    assert_eq!(other("/_wmcs<", "/other<").differences, ["ADDRESS"]);
    let account = part("rac.xml", "<ISSUER>", "</ISSUER>");
    let levels = changed("rac.xml", "slc", &account, &account.replace("6.3.0.0", "9.9.9.9"));
    assert_eq!(under_the_server(vec![levels])[0].differences, ["SECURITYLEVEL"]);
}

#[test]
fn a_renewed_certificate_is_found_behind_the_one_before_it() {
    let range = part("slc.xml", "<UNTIL>", "</UNTIL>");
    let old = changed("slc.xml", "es", &range, "<UNTIL>2026-01-02T03:05</UNTIL>");
    let findings = under_the_server(vec![vectors::document("mode2/ul.xml"), old]);
    assert!(matches!(findings[0].link, Link::Document(2)) && findings[0].is_pinned, "{:?}", findings[0].link);
}

#[test]
fn what_is_unknown_is_told_in_every_place() {
    let text = vectors::text("mode2/ul.xml")
        .replace("<SIGNATURE>", "<SIGNATURE note=\"x\"><COMMENT>y</COMMENT>")
        .replace("version=\"1.2\"", "version=\"9.9\" other=\"x\"")
        .replace("<WORK>", "<WORK id=\"x\">");
    let findings = chain::check(&[Document::read(&text).unwrap()], &[]);
    let expected = ["XrML/@other", "XrML/@version", "BODY/WORK/@id", "SIGNATURE/@note", "SIGNATURE/COMMENT"];
    assert_eq!(findings[0].unknown, expected);
    let time = "<VALIDITYTIME><FROM>2026-01-01T00:00</FROM><UNTIL>2027-01-01T00:00</UNTIL></VALIDITYTIME></BODY>";
    let point =
        "<DISTRIBUTIONPOINT><OBJECT type=\"Activation\"><ID type=\"MS-GUID\" /></OBJECT></DISTRIBUTIONPOINT></BODY>";
    let list = "<CONDITIONLIST><REFRESH /></CONDITIONLIST></BODY>";
    let owner = "<METADATA><OWNER><OBJECT><ID type=\"Windows\" /></OBJECT></OWNER></METADATA><RIGHTSGROUP";
    let lists = "<CONDITIONLIST><REFRESH /></CONDITIONLIST><RIGHTSGROUP";
    let version = ("version=\"3.0\"", "version=\"9.9\"");
    for (name, (from, to), told) in [
        ("rac.xml", ("</BODY>", "<POLICYLIST type=\"exclusion\" /></BODY>"), &["BODY/POLICYLIST"][..]),
        ("ul.xml", ("</BODY>", time), &["BODY/VALIDITYTIME"]),
        ("clc.xml", ("</BODY>", time), &["BODY/VALIDITYTIME"]),
        ("pl-online.xml", ("</BODY>", time), &[]),
        ("clc.xml", ("</BODY>", list), &["BODY/CONDITIONLIST"]),
        ("pl-online.xml", ("</BODY>", list), &[]),
        ("slc.xml", ("</BODY>", point), &["BODY/DISTRIBUTIONPOINT"]),
        ("clc.xml", ("</BODY>", point), &[]),
        ("slc.xml", ("<RIGHTSGROUP", owner), &["BODY/WORK/METADATA"]),
        ("slc.xml", ("<RIGHTSGROUP", lists), &["BODY/WORK/CONDITIONLIST"]),
        ("clc.xml", ("<RIGHTSLIST>", "<RIGHTSLIST><VIEW />"), &["BODY/WORK/RIGHTSGROUP/RIGHTSLIST/VIEW"]),
        ("ul.xml", ("<RIGHTSLIST>", "<RIGHTSLIST><PRINT />"), &[]),
        ("ul.xml", version, &["BODY/@version"]),
        ("ul.xml", (" version=\"3.0\"", ""), &[]),
    ] {
        let document = changed(name, "slc", from, to);
        assert_eq!(chain::check(&[document], &[])[0].unknown, told, "{name} {to}: no place in a document of its kind");
    }
    let many: String = (0..150).map(|n| format!("<X{n} />")).collect();
    let findings = chain::check(&[changed("ul.xml", "slc", "</BODY>", &format!("{many}</BODY>"))], &[]);
    assert_eq!(findings[0].unknown.len(), 101);
    assert_eq!(findings[0].unknown.last().unwrap(), "and more");
}
