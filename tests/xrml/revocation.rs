//! Revocation lists: who may revoke what, and what falls with it.

use keyward::error::Reason;
use keyward::key::Hash;
use keyward::xrml::chain;
use keyward::xrml::element::{Id, Object};
use keyward::xrml::license::Refresh;
use keyward::xrml::revocation::{RevocationList, Revoke, apply, require_fresh};
use keyward::xrml::signature::{self, Root};
use keyward::xrml::slc;
use keyward::xrml::text::{Body, Document};
use keyward::xrml::time::{Interval, XrmlTime};

use super::forms::{changed, part};
use super::kit::Key;
use super::vectors;

fn revoked(lists: &[RevocationList], documents: &[Document]) -> Vec<bool> {
    let findings = chain::check(documents, &[]);
    let revoked = apply(lists, documents, &findings);
    assert!(revoked.iter().all(|outcome| outcome.as_ref().err().is_none_or(|e| e.reason() == Reason::Revoked)));
    revoked.iter().map(Result::is_err).collect()
}

fn load(names: &[&str]) -> Vec<Document> {
    names.iter().map(|name| vectors::document(&format!("mode2/{name}"))).collect()
}

/// The vector's list with other entries, signed by another key of the hierarchy.
fn list(signer: &str, entries: Vec<Revoke>) -> RevocationList {
    let key = Key::load("mode2", signer);
    let mut list = RevocationList::read(vectors::document("mode2/revocation-list.xml").body()).unwrap();
    list.issuer.key = Some(Box::new(key.public()));
    list.entries = entries;
    let document = key.document(Root::RevocationList, &list.write().unwrap(), Hash::Sha256);
    RevocationList::verified(&document).unwrap()
}

#[test]
fn the_named_authority_of_a_server_revokes_it_and_everything_below() {
    let given = RevocationList::verified(&vectors::document("mode2/revocation-list.xml")).unwrap();
    assert_eq!(given.entries.len(), 4);
    let custom = load(&["ul.xml", "slc-custom-revocation.xml", "enrollment-service.xml"]);
    // The list names the standard certificate by GUID and hash, the account key, and the sub key as an issuer.
    assert_eq!(revoked(std::slice::from_ref(&given), &custom), [true, false, false]);
    let standard = load(&["ul.xml", "slc.xml", "enrollment-service.xml"]);
    assert_eq!(revoked(std::slice::from_ref(&given), &standard), [false, false, false], "not an authority there");
    let by_issuer = list("es", given.entries.clone());
    assert_eq!(revoked(&[by_issuer], &standard), [true, true, false]);
}

#[test]
fn every_category_revokes_what_it_names() {
    let documents = load(&["ul.xml", "slc.xml"]);
    let content = |at: usize| keyward::xrml::content::Content::read(documents[at].body()).unwrap();
    let user = content(0).principal.unwrap();
    let work = content(0).work.unwrap().object.unwrap();
    let upper = |object: Object| Object { id: Id { value: object.id.value.to_uppercase(), ..object.id }, ..object };
    let lower = |object: Object| Object { id: Id { value: object.id.value.to_lowercase(), ..object.id }, ..object };
    let server = content(0).issuer.unwrap();
    let cases = [
        ("license-id", Revoke::LicenseId(upper(content(0).descriptor.unwrap())), [true, false]),
        ("license-hash", Revoke::LicenseHash(signature::digest(documents[0].body(), Hash::Sha1)), [true, false]),
        ("license-hash 256", Revoke::LicenseHash(signature::digest(documents[0].body(), Hash::Sha256)), [true, false]),
        ("issuer-key", Revoke::IssuerKey(*server.key.clone().unwrap()), [true, false]),
        ("issuer-id", Revoke::IssuerId(server.object.clone().unwrap()), [true, false]),
        ("principal-key", Revoke::PrincipalKey(*user.key.clone().unwrap()), [true, false]),
        ("principal-id", Revoke::PrincipalId(user.object.clone().unwrap()), [true, false]),
        ("content-id", Revoke::ContentId(work), [true, false]),
        ("principal-id", Revoke::PrincipalId(lower(user.object.clone().unwrap())), [true, false]),
    ];
    for (name, entry, expected) in cases {
        let written = list("slc", vec![entry.clone()]);
        assert_eq!(written.entries, [entry], "{name}");
        assert_eq!(revoked(&[written], &documents), expected, "{name}");
    }
}

#[test]
fn an_entry_of_unknown_meaning_is_kept_and_leaves_open_what_it_revokes() {
    let documents = load(&["ul.xml", "slc.xml"]);
    let content = keyward::xrml::content::Content::read(documents[0].body()).unwrap();
    let unknown = Revoke::Unknown("<REVOKE category=\"license\" type=\"License-id\"><Z /></REVOKE>".into());
    let written = list("slc", vec![unknown.clone()]);
    assert_eq!((&written.entries, written.unknown()), (&vec![unknown.clone()], 1));
    let judge = |lists: &[RevocationList]| apply(lists, &documents, &chain::check(&documents, &[]));
    let outcomes = judge(&[written]);
    assert!(outcomes[0].as_ref().unwrap_err().message().contains("unknown category or type"), "{:?}", outcomes[0]);
    assert!(outcomes[1].is_ok(), "the server's list does not count for the server");
    // An entry of a known type that names nothing is no better understood.
    for (category, kind, object) in [
        ("principal", "principal-id", "<ID type=\"Windows\" /><NAME>alice@example.test</NAME>"),
        ("principal", "principal-id", "<ID type=\"Windows\">S-1-5-21-1-2-3-1118 </ID>"),
        ("license", "license-id", "<ID type=\"MS-GUID\">7a925b0c-b918-450b-8b7f-33719847a8b2</ID>"),
        ("content", "content-id", "<ID type=\"MS-GUID\"> {7a925b0c-b918-450b-8b7f-33719847a8b2}</ID>"),
    ] {
        let text = format!("<REVOKE category=\"{category}\" type=\"{kind}\"><OBJECT>{object}</OBJECT></REVOKE>");
        let nameless = list("slc", vec![Revoke::Unknown(text.clone())]);
        assert_eq!(nameless.entries, [Revoke::Unknown(text)], "read as it was written");
        assert!(judge(&[nameless])[0].is_err(), "{object}");
    }
    let both = list("slc", vec![unknown, Revoke::LicenseId(content.descriptor.unwrap())]);
    assert_eq!(judge(&[both])[0].as_ref().unwrap_err().reason(), Reason::Revoked);
}

#[test]
fn who_is_neither_issuer_nor_named_revokes_nothing() {
    let documents = load(&["ul.xml", "slc.xml"]);
    let content = keyward::xrml::content::Content::read(documents[0].body()).unwrap();
    let entry = Revoke::LicenseId(content.descriptor.unwrap());
    assert_eq!(revoked(&[list("rac", vec![entry.clone()])], &documents), [false, false]);
    assert_eq!(
        revoked(&[list("es", vec![entry])], &documents),
        [true, false],
        "who may revoke the server may revoke less"
    );
}

#[test]
fn a_part_that_cannot_be_read_does_not_switch_revocation_off() {
    let server = load(&["slc.xml"]);
    let judge = |license: Document, list: RevocationList| {
        let documents = [vec![license], server.clone()].concat();
        apply(&[list], &documents, &chain::check(&documents, &[])).swap_remove(0)
    };
    let fault = "<POLICYLIST /></BODY>";
    let object = part("pl-online.xml", "<WORK><OBJECT>", "</OBJECT>");
    let id = object[object.find('{').unwrap()..].split('<').next().unwrap();
    let content = list("slc", vec![Revoke::ContentId(Object { id: Id::guid(id), ..Object::default() })]);
    let broken = changed("pl-online.xml", "slc", "</BODY>", fault);
    assert_eq!(judge(broken.clone(), content).unwrap_err().reason(), Reason::Revoked);
    // A list that does not name what can be read of it may name what cannot.
    let other = list("slc", vec![]);
    let fault_of = |license: Document, list| judge(license, list).unwrap_err();
    assert!(fault_of(broken, other.clone()).message().starts_with("cannot be judged: POLICYLIST has no attribute"));
    let nameless = changed("ul.xml", "slc", "<ISSUEDTIME>", "<ISSUEDTIME>x");
    assert!(fault_of(nameless, other).message().starts_with("cannot be judged"));

    // Authorities that the license itself names, on the content, the whole license, or one right.
    let key = part("rac.xml", "<ISSUEDPRINCIPALS>", "</PUBLICKEY>");
    let key = &key[key.find("<PUBLICKEY>").unwrap()..];
    let point = format!(
        "<DISTRIBUTIONPOINT><OBJECT type=\"Revocation\"><ID type=\"ascii-tag\">x</ID></OBJECT>{key}</DISTRIBUTIONPOINT>"
    );
    let refresh = format!("<REFRESH>{point}<INTERVALTIME days=\"10\" /></REFRESH>");
    let conditions = format!("<CONDITIONLIST>{refresh}</CONDITIONLIST>");
    let content = keyward::xrml::content::Content::read(vectors::document("mode2/ul.xml").body()).unwrap();
    let entry = Revoke::LicenseId(content.descriptor.unwrap());
    for (place, inserted) in [
        ("</METADATA>", format!("</METADATA>{conditions}")),
        ("</WORK>", format!("</WORK>{conditions}")),
        ("</ACCESS>", format!("</ACCESS>{refresh}")),
    ] {
        for fault in ["", fault] {
            let text = part("ul.xml", "<BODY", "</BODY>").replace(place, &inserted);
            let text = if fault.is_empty() { text } else { text.replace("</BODY>", fault) };
            let license =
                Key::load("mode2", "slc").document(Root::UseLicense, &Body::read(&text).unwrap(), Hash::Sha256);
            let outcome = judge(license, list("rac", vec![entry.clone()]));
            assert_eq!(outcome.unwrap_err().reason(), Reason::Revoked, "{place} {fault}");
        }
    }
}

#[test]
fn a_list_that_was_changed_is_not_applied() {
    let text = vectors::text("mode2/revocation-list.xml").replace("Example revocation list", "Example revocation lisT");
    let error = RevocationList::verified(&Document::read(&text).unwrap()).unwrap_err();
    assert_eq!(error.reason(), Reason::SignatureInvalid);
}

#[test]
fn the_spellings_of_the_manual_are_read() {
    let given = vectors::document("mode2/revocation-list.xml");
    let text = given
        .body()
        .as_str()
        .replace("<ALGORITHM>RSA<", "<ALGORITHM>RSA-1024<")
        .replace("\"public-exponent\"", "\"public exponent\"")
        .replace("\"ascii-tag\"", "\"acsii-tag\"")
        .replace("<REVOCATIONLIST>", "<REVOCATIONLIST type=\"x\" xml:space=\"preserve\">");
    assert!(text.contains("acsii-tag") && text.contains("RSA-1024"));
    let read = RevocationList::read(&Body::read(&text).unwrap()).unwrap();
    let plain = RevocationList::read(given.body()).unwrap();
    assert_eq!((read.entries, read.issuer.key), (plain.entries, plain.issuer.key));
}

#[test]
fn a_demanded_list_must_be_there_and_young_enough() {
    let custom = slc::read(vectors::document("mode2/slc-custom-revocation.xml").body()).unwrap();
    let point = custom.revocation.unwrap().points.pop().unwrap();
    let interval = Interval { days: 10, ..Interval::default() };
    let refresh = Refresh { points: vec![point], interval };
    let given = [RevocationList::verified(&vectors::document("mode2/revocation-list.xml")).unwrap()];
    let at = |text: &str| Some(text.parse::<XrmlTime>().unwrap().moment());
    assert!(require_fresh(&refresh, &given, at("2026-01-12T23:59")).is_ok());
    assert!(require_fresh(&refresh, &given, at("2026-01-13T00:00")).is_err());
    assert!(require_fresh(&refresh, &[], at("2026-01-04T00:00")).is_err());
    assert!(require_fresh(&refresh, &given, None).is_ok() && require_fresh(&refresh, &[], None).is_err());
    let nobodys = Refresh { points: vec![], ..refresh.clone() };
    assert!(require_fresh(&nobodys, &given, None).is_err(), "whoever is asked for a list must be told whose");
    let ageless = Refresh { interval: Interval::default(), ..refresh };
    assert!(require_fresh(&ageless, &given, at("2036-01-13T00:00")).is_ok());
}
