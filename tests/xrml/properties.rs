//! Properties: what is written reads back equal, any change of a character breaks the signature, no input panics.

use proptest::prelude::*;

use keyward::key::Hash;
use keyward::xrml::carrier;
use keyward::xrml::certificate::{Certificate, Stamp};
use keyward::xrml::clc::ClientCertificate;
use keyward::xrml::element::{DistributionPoint, EnablingBits, Id, Object, Principal};
use keyward::xrml::license::{AuthenticatedData, Conditions, Right, Work};
use keyward::xrml::pl::PublishingLicense;
use keyward::xrml::policy::{Policy, PolicyKind, PolicyList};
use keyward::xrml::rac::AccountCertificate;
use keyward::xrml::revocation::{RevocationList, Revoke};
use keyward::xrml::rights_data::RightsData;
use keyward::xrml::sealed::{ContentKey, Payload, SealProfile, open, seal};
use keyward::xrml::signature;
use keyward::xrml::slc::{self, Server};
use keyward::xrml::spc::MachineCertificate;
use keyward::xrml::template;
use keyward::xrml::text::{Body, Document};
use keyward::xrml::time::{Interval, Range, XrmlTime};
use keyward::xrml::ul::UseLicense;

use super::kit::{Key, profile, seed};
use super::vectors;

/// Any text that XML software hands on as it is, in attributes too.
fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 1..40).prop_map(|chars| {
        let legal = |c: &char| *c >= ' ' && !matches!(c, '\u{FFFE}' | '\u{FFFF}');
        chars.into_iter().filter(legal).collect::<String>() + "x"
    })
}

fn moment() -> impl Strategy<Value = XrmlTime> {
    (0i64..253_402_300_799).prop_map(|s| XrmlTime::from_moment(time::OffsetDateTime::from_unix_timestamp(s).unwrap()))
}

fn range() -> impl Strategy<Value = Range> {
    (moment(), moment()).prop_filter_map("empty", |(from, until)| (from < until).then_some(Range { from, until }))
}

fn certificate() -> impl Strategy<Value = Certificate> {
    let service = slc::read(vectors::document("mode2/slc.xml").body()).unwrap().issuer;
    let key = Key::load("mode2", "slc").public();
    (text(), text(), text(), text(), moment(), range(), any::<u128>()).prop_map(
        move |(name, url, version, sku, issued_time, range, guid)| {
            let hex = format!("{guid:032x}");
            let guid = format!("{{{}-{}-{}-{}-{}}}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
            let server = Server { guid: guid.clone(), name: Some(name), url, version, sku, key: key.clone() };
            slc::certificate(&service, server, Stamp { guid, issued_time, range })
        },
    )
}

/// A use license with any rights, times and names.
fn license() -> impl Strategy<Value = UseLicense> {
    let given = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    let interval = (0u32..400, 0u32..24, 0u32..60, 0u32..60);
    let interval = interval.prop_map(|(days, hours, minutes, seconds)| Interval { days, hours, minutes, seconds });
    let right = (any::<bool>(), text(), proptest::collection::vec(range(), 0..3), proptest::option::of(interval));
    (text(), moment(), proptest::collection::vec(right, 1..6), text(), text()).prop_map(
        move |(name, issued_time, rights, policy, data)| {
            let mut license = UseLicense { issued_time, ..given.clone() };
            license.work.owner.as_mut().unwrap().name = Some(name);
            let base = license.work.rights[0].conditions.clone();
            license.work.rights = rights
                .into_iter()
                .map(|(is_view, name, ranges, interval)| {
                    let name = if is_view { "VIEW" } else { &name };
                    Right::new(name, Conditions { ranges, interval, ..base.clone() })
                })
                .collect();
            let id = Id { kind: "filename".into(), value: policy };
            let policies = vec![Policy { id, versions: Some(("0".into(), "1.2".into())) }];
            license.policies = vec![PolicyList { kind: PolicyKind::Exclusion, policies }];
            license.data = vec![AuthenticatedData { id: "APPSPECIFIC".into(), name: Some(data.clone()), value: data }];
            license
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_certificate_that_is_written_reads_back_equal(certificate in certificate()) {
        let body = certificate.write().unwrap();
        prop_assert_eq!(slc::read(&body).unwrap(), certificate);
    }

    #[test]
    fn a_license_that_is_written_reads_back_equal(license in license()) {
        let body = license.write().unwrap();
        prop_assert_eq!(UseLicense::read(&body).unwrap(), license);
    }

    #[test]
    fn every_other_kind_that_is_written_reads_back_equal(texts in [text(), text(), text()], issued in moment(), range in range()) {
        let [a, b, c] = texts;
        let vector = |name: &str| vectors::document(&format!("mode2/{name}")).body().clone();
        let data = AuthenticatedData { id: "APPSPECIFIC".into(), name: Some(b.clone()), value: c.clone() };
        let named = Object { id: Id { kind: "Windows".into(), value: b.clone() }, ..Object::default() }.named(&a).at(&c);
        let point = DistributionPoint { object: named.clone(), key: None };

        let mut machine = MachineCertificate::read(&vector("spc.xml")).unwrap();
        (machine.issued_time, machine.machine.levels[0].value) = (issued, a.clone());
        prop_assert_eq!(&MachineCertificate::read(&machine.write().unwrap()).unwrap(), &machine);

        let mut account = AccountCertificate::read(&vector("rac.xml")).unwrap();
        (account.issued_time, account.validity, account.points) = (issued, Some(range), vec![point.clone()]);
        account.user.object.as_mut().unwrap().name = Some(a.clone());
        prop_assert_eq!(&AccountCertificate::read(&account.write().unwrap()).unwrap(), &account);
        account.machine = None;
        prop_assert_eq!(&AccountCertificate::read(&account.write().unwrap()).unwrap(), &account);

        let mut client = ClientCertificate::read(&vector("clc.xml")).unwrap();
        (client.issued_time, client.range, client.points) = (issued, range, vec![point.clone(); 2]);
        prop_assert_eq!(&ClientCertificate::read(&client.write().unwrap()).unwrap(), &client);

        let mut license = PublishingLicense::read(&vector("pl-online.xml")).unwrap();
        (license.issued_time, license.validity, license.descriptor) = (issued, Some(range), Some(named.clone()));
        license.data.push(data.clone());
        license.conditions = Some(Conditions { ranges: vec![range], ..Conditions::default() });
        prop_assert_eq!(&PublishingLicense::read(&license.write().unwrap()).unwrap(), &license);

        let access = vec![Principal { object: Some(named.clone()), ..Principal::default() }];
        let right = Right::new(&a, Conditions { ranges: vec![range], access, ..Conditions::default() });
        let work = Work { object: Some(named.clone()), group: Some(b), rights: vec![right], ..license.work.clone() };
        let mut rights = RightsData {
            is_official: false, issued_time: issued, validity: Some(range), descriptor: Some(named.clone()), issuer: None,
            points: vec![point], work, conditions: Some(Conditions { ranges: vec![range], ..Conditions::default() }),
            data: vec![data], policies: vec![],
        };
        prop_assert_eq!(&RightsData::read(&rights.write().unwrap()).unwrap(), &rights);
        rights.descriptor = license.work.object.clone();
        (rights.is_official, rights.issuer) = (true, Some(account.issuer));
        prop_assert_eq!(&template::read(&template::write(&rights).unwrap()).unwrap(), &rights);

        let mut list = RevocationList::read(&vector("revocation-list.xml")).unwrap();
        // An ID with white space around it would name nothing.
        let named = Object { id: Id { value: named.id.value.trim().to_owned(), ..named.id }, ..named };
        list.entries.extend([Revoke::PrincipalId(named.clone()), Revoke::LicenseId(named.clone()), Revoke::ContentId(named)]);
        prop_assert_eq!(&RevocationList::read(&list.write().unwrap()).unwrap(), &list);
    }

    #[test]
    fn a_seal_opens_only_under_its_key_its_form_and_its_text(
        bound in text(), other in text(), key in proptest::collection::vec(any::<u8>(), 16),
        place in any::<prop::sample::Index>(), flip in 1u8.., is_second in any::<bool>()
    ) {
        let (mode, another) = if is_second { ("mode2", "mode1") } else { ("mode1", "mode2") };
        let (given, recipient, stranger) = (profile(mode), Key::load(mode, "slc"), Key::load(mode, "rac"));
        let payload = Payload::Content(ContentKey::new(key).unwrap());
        let bits = seal(&payload, &recipient.public(), &bound, &given, seed()).unwrap();
        let opens = |bits: &EnablingBits, key: &Key, text: &str, profile: &SealProfile| {
            open(bits, &key.public(), text, profile, seed(), |block| key.decrypt(block, &given)).is_ok()
        };
        prop_assert!(opens(&bits, &recipient, &bound, &given));
        prop_assert_eq!(opens(&bits, &recipient, &other, &given), other == bound);
        prop_assert!(!opens(&bits, &stranger, &bound, &given));
        let other_form = profile(another);
        prop_assert!(!opens(&bits, &recipient, &bound, &other_form));
        let renamed = EnablingBits { form: other_form.form, ..bits.clone() };
        prop_assert!(!opens(&renamed, &recipient, &bound, &other_form));
        prop_assert!(!opens(&renamed, &recipient, &bound, &given));
        let mut changed = bits.clone();
        let at = place.index(changed.raw.len());
        changed.raw[at] ^= flip;
        prop_assert!(!opens(&changed, &recipient, &bound, &given), "byte {}", at);
    }

    #[test]
    fn dates_go_to_text_and_back(moment in moment()) {
        prop_assert_eq!(moment.to_string().parse::<XrmlTime>().unwrap(), moment);
    }

    #[test]
    fn any_single_character_changed_in_body_breaks_the_signature(place in any::<prop::sample::Index>(), to in any::<char>()) {
        let document = vectors::document("mode2/ul.xml");
        let key = vectors::issuer_key(&document);
        let body = document.body().as_str();
        let (at, from) = body.char_indices().nth(place.index(body.chars().count())).unwrap();
        prop_assume!(from != to);
        let mut changed = body.to_owned();
        changed.replace_range(at..at + from.len_utf8(), to.encode_utf8(&mut [0; 4]));
        let text = document.as_str().replace(body, &changed);
        if let Ok(document) = Document::read(&text) {
            prop_assert!(signature::verify(&document, &key).is_err());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = carrier::read(&bytes);
    }

    #[test]
    fn no_damage_to_a_document_panics(place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = vectors::text("mode2/pl-online.xml").into_bytes();
        let (at, end) = (place.index(bytes.len()), cut.index(bytes.len()));
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..end]] {
            super::corpus::fuzz::documents(bytes);
            super::corpus::fuzz::kinds(bytes);
            super::corpus::fuzz::markup(bytes);
        }
    }

    #[test]
    fn the_digest_does_not_depend_on_how_the_text_is_cut(inner in text()) {
        let escaped = inner.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").repeat(100);
        let text = format!("<BODY>{escaped}</BODY>");
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &units);
        let digest = signature::digest(&Body::read(&text).unwrap(), Hash::Sha1);
        prop_assert_eq!(digest.bytes(), expected.as_ref());
    }
}
