//! The synthetic hierarchy of both modes: what verifies, what fails, and what the typed views say.

use std::path::PathBuf;

use keyward::error::Reason;
use keyward::key::{Hash, RsaPublicKey};
use keyward::xrml::certificate::{Certificate, Stamp};
use keyward::xrml::content::Content;
use keyward::xrml::element::Principal;
use keyward::xrml::kind::Kind;
use keyward::xrml::signature::{self, Root, Signature};
use keyward::xrml::slc::Server;
use keyward::xrml::text::{Body, Document};
use keyward::xrml::time::Range;
use keyward::xrml::ul::UseLicense;
use keyward::xrml::{ca, enrollment_ca, enrollment_service, slc};

pub(super) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/vectors", name].iter().collect()
}

pub(super) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

pub(super) fn document(name: &str) -> Document {
    Document::read(&text(name)).unwrap()
}

pub(super) fn issuer_key(document: &Document) -> RsaPublicKey {
    *Content::read(document.body()).unwrap().issuer.unwrap().key.unwrap()
}

pub(super) fn manifest() -> Vec<(String, bool)> {
    let entries: serde_json::Value = serde_json::from_str(&text("manifest.json")).unwrap();
    let entry = |e: &serde_json::Value| (e["file"].as_str().unwrap().to_owned(), e["expect"] == "verify");
    entries.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn every_vector_verifies_or_fails_as_its_manifest_says() {
    let entries = manifest();
    assert_eq!(entries.len(), 32);
    for (name, good) in entries {
        let document = document(&name);
        let outcome = signature::verify(&document, &issuer_key(&document));
        assert_eq!(outcome.is_ok(), good, "{name}: {outcome:?}");
        if !good {
            assert_eq!(outcome.unwrap_err().reason(), Reason::SignatureInvalid, "{name}");
        }
    }
}

#[test]
fn a_laid_out_copy_fails_and_the_reason_says_what_would_match() {
    for mode in ["mode1", "mode2"] {
        let document = document(&format!("{mode}/slc-NEG-pretty.xml"));
        let error = signature::verify(&document, &issuer_key(&document)).unwrap_err();
        assert!(error.message().contains("white space between its tags removed"), "{error:?}");
        assert!(error.next_step().unwrap().contains("laid out"), "{error:?}");
    }
}

#[test]
fn a_document_is_rebuilt_from_its_body_and_signature_byte_for_byte() {
    for (name, _) in manifest().into_iter().filter(|(_, good)| *good) {
        let document = document(&name);
        let root = match name.split_once('/').unwrap().1 {
            "ul.xml" => Root::UseLicense,
            "revocation-list.xml" => Root::RevocationList,
            "spc.xml" | "pl-offline.xml" | "pl-online.xml" => Root::Client,
            _ => Root::Server,
        };
        let Signature { digest, value } = Signature::read(document.signature().unwrap()).unwrap();
        assert_eq!(signature::complete(root, document.body(), &digest, &value), document.as_str(), "{name}");
    }
}

#[test]
fn kinds_are_told_by_their_fixed_strings() {
    let expected = [
        ("ca.xml", Kind::Ca),
        ("enrollment-ca.xml", Kind::Ca),
        ("enrollment-service.xml", Kind::EnrollmentService),
        ("slc.xml", Kind::Slc),
        ("slc-custom-revocation.xml", Kind::Slc),
        ("sub-slc.xml", Kind::SubSlc),
        ("spc.xml", Kind::Spc),
        ("rac.xml", Kind::Rac),
        ("clc.xml", Kind::Clc),
        ("pl-offline.xml", Kind::Pl),
        ("pl-online.xml", Kind::Pl),
        ("ul.xml", Kind::Ul),
        ("revocation-list.xml", Kind::RevocationList),
    ];
    for (name, kind) in expected {
        assert_eq!(Kind::of(document(&format!("mode2/{name}")).body()).unwrap(), kind, "{name}");
    }
}

#[test]
fn a_use_license_shows_its_parts() {
    let license = UseLicense::read(document("mode2/ul.xml").body()).unwrap();
    assert_eq!(license.issued_time.to_string(), "2026-01-02T03:07");
    assert_eq!(license.descriptor.kind(), "Content-License");
    assert_eq!(license.guid(), "{7a925b0c-b918-450b-8b7f-33719847a8b2}");
    let issuer = license.issuer.object.as_ref().unwrap();
    assert_eq!(issuer.kind(), "MS-DRM-Server");
    assert_eq!(issuer.url(), Some("https://rms.example.test/_wmcs"));
    assert_eq!(license.issuer.level("Server-SKU"), Some("RMS 2.0"));
    assert_eq!(license.licensee.object.as_ref().unwrap().name.as_deref(), Some("alice@example.test"));
    assert_eq!(license.content_id(), "{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}");
    assert_eq!(license.owner().unwrap().name.as_deref(), Some("alice@example.test"));
    let [right] = license.rights() else { panic!("one right") };
    assert_eq!((right.name.as_str(), right.has_enabling_bits()), ("VIEW", true));
}

#[test]
fn a_use_license_is_written_as_it_was_read() {
    for mode in ["mode1", "mode2"] {
        let document = document(&format!("{mode}/ul.xml"));
        let written = UseLicense::read(document.body()).unwrap().write().unwrap();
        assert_eq!(written.as_str(), document.body().as_str());
    }
}

#[test]
fn issuing_certificates_are_written_as_they_were_read() {
    type Read = fn(&Body) -> keyward::error::Result<Certificate>;
    let files: [(&str, Read); 6] = [
        ("ca.xml", ca::read),
        ("enrollment-ca.xml", enrollment_ca::read),
        ("enrollment-service.xml", enrollment_service::read),
        ("slc.xml", slc::read),
        ("slc-custom-revocation.xml", slc::read),
        ("sub-slc.xml", slc::read),
    ];
    for mode in ["mode1", "mode2"] {
        for (name, read) in files {
            let document = document(&format!("{mode}/{name}"));
            let certificate = read(document.body()).unwrap();
            assert_eq!(certificate.write().unwrap().as_str(), document.body().as_str(), "{mode}/{name}");
        }
    }
}

#[test]
fn issuing_certificates_are_rebuilt_from_what_an_authority_decides() {
    for mode in ["mode1", "mode2"] {
        let read = |name: &str| document(&format!("{mode}/{name}")).body().clone();
        let stamp = |c: &Certificate| Stamp { guid: c.guid().into(), issued_time: c.issued_time, range: c.range };
        let name = |p: &Principal| p.object.as_ref().unwrap().name.clone().unwrap();
        let server = |c: &Certificate| Server {
            guid: c.principal.object.as_ref().unwrap().id.value.clone(),
            name: Some(name(&c.principal)),
            url: c.principal.object.as_ref().unwrap().url().unwrap().into(),
            version: "6.3.0.0".into(),
            sku: "RMS 2.0".into(),
            key: c.key().unwrap().clone(),
        };
        let ca = ca::read(&read("ca.xml")).unwrap();
        let root = ca::authority(&name(&ca.issuer), *ca.issuer.key.clone().unwrap());
        let subject = ca::authority(&name(&ca.principal), ca.key().unwrap().clone());
        assert_eq!(ca::certificate(&root, subject, stamp(&ca)), ca);

        let eca = enrollment_ca::read(&read("enrollment-ca.xml")).unwrap();
        let subject = ca::authority(&name(&eca.principal), eca.key().unwrap().clone());
        assert_eq!(enrollment_ca::certificate(&ca.principal, subject, stamp(&eca)), eca);

        let es = enrollment_service::read(&read("enrollment-service.xml")).unwrap();
        let guid = es.principal.object.as_ref().unwrap().id.value.clone();
        let subject = enrollment_service::service(&guid, &name(&es.principal), es.key().unwrap().clone());
        assert_eq!(enrollment_service::certificate(&eca.principal, subject, stamp(&es)), es);

        let slc = slc::read(&read("slc.xml")).unwrap();
        assert_eq!(slc::certificate(&es.principal, server(&slc), stamp(&slc)), slc);

        let custom = slc::read(&read("slc-custom-revocation.xml")).unwrap();
        let keys = slc::revocation_keys(&custom);
        assert_eq!(keys[0], es.key().unwrap());
        let third = [keys[1].clone()];
        let built = slc::certificate_with_authorities(&es.principal, server(&custom), stamp(&custom), &third);
        assert_eq!(built.unwrap(), custom);
        assert!(slc::certificate_with_authorities(&es.principal, server(&custom), stamp(&custom), &[]).is_err());

        let sub = slc::read(&read("sub-slc.xml")).unwrap();
        assert_eq!(slc::sub_certificate(&slc, server(&sub), stamp(&sub)).unwrap(), sub);
        let long = Range { from: "2020-01-01T00:00".parse().unwrap(), until: "2060-01-01T00:00".parse().unwrap() };
        let clipped = slc::sub_certificate(&slc, server(&sub), Stamp { range: long, ..stamp(&sub) }).unwrap();
        assert_eq!(clipped.range, slc.range, "a sub certificate does not outlive its parent");
        let late = Range { from: "2050-01-01T00:00".parse().unwrap(), ..long };
        assert!(slc::sub_certificate(&slc, server(&sub), Stamp { range: late, ..stamp(&sub) }).is_err());
    }
}

#[test]
fn a_document_of_another_kind_is_refused_by_its_name() {
    for (name, words) in [
        ("mode2/pl-online.xml", "a publishing license"),
        ("mode2/rac.xml", "a rights account certificate"),
        ("mode2/slc.xml", "a server licensor certificate"),
        ("mode2/revocation-list.xml", "a revocation list"),
        ("mode2/spc.xml", "a machine certificate"),
    ] {
        let error = UseLicense::read(document(name).body()).unwrap_err();
        assert_eq!(error.reason(), Reason::DocumentKind);
        assert!(error.message().contains(words), "{error}");
    }
}

#[test]
fn mandatory_parts_of_a_use_license_may_be_neither_missing_nor_doubled() {
    let whole = document("mode2/ul.xml").body().as_str().to_owned();
    let license = UseLicense::read(&Body::read(&whole).unwrap()).unwrap();
    for name in ["ISSUEDTIME", "DESCRIPTOR", "ISSUER", "ISSUEDPRINCIPALS", "WORK", "METADATA", "RIGHTSGROUP", "ACCESS"]
    {
        let start = whole.find(&format!("<{name}")).unwrap();
        let end = whole.find(&format!("</{name}>")).unwrap() + name.len() + 3;
        let without = [&whole[..start], &whole[end..]].concat();
        let twice = [&whole[..end], &whole[start..]].concat();
        let read = |text: &str| UseLicense::read(&Body::read(text).unwrap());
        // The owner need not be named.
        match read(&without) {
            Ok(license) => assert!(name == "METADATA" && license.owner().is_none(), "without {name}"),
            Err(fault) => assert_eq!(fault.reason(), Reason::DocumentIncomplete, "without {name}"),
        }
        assert_eq!(read(&twice).unwrap_err().reason(), Reason::DocumentIncomplete, "twice {name}");
    }
    // Order does not matter to a reader: the same license with its owner's parts moved reads the same.
    let descriptor = &whole[whole.find("<DESCRIPTOR").unwrap()..whole.find("<ISSUER>").unwrap()];
    let moved = whole.replace(descriptor, "").replace("</BODY>", &format!("{descriptor}</BODY>"));
    assert_eq!(UseLicense::read(&Body::read(&moved).unwrap()).unwrap(), license);
}

#[test]
fn the_digest_is_over_utf_16_little_endian_whatever_the_characters() {
    for filler in ["a", "é", "語", "𝄞", "a語"] {
        let inner = filler.repeat(5000);
        let text = format!("<BODY type=\"LICENSE\"><X>{inner}</X></BODY>");
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &units);
        assert_eq!(signature::digest(&Body::read(&text).unwrap(), Hash::Sha256).bytes(), expected.as_ref(), "{filler}");
    }
}
