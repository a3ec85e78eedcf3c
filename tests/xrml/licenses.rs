//! Users' and contents' documents: written as read, rebuilt, and tolerant of the forms that other software writes.

use keyward::error::Reason;
use keyward::key::Hash;
use keyward::xrml::clc::ClientCertificate;
use keyward::xrml::element::{Id, Object};
use keyward::xrml::kind::Kind;
use keyward::xrml::license::{Condition, Conditions, Right};
use keyward::xrml::pl::{self, PublishingLicense};
use keyward::xrml::policy::PolicyKind;
use keyward::xrml::rac::AccountCertificate;
use keyward::xrml::revocation::RevocationList;
use keyward::xrml::rights_data::RightsData;
use keyward::xrml::signature::{self, Root};
use keyward::xrml::spc::MachineCertificate;
use keyward::xrml::template;
use keyward::xrml::text::{Body, Document};
use keyward::xrml::ul::UseLicense;

use super::kit::Key;
use super::vectors;

#[test]
fn every_kind_is_written_as_it_was_read() {
    type Rewrite = fn(&Body) -> Body;
    let files: [(&str, Rewrite); 7] = [
        ("spc.xml", |body| MachineCertificate::read(body).unwrap().write().unwrap()),
        ("rac.xml", |body| AccountCertificate::read(body).unwrap().write().unwrap()),
        ("clc.xml", |body| ClientCertificate::read(body).unwrap().write().unwrap()),
        ("pl-offline.xml", |body| PublishingLicense::read(body).unwrap().write().unwrap()),
        ("pl-online.xml", |body| PublishingLicense::read(body).unwrap().write().unwrap()),
        ("ul.xml", |body| UseLicense::read(body).unwrap().write().unwrap()),
        ("revocation-list.xml", |body| RevocationList::read(body).unwrap().write().unwrap()),
    ];
    for mode in ["mode1", "mode2"] {
        for (name, rewrite) in files {
            let document = vectors::document(&format!("{mode}/{name}"));
            assert_eq!(rewrite(document.body()).as_str(), document.body().as_str(), "{mode}/{name}");
        }
    }
}

#[test]
fn the_hardware_id_of_a_machine_may_lie_about_its_size_and_is_written_as_it_was_read() {
    let plain = vectors::document("mode2/spc.xml").body().as_str().to_owned();
    let (start, rest) = plain.split_once("<VALUE encoding=\"base64\" size=\"256\">").unwrap();
    let rest = rest.split_once("</VALUE>").unwrap().1;
    let text = format!("{start}<VALUE encoding=\"base64\" size=\"160\">{}</VALUE>{rest}", "AAEC".repeat(21) + "AA==");
    let machine = MachineCertificate::read(&Body::read(&text).unwrap()).unwrap();
    assert_eq!(machine.machine.hardware.as_ref().unwrap().bytes.len(), 64);
    assert_eq!(machine.write().unwrap().as_str(), text);
}

#[test]
fn a_sealed_key_before_the_levels_reads_as_one_after_them() {
    let plain = vectors::document("mode2/pl-online.xml").body().as_str().to_owned();
    let bits = &plain[plain.find("<ENABLINGBITS").unwrap()..plain.find("</ENABLINGBITS>").unwrap() + 15];
    let principal = plain.find("<ISSUEDPRINCIPALS>").unwrap();
    let level = principal + plain[principal..].find("<SECURITYLEVEL").unwrap();
    let text = format!("{}{bits}{}", &plain[..level], plain[level..].replacen(bits, "", 1));
    assert_ne!(text, plain);
    let read = |text: &str| PublishingLicense::read(&Body::read(text).unwrap()).unwrap();
    assert_eq!(read(&text), read(&plain));
    assert!(
        pl::bound_text(&Body::read(&text).unwrap()).unwrap() == pl::bound_text(&Body::read(&plain).unwrap()).unwrap()
    );
}

#[test]
fn rights_data_are_written_as_they_were_read() {
    for mode in ["mode1", "mode2"] {
        let notes: serde_json::Value = serde_json::from_str(&vectors::text(&format!("{mode}/profile.json"))).unwrap();
        let text = notes["erd_plaintext"].as_str().unwrap();
        let document = Document::read_unsigned(text).unwrap();
        let written = RightsData::read(document.body()).unwrap().write().unwrap();
        assert_eq!(signature::unsigned(Root::Client, &written), text, "{mode}");
    }
}

#[test]
fn the_text_a_seal_is_bound_to_is_the_same_before_and_after_the_license_is_written() {
    let document = vectors::document("mode2/pl-online.xml");
    let license = PublishingLicense::read(document.body()).unwrap();
    let bound = pl::bound_text(document.body()).unwrap();
    assert_eq!(pl::bound_text_of(&license.server), bound);
    assert!(!bound.contains("ENABLINGBITS") && bound.starts_with("<ISSUEDPRINCIPALS>"));
}

/// The shapes of client-made documents: parts in other orders, spaces around '=', long forms of empty elements.
fn client_made(text: &str) -> String {
    let digest_at = text.find("<DIGEST>").unwrap();
    let digest_end = text.find("</DIGEST>").unwrap() + "</DIGEST>".len();
    let digest = &text[digest_at..digest_end];
    let algorithm = "<ALGORITHM>RSA PKCS#1-V1.5</ALGORITHM>";
    text.replace(digest, "").replace(algorithm, &format!("{algorithm}{digest}"))
}

#[test]
fn the_clients_order_within_signature_verifies() {
    for mode in ["mode1", "mode2"] {
        let text = client_made(&vectors::text(&format!("{mode}/pl-offline.xml")));
        assert!(text.contains("<SIGNATURE><ALGORITHM>"));
        let document = Document::read(&text).unwrap();
        assert!(signature::verify(&document, &vectors::issuer_key(&document)).is_ok());
    }
}

#[test]
fn a_clients_spelling_of_elements_reads_the_same_and_is_signed_as_it_stands() {
    let key = Key::load("mode2", "slc");
    let plain = vectors::document("mode2/ul.xml").body().as_str().to_owned();
    let work = &plain[plain.find("<VIEW>").unwrap()..plain.find("</RIGHTSLIST>").unwrap()];
    let owner = work
        .replace("<VIEW>", "<RIGHT name = \"OWNER\">")
        .replace("</VIEW>", "</RIGHT>")
        .replace("<CONDITIONLIST>", "")
        .replace("</CONDITIONLIST>", "");
    let levels = "<SECURITYLEVEL name='Server-SKU'  value='RMS &quot;2&quot;' ></SECURITYLEVEL>";
    let text = plain
        .replace(work, &owner)
        .replace("<SECURITYLEVEL name=\"Server-SKU\" value=\"RMS 2.0\" />", levels)
        .replace("https://rms.example.test", "HTTPS://RMS.Example.test:443")
        .replace("<NAME>EXAMPLE-RMS</NAME>", "<NAME>LCID 1033:NAME a;\nLCID 1041:NAME 名前 \u{1F511};\n</NAME>");
    let body = Body::read(&text).unwrap();
    let license = UseLicense::read(&body).unwrap();
    assert_eq!(license.rights()[0].name, "OWNER");
    assert!(license.rights()[0].has_enabling_bits());
    assert_eq!(license.issuer.level("Server-SKU"), Some("RMS \"2\""));
    let server = license.issuer.object.as_ref().unwrap();
    assert_eq!(server.url(), Some("HTTPS://RMS.Example.test:443/_wmcs"));
    assert!(server.name.as_ref().unwrap().ends_with("\u{1F511};\n"));
    let document = key.document(Root::UseLicense, &body, Hash::Sha256);
    assert!(signature::verify(&document, &key.public()).is_ok());
    assert!(document.as_str().contains(levels), "the text is signed as it stands");
}

#[test]
fn guids_are_compared_without_letter_case_and_kept_with_it() {
    let (a, b) =
        (Id::guid("{e40a03db-9fe6-4233-8e6f-deea1bcdd4a2}"), Id::guid("{E40A03DB-9FE6-4233-8E6F-DEEA1BCDD4A2}"));
    assert!(a.is_same(&b) && a != b && a.is_guid() && b.is_guid());
    assert!(!Id::tag("Root").is_same(&Id::tag("root")));
    for text in [
        "e40a03db-9fe6-4233-8e6f-deea1bcdd4a2",
        "{e40a03db9fe642338e6fdeea1bcdd4a2}",
        "{}",
        "{g40a03db-9fe6-4233-8e6f-deea1bcdd4a2}",
    ] {
        assert!(!Id::guid(text).is_guid(), "{text}");
    }
}

#[test]
fn a_referral_after_the_principals_reads_and_writes_at_its_place() {
    let point = "<DISTRIBUTIONPOINT><OBJECT type=\"Referral-Info\"><ID type=\"MS-GUID\">{81C42010-208A-458A-BAB6-C3C60F06DD5F}</ID><ADDRESS type=\"URL\">mailto:a@example.test</ADDRESS></OBJECT></DISTRIBUTIONPOINT>";
    let plain = vectors::document("mode2/pl-online.xml").body().as_str().to_owned();
    let text = plain.replace("</ISSUEDPRINCIPALS>", &format!("</ISSUEDPRINCIPALS>{point}"));
    let license = PublishingLicense::read(&Body::read(&text).unwrap()).unwrap();
    assert_eq!(license.points.len(), 2);
    assert_eq!(license.write().unwrap().as_str(), text);
}

#[test]
fn a_use_license_without_a_descriptor_type_is_one_all_the_same() {
    let text = vectors::document("mode2/ul.xml").body().as_str().replace(" type=\"Content-License\"", "");
    let body = Body::read(&text).unwrap();
    assert_eq!(Kind::of(&body).unwrap(), Kind::Ul);
    assert!(UseLicense::read(&body).is_ok());
}

#[test]
fn a_full_use_license_goes_through_writing_and_reading_unchanged() {
    let mut license = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    let mut second = license.work.rights[0].clone();
    second.name = "OBJMODEL".into();
    second.is_named = true;
    second.conditions.interval = Some(keyward::xrml::time::Interval { days: 10, ..Default::default() });
    let time = |text: &str| text.parse().unwrap();
    let range = |from, until| keyward::xrml::time::Range { from: time(from), until: time(until) };
    second.conditions.ranges =
        vec![range("2026-01-01T00:00", "2027-01-01T00:00"), range("2026-02-01T00:00", "2028-01-01T00:00")];
    license.work.rights.push(second);
    let condition = Condition::os_exclusion("0", "2.1.5.2600");
    assert_eq!(condition.version_span(), Some(("0", "2.1.5.2600")));
    license.conditions = Some(Conditions { named: vec![condition], ..Conditions::default() });
    license.policies.push(keyward::xrml::policy::PolicyList {
        kind: PolicyKind::Exclusion,
        policies: vec![keyward::xrml::policy::Policy {
            id: Id { kind: "filename".into(), value: "bad.exe".into() },
            versions: Some(("0.0.0.0".into(), "1.2.3.4".into())),
        }],
    });
    license.data.push(keyward::xrml::license::AuthenticatedData {
        id: "APPSPECIFIC".into(),
        name: Some("VIEWER".into()),
        value: "1".into(),
    });
    let body = license.write().unwrap();
    assert_eq!(UseLicense::read(&body).unwrap(), license);
    // A TIME holds one range or one interval (MS-RMPR 2.2.9.9.6).
    let times = "<TIME><RANGETIME><FROM>2026-01-01T00:00</FROM><UNTIL>2027-01-01T00:00</UNTIL></RANGETIME></TIME><TIME><RANGETIME><FROM>2026-02-01T00:00</FROM><UNTIL>2028-01-01T00:00</UNTIL></RANGETIME></TIME><TIME><INTERVALTIME days=\"10\" /></TIME>";
    assert!(body.as_str().contains(times), "{}", body.as_str());
    assert!(body.as_str().contains("<CONDITION NAME=\"OS-Exclusion\" TYPE=\"versionspan\">0-2.1.5.2600</CONDITION>"));
    assert!(body.as_str().contains("<VERSIONSPAN min=\"0.0.0.0\" max=\"1.2.3.4\" />"));
}

#[test]
fn a_range_of_versions_is_made_of_two_versions() {
    let condition = |value: &str| Condition { value: value.into(), ..Condition::os_exclusion("0", "1") };
    assert_eq!(condition("\n 0-2.1.5.2600 \n").version_span(), Some(("0", "2.1.5.2600")));
    for value in ["", "junk", "0", "0-", "-1", "0-x", "0..1-2", "0-1-2", "0- 1", "+0-1", "0-99999999999"] {
        assert_eq!(condition(value).version_span(), None, "{value}");
    }
}

#[test]
fn a_use_license_need_not_name_the_owner_and_may_be_issued_by_a_user() {
    let plain = vectors::document("mode2/ul.xml").body().as_str().to_owned();
    let metadata = &plain[plain.find("<METADATA>").unwrap()..plain.find("</METADATA>").unwrap() + 11];
    let text = plain.replace(metadata, "");
    let license = UseLicense::read(&Body::read(&text).unwrap()).unwrap();
    assert!(license.owner().is_none());
    assert_eq!(license.write().unwrap().as_str(), text);
    let issuer = &plain[plain.find("<ISSUER>").unwrap()..plain.find("<PUBLICKEY>").unwrap()];
    let user = "<ISSUER><OBJECT type=\"Group-Identity\"><ID type=\"Windows\">S-1-5-21-7</ID></OBJECT>";
    assert!(UseLicense::read(&Body::read(&plain.replace(issuer, user)).unwrap()).is_ok());
}

#[test]
fn rights_have_elements_of_their_own_where_their_kind_of_document_has_them() {
    let form = |right: Right| (right.name.clone(), !right.is_named);
    let elements = |new: fn(&str, Conditions) -> Right| {
        let names = ["VIEW", "PRINT", "EDIT", "FORWARD", "VIEWRIGHTSDATA", "EXPORT", "EXTRACT", "OWNER", "OBJMODEL"];
        let rights = names.map(|name| form(new(name, Conditions::default())));
        rights.into_iter().filter(|(_, is_element)| *is_element).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(elements(Right::new), ["VIEW", "PRINT", "EDIT", "FORWARD", "VIEWRIGHTSDATA"]);
    assert_eq!(elements(Right::of_template), ["VIEW", "PRINT", "EDIT", "EXPORT", "EXTRACT"]);
}

#[test]
fn a_list_of_no_applications_is_written_as_an_empty_element() {
    let mut license = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    license.policies.push(keyward::xrml::policy::PolicyList { kind: PolicyKind::Exclusion, policies: vec![] });
    assert!(license.write().unwrap().as_str().ends_with("<POLICYLIST type=\"exclusion\" /></BODY>"));
}

#[test]
fn what_xml_software_would_change_or_no_reader_would_read_is_not_written() {
    let given = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    let named = |name: &str| {
        let mut license = given.clone();
        license.descriptor.name = Some(name.to_owned());
        license.write()
    };
    assert!(named("LCID 1033:NAME a;\nLCID 1041:NAME b;\n").is_ok());
    assert_eq!(named("a\r\nb").unwrap_err().reason(), Reason::DocumentForbidden);
    assert_eq!(named(" ").unwrap_err().reason(), Reason::DocumentForbidden);
    for name in ["a\tb", "a\nb", "a\rb"] {
        let mut license = given.clone();
        license.work.rights[0] = Right::new(name, license.work.rights[0].conditions.clone());
        assert_eq!(license.write().unwrap_err().reason(), Reason::DocumentForbidden, "{name:?}");
    }
    let mut groupless = given.clone();
    groupless.work.conditions = Some(Conditions { unknown: "<TIME />".into(), ..Conditions::default() });
    assert_eq!(groupless.write().unwrap_err().reason(), Reason::InvalidArgument, "it would read as a known condition");
}

#[test]
fn impossible_values_are_refused_by_their_element() {
    let plain = vectors::document("mode2/ul.xml").body().as_str().to_owned();
    let cases = [
        ("2026-01-02T03:07", "2026-01-02T03:07:00", Reason::DocumentDates),
        ("2026-01-02T03:07", "2026-02-30T03:07", Reason::DocumentDates),
        ("2026-01-02T03:07", "2026-13-02T03:07", Reason::DocumentDates),
        ("2026-01-02T03:07", "2026-01-02T24:00", Reason::DocumentDates),
        ("2026-01-02T03:07", "0000-01-02T03:07", Reason::DocumentDates),
        ("2026-01-02T03:07", "2026-01-02 03:07", Reason::DocumentDates),
        ("2026-01-02T03:07", "+026-01-02T03:07", Reason::DocumentDates),
        ("2026-01-02T03:07", "99999-01-02T03:7", Reason::DocumentDates),
        ("size=\"2048\">", "size=\"2040\">", Reason::DocumentIncomplete),
        ("size=\"2688\">", "size=\"2689\">", Reason::DocumentIncomplete),
        (">65537<", ">3<", Reason::DocumentIncomplete),
        (">65537<", ">065537<", Reason::DocumentIncomplete),
        ("<ALGORITHM>RSA<", "<ALGORITHM>rsa<", Reason::DocumentIncomplete),
        ("encoding=\"base64\"", "encoding=\"hex\"", Reason::DocumentIncomplete),
        ("sealed-key-v2", "sealed-key-v3", Reason::DocumentIncomplete),
        ("qV6metg6", "qV6me g6", Reason::DocumentIncomplete),
        ("qV6metg6", "qV6me-g6", Reason::DocumentIncomplete),
        ("8gr0w==", "8grAA==", Reason::DocumentIncomplete),
        ("<ACCESS><PRINCIPAL internal-id=\"1\">", "<ACCESS><PRINCIPAL internal-id=\"2\">", Reason::DocumentIncomplete),
    ];
    for (from, to, reason) in cases {
        assert!(plain.contains(from), "{from}");
        let text = plain.replace(from, to);
        let read = Body::read(&text).and_then(|body| UseLicense::read(&body));
        assert_eq!(read.expect_err(to).reason(), reason, "{to}");
    }
}

#[test]
fn signatures_with_other_spellings_or_lying_sizes_are_refused() {
    let plain = vectors::text("mode2/ul.xml");
    for (from, to) in [
        ("<ALGORITHM>SHA256<", "<ALGORITHM>SHA-256<"),
        ("<ALGORITHM>SHA256<", "<ALGORITHM>sha256<"),
        ("<ALGORITHM>SHA256<", "<ALGORITHM>SHA1<"),
        ("<ALGORITHM>SHA256<", "<ALGORITHM>MD5<"),
        ("RSA PKCS#1-V1.5", "RSA PKCS#1V1.5"),
        ("surface-coding", "surfacecoding"),
        ("size=\"256\"", "size=\"160\""),
    ] {
        let document = Document::read(&plain.replace(from, to)).unwrap();
        let error = signature::verify(&document, &vectors::issuer_key(&document)).expect_err(to);
        assert_eq!(error.reason(), Reason::DocumentIncomplete, "{to}");
    }
    let document = Document::read(&plain).unwrap();
    let short = Key::load("mode1", "slc").public();
    assert_eq!(signature::verify(&document, &short).unwrap_err().reason(), Reason::SignatureInvalid);
}

#[test]
fn a_template_is_written_signed_and_copied_into_rights_data_verbatim() {
    let key = Key::load("mode2", "slc");
    let license = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    let anyone = keyward::xrml::element::Principal {
        object: Some(Object { id: Id { kind: "Internal".into(), value: "Anyone".into() }, ..Object::default() }),
        ..Default::default()
    };
    let rights = vec![Right::new("VIEW", Conditions { access: vec![anyone], ..Conditions::default() })];
    let nameless = Object { id: Id::default(), ..Object::default() };
    let draft = RightsData {
        is_official: true,
        issued_time: license.issued_time,
        validity: None,
        conditions: None,
        descriptor: Some(
            Object { id: Id::guid("{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}"), ..Object::default() }
                .named("LCID 1033:NAME Read only:DESCRIPTION For all;\n"),
        ),
        issuer: Some(license.issuer.clone()),
        points: vec![],
        work: keyward::xrml::license::Work {
            object: Some(nameless),
            group: Some("Main-Rights".into()),
            rights,
            ..Default::default()
        },
        data: vec![],
        policies: vec![],
    };
    let body = template::write(&draft).unwrap();
    assert!(body.as_str().starts_with("<BODY type=\"Microsoft Official Rights Template\"><ISSUEDTIME>"));
    assert!(body.as_str().contains("<WORK><OBJECT><ID type=\"\" /></OBJECT>"));
    let document = key.document(Root::Server, &body, Hash::Sha256);
    assert_eq!(template::verified(&document, &key.public()).unwrap(), draft);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("template.xml").display().to_string();
    std::fs::write(&file, document.as_str()).unwrap();
    assert!(super::independent::run(&[file]).1, "it holds for other code, too");
    assert_eq!(template::hash(&document).unwrap(), signature::digest(&body, Hash::Sha256));
    let content = keyward::xrml::sealed::ContentKey::new(vec![5; 32]).unwrap();
    let sealed = keyward::xrml::rights_data::encrypt(document.as_str(), &content).unwrap();
    let copy = keyward::xrml::rights_data::decrypt(&sealed, &content).unwrap();
    assert_eq!(copy.as_str(), document.as_str());
    assert!(template::verified(&copy, &key.public()).is_ok());
    assert!(template::read(vectors::document("mode2/ul.xml").body()).is_err());
}
