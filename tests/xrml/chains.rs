//! Chains: order, linkage, time of issue, pins, and what a licensing-only cluster may not do.

use keyward::error::Reason;
use keyward::key::Hash;
use keyward::xrml::ca;
use keyward::xrml::certificate::{Certificate, Stamp};
use keyward::xrml::chain::{self, Finding, Link, Pin};
use keyward::xrml::clc::ClientCertificate;
use keyward::xrml::element::{Id, Object, Principal};
use keyward::xrml::signature::Root;
use keyward::xrml::slc::{self, Server};
use keyward::xrml::spc::{self, MachineCertificate};
use keyward::xrml::text::{Body, Document, documents};
use keyward::xrml::time::XrmlTime;
use keyward::xrml::ul::UseLicense;

use super::kit::Key;
use super::vectors;

pub(super) const ABOVE_SLC: [&str; 4] = ["slc.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];

pub(super) fn load(mode: &str, names: &[&str]) -> Vec<Document> {
    names.iter().map(|name| vectors::document(&format!("{mode}/{name}"))).collect()
}

fn chain(mode: &str, leaves: &[&str]) -> Vec<Document> {
    load(mode, &[leaves, &ABOVE_SLC].concat())
}

pub(super) fn root_pin(mode: &str) -> Pin {
    Pin::of(&vectors::issuer_key(&vectors::document(&format!("{mode}/ca.xml"))))
}

pub(super) fn at(text: &str) -> time::OffsetDateTime {
    text.parse::<XrmlTime>().unwrap().moment()
}

fn broken(finding: &Finding) -> String {
    match &finding.link {
        Link::Broken(error) => error.message().to_owned(),
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn every_chain_of_the_hierarchy_is_good_and_leads_to_the_pin() {
    let leaves: [&[&str]; 7] = [
        &[],
        &["rac.xml"],
        &["clc.xml"],
        &["ul.xml"],
        &["sub-slc.xml"],
        &["pl-online.xml"],
        &["pl-offline.xml", "clc.xml"],
    ];
    for mode in ["mode1", "mode2"] {
        for leaf in leaves {
            let documents = chain(mode, leaf);
            let findings = chain::check(&documents, &[root_pin("mode1"), root_pin(mode)]);
            assert!(findings.iter().all(|f| f.is_good() && f.is_pinned && f.unknown.is_empty()), "{findings:#?}");
            assert_eq!(findings.iter().filter(|f| f.is_leaf).count(), 1);
            assert!(chain::require(&documents, &[root_pin(mode)], at("2026-06-01T00:00")).is_ok());
        }
    }
}

#[test]
fn without_the_right_pin_a_good_chain_is_good_and_unpinned() {
    let documents = chain("mode2", &["ul.xml"]);
    for pins in [&[][..], &[root_pin("mode1")][..]] {
        let findings = chain::check(&documents, pins);
        assert!(findings.iter().all(|f| f.is_good() && !f.is_pinned));
        assert!(matches!(findings.last().unwrap().link, Link::None));
        let error = chain::require(&documents, pins, at("2026-06-01T00:00")).unwrap_err();
        assert_eq!(error.reason(), Reason::ChainInvalid);
    }
}

#[test]
fn a_pin_may_be_any_issuer_of_the_chain() {
    let documents = load("mode2", &["ul.xml", "slc.xml"]);
    let pin = Pin::of(&vectors::issuer_key(&documents[1]));
    assert!(chain::check(&documents, &[pin]).iter().all(|f| f.is_pinned));
    let server = Pin::of(&vectors::issuer_key(&documents[0]));
    let findings = chain::check(&documents, &[server]);
    assert!(findings[0].is_pinned && !findings[1].is_pinned, "the server's own key vouches for what it signed");
}

#[test]
fn a_pin_is_the_hash_of_the_little_endian_modulus_and_reads_back_from_hex() {
    let pin = root_pin("mode2");
    assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
    for text in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
        assert_eq!(text.parse::<Pin>().unwrap_err().reason(), Reason::InvalidArgument);
    }
}

#[test]
fn the_back_to_back_run_of_a_protected_file_is_taken_as_it_is() {
    let names = [&["pl-offline.xml", "clc.xml", "ul.xml", "clc.xml"][..], &ABOVE_SLC].concat();
    let run: String = names.iter().map(|name| vectors::text(&format!("mode2/{name}"))).collect();
    let findings = chain::check(&documents(&run).unwrap(), &[root_pin("mode2")]);
    assert_eq!(findings.len(), 8);
    assert!(findings.iter().all(|f| f.is_good() && f.is_pinned), "{findings:#?}");
}

#[test]
fn a_missing_or_foreign_certificate_breaks_the_link_at_its_place() {
    let mut documents = chain("mode2", &["rac.xml"]);
    documents.remove(2);
    let findings = chain::check(&documents, &[root_pin("mode2")]);
    assert!(broken(&findings[1]).contains("no later document is its issuer"));
    assert_eq!(findings.iter().map(|f| f.is_pinned).collect::<Vec<_>>(), [false, false, true, true]);

    let other = [load("mode2", &["rac.xml"]), chain("mode1", &[])].concat();
    assert!(broken(&chain::check(&other, &[root_pin("mode1")])[0]).contains("no later document is its issuer"));
}

#[test]
fn the_issuers_id_with_another_key_is_named_as_that() {
    let slc = vectors::text("mode2/slc.xml");
    let principal = &slc[slc.find("<ISSUEDPRINCIPALS>").unwrap()..slc.find("</PRINCIPAL>").unwrap()];
    let other = vectors::text("mode2/sub-slc.xml");
    let others = &other[other.find("<ISSUEDPRINCIPALS>").unwrap()..other.find("</PRINCIPAL>").unwrap()];
    let (guid, key) = (between(principal, "{", "}"), between(others, "\"2048\">", "<"));
    let forged = slc.replace(between(principal, "\"2048\">", "<"), key);
    assert!(forged.contains(guid));
    let documents = [load("mode2", &["rac.xml"]), vec![Document::read(&forged).unwrap()]].concat();
    let findings = chain::check(&documents, &[]);
    assert!(broken(&findings[0]).contains("the ID of the issuer with another key"));
    assert_eq!(findings[1].signature.as_ref().unwrap_err().reason(), Reason::SignatureInvalid);
}

fn between<'a>(text: &'a str, left: &str, right: &str) -> &'a str {
    text.split_once(left).unwrap().1.split_once(right).unwrap().0
}

#[test]
fn a_tampered_certificate_pins_nothing_below_it() {
    let names = ["rac.xml", "slc-NEG-tampered.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];
    let findings = chain::check(&load("mode2", &names), &[root_pin("mode2")]);
    assert!(findings[0].is_good() && !findings[0].is_pinned);
    assert!(!findings[1].is_good() && !findings[1].is_pinned);
    assert!(findings[2].is_pinned);
}

#[test]
fn dates_nest_by_time_of_issue_and_only_the_leaf_is_judged_by_now() {
    let documents = chain("mode2", &["rac.xml"]);
    let pins = [root_pin("mode2")];
    assert!(chain::require(&documents, &pins, at("2027-01-02T03:03")).is_ok());
    let ended = chain::require(&documents, &pins, at("2027-01-02T03:04")).unwrap_err();
    assert_eq!(ended.reason(), Reason::DocumentDates);
    assert!(ended.message().contains("document 1 (rac): not valid since 2027-01-02T03:04"), "{ended}");
    let early = chain::require(&documents, &pins, at("2026-01-02T02:48")).unwrap_err();
    assert!(early.message().contains("not valid before 2026-01-02T02:49"), "{early}");

    // The same leaf under a certificate that could no longer issue when it was made.
    let slc = vectors::text("mode2/slc.xml").replace("2046-01-01T00:00", "2026-01-02T03:04");
    let documents = [load("mode2", &["ul.xml"]), vec![Document::read(&slc).unwrap()]].concat();
    assert!(broken(&chain::check(&documents, &[])[0]).contains("issued at 2026-01-02T03:07"));
}

#[test]
fn a_licensing_only_cluster_certifies_neither_users_nor_servers() {
    let sub = vectors::document("mode2/sub-slc.xml");
    let own = between(sub.as_str(), "<PRINCIPAL internal-id=\"1\">", "</PRINCIPAL>");
    for (name, words) in [("rac.xml", "a rights account certificate"), ("sub-slc.xml", "licensing-only cluster")] {
        let text = vectors::text(&format!("mode2/{name}"));
        let issuer = between(&text, "<ISSUER>", "</ISSUER>");
        let forged = text.replacen(&format!("<ISSUER>{issuer}"), &format!("<ISSUER>{own}"), 1);
        let documents = vec![Document::read(&forged).unwrap(), sub.clone()];
        let message = broken(&chain::check(&documents, &[])[0]);
        assert!(message.contains("may not issue") && message.contains(words), "{message}");
    }
}

#[test]
fn a_user_certificate_is_no_issuer_even_if_its_key_signed() {
    let rac = vectors::document("mode2/rac.xml");
    let own = between(rac.as_str(), "<PRINCIPAL internal-id=\"1\">", "</PRINCIPAL>");
    let text = vectors::text("mode2/ul.xml");
    let forged = text.replace(between(&text, "<ISSUER>", "</ISSUER>"), own);
    let findings = chain::check(&[Document::read(&forged).unwrap(), rac], &[]);
    assert!(matches!(findings[0].link, Link::Broken(_)));
}

#[test]
fn unknown_elements_are_reported_by_path_and_break_nothing_else() {
    let text = vectors::text("mode2/ul.xml")
        .replace("</WORK>", "<NEW a=\"1\"><INNER /></NEW></WORK>")
        .replace("</ISSUER>", "<OTHER>x</OTHER></ISSUER>");
    let document = Document::read(&text).unwrap();
    let findings = chain::check(std::slice::from_ref(&document), &[]);
    assert_eq!(findings[0].unknown, ["BODY/ISSUER/OTHER", "BODY/WORK/NEW"]);
    assert!(findings[0].content.is_ok() && findings[0].signature.is_err());
    assert_eq!(document.as_str(), text);
}

#[test]
fn a_revocation_list_is_linked_by_the_key_that_signed_it() {
    let list = vectors::document("mode2/revocation-list.xml");
    let findings = chain::check(std::slice::from_ref(&list), &[Pin::of(&vectors::issuer_key(&list))]);
    assert!(findings[0].is_good() && findings[0].is_pinned);
    assert!(matches!(chain::check(&[list], &[])[0].link, Link::None));
}

#[test]
fn modes_may_be_mixed_along_a_chain() {
    let stamp = |slc: &Certificate| Stamp { guid: slc.guid().into(), issued_time: slc.issued_time, range: slc.range };
    let service = slc::read(vectors::document("mode2/slc.xml").body()).unwrap().issuer;
    let old = slc::read(vectors::document("mode1/slc.xml").body()).unwrap();
    let server = Server {
        guid: old.principal.object.as_ref().unwrap().id.value.clone(),
        name: None,
        url: "https://old.example.test/_wmcs".into(),
        version: "1.0.3012.0".into(),
        sku: "RMS 1.0".into(),
        key: old.key().unwrap().clone(),
    };
    let body = slc::certificate(&service, server, stamp(&old)).write().unwrap();
    let slc = Key::load("mode2", "es").document(Root::Server, &body, Hash::Sha256);
    let documents = [load("mode1", &["ul.xml"]), vec![slc], chain("mode2", &[])[1..].to_vec()].concat();
    assert!(chain::require(&documents, &[root_pin("mode2")], at("2026-06-01T00:00")).is_ok());
}

/// An issuing certificate of the machines' branch, made as Microsoft's activation would.
fn processor(descriptor: &str, issuer: &Principal, principal: Principal, of: &Certificate) -> Certificate {
    Certificate {
        descriptor: Object::new(descriptor, Id::guid(of.guid())),
        issuer: issuer.as_issuer(),
        principal: Principal { internal_id: Some("1".into()), ..principal },
        ..of.clone()
    }
}

#[test]
fn both_chains_of_machine_certificates_are_good() {
    let key = |name: &str| Key::load("mode2", name);
    let ca = ca::read(vectors::document("mode2/ca.xml").body()).unwrap();
    let spc = vectors::document("mode2/spc.xml");
    let issuer = MachineCertificate::read(spc.body()).unwrap().issuer;
    let authority = |name: &str, by: &str| ca::authority(name, key(by).public());
    let sign = |by: &str, certificate: &Certificate| {
        let body = certificate.write().unwrap();
        assert_eq!(spc::read_issuer(&body).unwrap(), *certificate);
        key(by).document(Root::Server, &body, Hash::Sha256)
    };
    let middle = processor("DRM-CA-Certificate", &ca.principal, authority("Machine Activation Server CA", "eca"), &ca);
    let guid = "{00000000-0000-0000-0000-000000000009}";
    let kind = "DRM-Desktop-Security-Processor-Certificate-Authority";
    let above = Principal::new(Object::new(kind, Id::guid(guid)), key("es").public());
    let above = processor("DRM-CA-Certificate", &middle.principal, above, &ca);
    let own = processor("Server-Licensor-Certificate", &above.principal, issuer.clone(), &ca);
    let root = vectors::document("mode2/ca.xml");
    let documents = [spc.clone(), sign("es", &own), sign("eca", &above), sign("ca", &middle), root.clone()];
    let findings = chain::require(&documents, &[root_pin("mode2")], at("2026-06-01T00:00")).unwrap();
    assert_eq!(chain::names(&findings), ["spc", "processor-issuer", "processor-ca", "ca", "ca"]);

    // Version 1: an activation service, in the form of an enrollment service, issues the machine's certificate itself.
    let service = Principal::new(Object::new("MS-DRM-Server", issuer.object.unwrap().id), *issuer.key.unwrap());
    let service = processor("Server-Licensor-Certificate", &middle.principal, service, &ca);
    let documents = [spc, sign("eca", &service), sign("ca", &middle), root];
    let findings = chain::require(&documents, &[root_pin("mode2")], at("2026-06-01T00:00")).unwrap();
    assert_eq!(chain::names(&findings), ["spc", "enrollment-service", "ca", "ca"]);
}

#[test]
fn a_user_issues_use_licenses_to_itself_as_the_owner_alone() {
    let read = |name: &str| UseLicense::read(vectors::document(&format!("mode2/{name}")).body()).unwrap();
    let clc = ClientCertificate::read(vectors::document("mode2/clc.xml").body()).unwrap();
    let mut owners = UseLicense { issuer: clc.user.as_issuer(), ..read("ul.xml") };
    owners.work.rights.truncate(1);
    owners.work.rights[0].name = "OWNER".into();
    owners.work.rights[0].is_named = true;
    let findings = |license: &UseLicense| {
        let document = Key::load("mode2", "clc").document(Root::UseLicense, &license.write().unwrap(), Hash::Sha256);
        chain::check(&[vec![document], chain("mode2", &["clc.xml"])].concat(), &[root_pin("mode2")])
    };
    assert!(findings(&owners).iter().all(|finding| finding.is_good() && finding.is_pinned));

    let mut others = owners.clone();
    others.licensee.object.as_mut().unwrap().id.value = "S-1-5-21-9-9-9-666".into();
    let mut view = owners.clone();
    view.work.rights[0].name = "VIEW".into();
    let mut both = owners.clone();
    both.work.rights.push(view.work.rights[0].clone());
    for license in [others, view, both] {
        let findings = findings(&license);
        assert!(findings[0].signature.is_ok() && !findings[0].is_pinned);
        assert!(broken(&findings[0]).contains("to itself alone"), "{:?}", findings[0].link);
    }
}

#[test]
fn a_pinned_root_vouches_for_authorities_and_for_nothing_else_that_its_key_signed() {
    let root = vectors::document("mode2/ca.xml");
    let issuer = between(root.as_str(), "<ISSUER>", "</ISSUER>");
    let license = vectors::text("mode2/ul.xml");
    let body = between(&license, "<BODY", "</BODY>");
    let body = format!("<BODY{}</BODY>", body.replace(between(&license, "<ISSUER>", "</ISSUER>"), issuer));
    let signed = Key::load("mode2", "root").document(Root::UseLicense, &Body::read(&body).unwrap(), Hash::Sha256);
    let findings = chain::check(&[signed], &[root_pin("mode2")]);
    assert!(findings[0].form.is_ok() && findings[0].signature.is_ok() && !findings[0].is_pinned);
    assert!(broken(&findings[0]).contains("authority's, which may not issue a use license"), "{:?}", findings[0].link);
}

#[test]
fn a_license_that_stands_before_another_with_the_key_of_its_issuer_is_not_called_forged() {
    let documents = load("mode2", &["ul.xml", "pl-online.xml"]);
    let message = broken(&chain::check(&documents, &[])[0]);
    assert!(message.contains("is no certificate"), "{message}");
}

#[test]
fn a_document_is_not_good_before_it_was_issued() {
    let documents = chain("mode2", &["ul.xml"]);
    let findings = chain::check(&documents, &[]);
    for (moment, is_good) in [("2020-01-01T00:00", false), ("2026-01-02T02:51", false), ("2026-01-02T02:52", true)] {
        assert_eq!(findings[0].check_time(at(moment)).is_ok(), is_good, "issued at 03:07; clocks may differ: {moment}");
    }
}
