//! What the fuzz targets do with their bytes, one function each. The tests replay the corpora through the same functions
//! without a fuzzer.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::sync::LazyLock;

use base64::Engine;
use keyward::enrollment::request::Request;
use keyward::enrollment::response;
use keyward::error::Result;
use keyward::key::{Hash, RsaPublicKey};
use keyward::secret::Secret;
use keyward::xrml::certificate::Certificate;
use keyward::xrml::content::Content;
use keyward::xrml::element::{EnablingBits, SealForm};
use keyward::xrml::markup::Element;
use keyward::xrml::policy::admits;
use keyward::xrml::revocation::RevocationList;
use keyward::xrml::rights::{Asker, Identity, evaluate};
use keyward::xrml::sealed::{ContentKey, SealProfile, open};
use keyward::xrml::text::{Body, Document};
use keyward::xrml::time::XrmlTime;
use keyward::xrml::{
    ca, carrier, chain, clc, enrollment_ca, enrollment_service, pl, rac, revocation, rights_data as erd, signature,
    slc, spc, template, ul, unknown,
};

/// A carrier of documents: whatever comes out is a document with one BODY that reads alone as well, and can be checked.
pub fn documents(data: &[u8]) {
    let Ok(documents) = carrier::read(data) else { return };
    for document in &documents {
        let body = document.body();
        assert_eq!(document.as_str().matches("<BODY").count(), 1);
        assert!(document.as_str().contains(body.as_str()));
        let alone = Body::read(body.as_str()).expect("a BODY that was accepted is accepted alone");
        assert_eq!(signature::digest(&alone, Hash::Sha256), signature::digest(body, Hash::Sha256));
    }
    let findings = chain::check(&documents, &[]);
    assert_eq!(findings.len(), documents.len());
    assert!(findings.iter().all(|finding| !finding.is_pinned), "nothing is pinned without a pin");
    judge(&documents);
}

/// The documents of the vectors that a pinned root vouches for, and a list of an authority that one of them names.
struct Vouched {
    bodies: Vec<String>,
    pin: chain::Pin,
    lists: Vec<RevocationList>,
    at: XrmlTime,
}

static VOUCHED: LazyLock<Vouched> = LazyLock::new(|| {
    macro_rules! vectors {
        ($($name:literal)*) => { [$(include_str!(concat!("../../tests/vectors/mode2/", $name, ".xml"))),*] };
    }
    let texts = vectors!("ca" "enrollment-ca" "enrollment-service" "slc" "slc-custom-revocation" "sub-slc" "spc" "rac" "clc"
        "pl-online" "pl-offline" "ul");
    let read = |text: &str| Document::read(text).expect("a vector can be read");
    let root = Content::read(read(texts[0]).body()).ok().and_then(|ca| ca.issuer?.key).expect("an issuer with a key");
    let list = read(include_str!("../../tests/vectors/mode2/revocation-list.xml"));
    Vouched {
        bodies: texts.iter().map(|text| read(text).body().as_str().to_owned()).collect(),
        pin: chain::Pin::of(&root),
        lists: vec![RevocationList::verified(&list).expect("the vector's list is signed")],
        at: "2026-06-01T00:00".parse().expect("a time"),
    }
});

/// Pins, a time and a list: nothing is vouched for but what the keys of the hierarchy signed, and what is good at a time by
/// all of them is what a chain that must be good throughout is held to.
fn judge(documents: &[Document]) {
    let known = &*VOUCHED;
    let findings = chain::check(documents, &[known.pin]);
    let outcomes = revocation::apply(&known.lists, documents, &findings);
    assert_eq!(outcomes.len(), documents.len());
    for (document, finding) in documents.iter().zip(&findings) {
        let is_known = || known.bodies.iter().any(|body| body == document.body().as_str());
        assert!(!finding.is_pinned || (finding.is_good() && is_known()), "only what was signed is pinned");
        let _ = (finding.check_time(known.at.moment()), finding.idle_rights(known.at.moment()));
        let _ = revocation::require_demanded(finding, &known.lists, Some(known.at.moment()));
    }
    if chain::require(documents, &[known.pin], known.at.moment()).is_ok() {
        let is_held = |finding: &chain::Finding| finding.is_good() && finding.check_time(known.at.moment()).is_ok();
        assert!(findings.iter().all(is_held) && findings[0].is_pinned);
    }
}

/// Whether a file is vouched for by the pin from its first document on.
pub fn is_vouched_for(data: &[u8]) -> bool {
    let documents = carrier::read(data).unwrap_or_default();
    chain::check(&documents, &[VOUCHED.pin]).first().is_some_and(|finding| finding.is_pinned)
}

/// One BODY: every element lies within its parent, and every accessor answers.
pub fn markup(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(body) = Body::read(text) else { return };
    assert_eq!(body.as_str(), text);
    walk(body.element());
    if let Ok(document) = Document::read_unsigned(&format!("<XrML>{text}</XrML>")) {
        assert!(unknown::paths(&document).len() <= unknown::UNKNOWN_MAX + 1);
    }
}

fn walk(element: Element<'_>) {
    assert!(element.outer().starts_with('<') && element.outer().ends_with('>'));
    assert!(!element.name().is_empty() && element.outer().contains(element.inner()));
    let _ = (element.attribute("type"), element.content());
    element.children().for_each(walk);
}

/// Every kind: what is read and written again reads the same, and loses nothing that is not told. An issuing certificate is
/// written with its right to issue alone, whatever else its WORK said.
pub fn kinds(data: &[u8]) {
    let Ok(documents) = carrier::read(data) else { return };
    for document in &documents {
        let body = document.body();
        let whole = Content::read(body).ok().filter(|_| unknown::paths(document).is_empty());
        let whole = whole.as_ref();
        let readers: [fn(&Body) -> Result<Certificate>; 4] =
            [ca::read, enrollment_ca::read, enrollment_service::read, slc::read];
        for read in readers {
            again(body, read, Certificate::write, None);
        }
        again(body, spc::MachineCertificate::read, spc::MachineCertificate::write, whole);
        again(body, rac::AccountCertificate::read, rac::AccountCertificate::write, whole);
        again(body, clc::ClientCertificate::read, clc::ClientCertificate::write, None);
        again(body, ul::UseLicense::read, ul::UseLicense::write, whole);
        again(body, erd::RightsData::read, erd::RightsData::write, whole);
        again(body, template::read, template::write, whole);
        again(body, RevocationList::read, RevocationList::write, whole);
        again(body, pl::PublishingLicense::read, pl::PublishingLicense::write, whole);
        let _ = pl::bound_text(body);
    }
}

fn again<T: PartialEq + std::fmt::Debug>(
    body: &Body,
    read: impl Fn(&Body) -> Result<T>,
    write: impl Fn(&T) -> Result<Body>,
    whole: Option<&Content>,
) {
    let Ok(first) = read(body) else { return };
    // Escaping may take a value over a bound; what is written at all must say the same.
    let Ok(written) = write(&first) else { return };
    assert_eq!(read(&written).expect("what we write we read"), first);
    if let Some(whole) = whole {
        assert_eq!(&Content::read(&written).expect("what we write we read"), whole);
    }
}

/// A sealed key, and what a token may answer: nothing opens that was not sealed.
pub fn sealed(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let form = if first & 1 == 0 { SealForm::V1 } else { SealForm::V2 };
    let (plain, raw) = data.split_at(data.len().min(usize::from(first >> 1)));
    let mut modulus = [0xFF; 128];
    modulus[0] = 0x80 | first;
    let key = RsaPublicKey::new(&modulus, 65537).expect("a modulus of the right size");
    let bits = EnablingBits { form, raw: raw.to_vec() };
    let profile = SealProfile::of(form, Hash::Sha1);
    let answer = || (first & 2 == 0).then(|| Secret::new(plain.to_vec()));
    let opened = open(&bits, &key, "<ISSUER>fuzz</ISSUER>", &profile, [3; 32], |_| Ok(answer()));
    assert!(opened.is_err() || answer().is_some());
}

/// Those who ask: nobody in particular; somebody with groups, of names that the vectors have and a fuzzer can reach; a super
/// user.
fn askers() -> [Asker; 3] {
    let mail = |address: &str| Identity { mails: vec![address.into()], ..Identity::default() };
    let user = Identity {
        sid: Some("S-1-5-21-1-2-3-1118".into()),
        account: Some(("Passport".into(), "1".into())),
        ..mail("alice@example.test")
    };
    let groups = vec![mail("bob@example.test"), mail("a")];
    let super_user = Asker { is_super_user: true, ..Asker::default() };
    [Asker::default(), Asker { user, groups, is_super_user: false }, super_user]
}

/// A publishing license of the vectors, for whatever rights data.
static PUBLISHED: LazyLock<pl::PublishingLicense> = LazyLock::new(|| {
    let document =
        Document::read(include_str!("../../tests/vectors/mode2/pl-online.xml")).expect("a vector can be read");
    pl::PublishingLicense::read(document.body()).expect("a vector is a publishing license")
});

/// Encrypted rights, and rights in clear: evaluation answers for anybody.
pub fn rights_data(data: &[u8]) {
    let key = ContentKey::new(vec![7; 16]).expect("sixteen bytes");
    let base64 = base64::engine::general_purpose::STANDARD.encode(data);
    let _ = erd::decrypt(&base64, &key);
    let Ok(documents) = carrier::read(data) else { return };
    for document in &documents {
        let sealed = erd::encrypt(document.as_str(), &key).expect("any text can be encrypted");
        let text = document.as_str().trim_end_matches('\0');
        assert_eq!(erd::decrypt(&sealed, &key).expect("what we encrypt we decrypt").as_str(), text);
        let Ok(rights) = erd::RightsData::read(document.body()) else { continue };
        for (asker, license) in askers().iter().flat_map(|asker| [(asker, None), (asker, Some(&*PUBLISHED))]) {
            let moment = VOUCHED.at.moment();
            let outcome = evaluate(&rights, license, asker, moment);
            let names: HashSet<_> = outcome.grants.iter().map(|grant| &grant.name).collect();
            assert_eq!(names.len(), outcome.grants.len(), "each right is granted once");
            assert!(!asker.is_super_user || names.len() == 1, "a super user has everything");
            assert!(outcome.policies.len() >= rights.policies.len());
            let _ = admits(&outcome.policies, "a", "1.0");
        }
    }
}

/// An enrollment request by file: what is taken is written again and says the same.
pub fn request(data: &[u8]) {
    let Ok(request) = Request::read(data) else { return };
    let written = request.write();
    assert!(written.is_ascii());
    assert_eq!(Request::read(written.as_bytes()).expect("what we write we read"), request);
}

/// A good response, and the request that it answers.
struct Enrolled {
    request: Request,
    certificate: Certificate,
    pin: chain::Pin,
    at: XrmlTime,
}

static ENROLLED: LazyLock<Enrolled> = LazyLock::new(|| {
    let documents = carrier::read(include_bytes!("../corpus/response/soap")).expect("the seed can be read");
    let certificate = slc::read(documents[0].body()).expect("the seed begins with a licensor certificate");
    let root =
        Content::read(documents[3].body()).ok().and_then(|ca| ca.issuer?.key).expect("the seed ends below its root");
    let server = certificate.principal.object.clone().expect("a server has an object");
    let level = |name: &str| certificate.principal.level(name).unwrap_or_default().to_owned();
    let request = Request {
        revocation: Vec::new(),
        key: certificate.key().expect("a server has a key").clone(),
        guid: server.id.value.parse().expect("a server has a GUID"),
        sku: level("Server-SKU"),
        version: level("Server-Version"),
        name: server.name.clone().unwrap_or_default(),
        url: server.url().unwrap_or_default().to_owned(),
    };
    Enrolled { request, pin: chain::Pin::of(&root), at: certificate.issued_time, certificate }
});

/// An enrollment response by file, against a pin: only what the authority signed is ever taken.
pub fn response(data: &[u8]) {
    is_taken(data);
}

/// Whether a response is taken.
pub fn is_taken(data: &[u8]) -> bool {
    let known = &*ENROLLED;
    let checked = response::check(&known.request, data, &[known.pin], &[], known.at.moment());
    let Ok((chain, certificate, differences)) = checked else { return false };
    assert_eq!(certificate, known.certificate);
    assert!(chain.documents.len() == 4 && differences.is_empty());
    true
}
