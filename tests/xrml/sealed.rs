//! Sealed keys: the vectors open, ours open only under their key, form and text, and every failure looks alike.

use keyward::error::{Error, Reason, Result};
use keyward::key::Hash;
use keyward::secret::Secret;
use keyward::xrml::clc::ClientCertificate;
use keyward::xrml::content::Content;
use keyward::xrml::element::{EnablingBits, SealForm};
use keyward::xrml::pl::{self, PublishingLicense};
use keyward::xrml::rac::AccountCertificate;
use keyward::xrml::rights_data;
use keyward::xrml::sealed::{ContentKey, FlagBits, Payload, SEALED_BYTES_MAX, SealProfile, open, seal};
use keyward::xrml::text::Body;
use keyward::xrml::value::key_from_der;

use super::kit::{Key, profile, seed};
use super::vectors;

fn notes(mode: &str) -> serde_json::Value {
    serde_json::from_str(&vectors::text(&format!("{mode}/profile.json"))).unwrap()
}

fn issuer_text(body: &Body) -> String {
    body.element().required("ISSUER").unwrap().outer().to_owned()
}

fn content(payload: Payload) -> ContentKey {
    match payload {
        Payload::Content(key) => key,
        Payload::Private { .. } => panic!("a content key"),
    }
}

#[test]
fn the_publishing_licenses_open_to_the_noted_content_key_and_rights() {
    for mode in ["mode1", "mode2"] {
        let (key, profile) = (Key::load(mode, "slc"), profile(mode));
        for name in ["pl-offline.xml", "pl-online.xml"] {
            let document = vectors::document(&format!("{mode}/{name}"));
            let license = PublishingLicense::read(document.body()).unwrap();
            let bound = pl::bound_text(document.body()).unwrap();
            let decrypt = |block: &[u8]| key.decrypt(block, &profile);
            let opened = open(license.enabling().unwrap(), &key.public(), &bound, &profile, seed(), decrypt);
            let opened = content(opened.unwrap());
            assert_eq!(hex::encode(opened.key().expose()), notes(mode)["content_key_hex"].as_str().unwrap());
            assert_eq!(opened.mode(), 0xFFFF);
            let data = rights_data::decrypt(license.rights_data(), &opened).unwrap();
            assert_eq!(data.as_str(), notes(mode)["erd_plaintext"].as_str().unwrap());
            assert_eq!(rights_data::encrypt(data.as_str(), &opened).unwrap(), license.rights_data());
        }
    }
}

#[test]
fn use_license_account_and_client_certificates_open_for_their_owners() {
    for mode in ["mode1", "mode2"] {
        let profile = profile(mode);
        let open_with = |key: &Key, bits: &EnablingBits, bound: &str| {
            open(bits, &key.public(), bound, &profile, seed(), |block| key.decrypt(block, &profile)).unwrap()
        };
        let ul = vectors::document(&format!("{mode}/ul.xml"));
        let work = Content::read(ul.body()).unwrap().work.unwrap();
        let bits = work.rights[0].conditions.access[0].enabling.clone().unwrap();
        let key = content(open_with(&Key::load(mode, "rac"), &bits, &issuer_text(ul.body())));
        assert_eq!(hex::encode(key.key().expose()), notes(mode)["content_key_hex"].as_str().unwrap());

        let rac = vectors::document(&format!("{mode}/rac.xml"));
        let bits = AccountCertificate::read(rac.body()).unwrap().machine.unwrap().enabling.unwrap();
        let spc = open_with(&Key::load(mode, "spc"), &bits, &issuer_text(rac.body()));
        let clc = vectors::document(&format!("{mode}/clc.xml"));
        let bits = ClientCertificate::read(clc.body()).unwrap().enabling;
        let rac = open_with(&Key::load(mode, "rac"), &bits, &issuer_text(clc.body()));
        for payload in [spc, rac] {
            let Payload::Private { bits, der } = payload else { panic!("a private key") };
            assert_eq!(bits, if mode == "mode1" { 1024 } else { 2048 });
            assert_eq!(der.expose()[0], 0x30);
        }
    }
}

fn profiles() -> Vec<(SealProfile, &'static str)> {
    let lsb = SealProfile { flags: FlagBits::LsbFirst, ..SealProfile::of(SealForm::V2, Hash::Sha1) };
    vec![
        (SealProfile::of(SealForm::V1, Hash::Sha1), "mode1"),
        (SealProfile::of(SealForm::V1, Hash::Sha1), "mode2"),
        (SealProfile::of(SealForm::V2, Hash::Sha1), "mode2"),
        (SealProfile::of(SealForm::V2, Hash::Sha256), "mode2"),
        (lsb, "mode2"),
    ]
}

#[test]
fn what_is_sealed_opens_again_in_every_profile_and_size() {
    for (profile, mode) in profiles() {
        let key = Key::load(mode, "slc");
        for length in [16, 24, 32] {
            let payload = Payload::Content(ContentKey::new(vec![7; length]).unwrap());
            let bits = seal(&payload, &key.public(), "<ISSUER>é</ISSUER>", &profile, seed()).unwrap();
            let opened =
                open(&bits, &key.public(), "<ISSUER>é</ISSUER>", &profile, seed(), |b| key.decrypt(b, &profile));
            assert_eq!(content(opened.unwrap()).key().expose(), vec![7; length]);
            let again = seal(&payload, &key.public(), "<ISSUER>é</ISSUER>", &profile, seed()).unwrap();
            assert_ne!(again.raw, bits.raw, "a session key is fresh each time");
        }
    }
}

#[test]
fn sealed_keys_have_the_sizes_of_real_ones() {
    let sizes = [
        (SealForm::V1, "mode1", 16, 192),
        (SealForm::V1, "mode1", 32, 208),
        (SealForm::V2, "mode2", 16, 336),
        (SealForm::V2, "mode2", 32, 352),
    ];
    for (form, mode, length, bytes) in sizes {
        let payload = Payload::Content(ContentKey::new(vec![1; length]).unwrap());
        let key = Key::load(mode, "slc").public();
        assert_eq!(seal(&payload, &key, "", &SealProfile::of(form, Hash::Sha1), seed()).unwrap().raw.len(), bytes);
    }
}

#[test]
fn a_private_key_is_sealed_and_opened_with_its_size() {
    let (key, profile) = (Key::load("mode2", "spc"), profile("mode2"));
    let payload = Payload::Private { bits: 2048, der: Secret::new(vec![0x30; 1190]) };
    let bits = seal(&payload, &key.public(), "x", &profile, seed()).unwrap();
    let opened = open(&bits, &key.public(), "x", &profile, seed(), |b| key.decrypt(b, &profile)).unwrap();
    let Payload::Private { bits: 2048, der } = opened else { panic!("a private key of 2048 bits") };
    assert_eq!(der.expose().len(), 1190);
}

#[test]
fn every_failure_looks_alike_and_costs_one_decryption() {
    let (profile, key) = (profile("mode2"), Key::load("mode2", "slc"));
    let other = Key::load("mode2", "rac");
    let payload = Payload::Content(ContentKey::new(vec![9; 16]).unwrap());
    let good = seal(&payload, &key.public(), "bound", &profile, seed()).unwrap();
    let changed = |at: usize| {
        let mut raw = good.raw.clone();
        raw[at] ^= 1;
        EnablingBits { raw, ..good.clone() }
    };
    let v1 = SealProfile::of(SealForm::V1, Hash::Sha1);
    let foreign_version =
        EnablingBits { form: SealForm::V2, raw: seal(&payload, &key.public(), "bound", &v1, seed()).unwrap().raw };
    let cases: Vec<(&str, EnablingBits, &str)> = vec![
        ("tail cut", EnablingBits { raw: good.raw[..256].to_vec(), ..good.clone() }, "bound"),
        ("tail of odd length", EnablingBits { raw: good.raw[..300].to_vec(), ..good.clone() }, "bound"),
        ("another form outside", EnablingBits { form: SealForm::V1, ..good.clone() }, "bound"),
        ("another text", good.clone(), "Bound"),
        ("RSA block changed", changed(0), "bound"),
        ("header changed", changed(256), "bound"),
        ("key changed", changed(256 + 32), "bound"),
        ("hash changed", changed(256 + 64), "bound"),
        ("another form inside", foreign_version, "bound"),
        ("sealed to another", seal(&payload, &other.public(), "bound", &profile, seed()).unwrap(), "bound"),
    ];
    let mut messages = Vec::new();
    for (name, bits, bound) in cases {
        let mut calls = 0;
        let result = open(&bits, &key.public(), bound, &profile, seed(), |block| {
            calls += 1;
            key.decrypt(block, &profile)
        });
        let error = result.expect_err(name);
        assert_eq!((error.reason(), calls), (Reason::UnsealFailed, 1), "{name}");
        messages.push(format!("{error} {error:?} {:?}", error.next_step()));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
}

#[test]
fn lying_sizes_and_shapes_are_refused_without_panic() {
    let (profile, key) = (profile("mode2"), Key::load("mode2", "slc"));
    let refuse = |raw: Vec<u8>, plain: Option<Vec<u8>>| {
        let bits = EnablingBits { form: SealForm::V2, raw };
        let opened = open(&bits, &key.public(), "x", &profile, seed(), |_| Ok(plain.map(Secret::new)));
        assert_eq!(opened.unwrap_err().reason(), Reason::UnsealFailed);
    };
    for length in [0, 1, 255, 256, 257, 256 + 16, 256 + 31, 256 + 33, 256 + 48, SEALED_BYTES_MAX + 1, 1 << 20] {
        refuse(vec![0; length], None);
    }
    for plain in [vec![], vec![0; 11], vec![0; 12], vec![0; 28], vec![0xFF; 28], vec![0xFF; 44], vec![0xFF; 245]] {
        refuse(vec![0; 256 + 80], Some(plain));
    }
}

#[test]
fn an_error_of_the_token_is_not_mistaken_for_a_wrong_key() {
    let (profile, key) = (profile("mode2"), Key::load("mode2", "slc"));
    let payload = Payload::Content(ContentKey::new(vec![9; 16]).unwrap());
    let bits = seal(&payload, &key.public(), "x", &profile, seed()).unwrap();
    let busy = |_: &[u8]| -> Result<Option<Secret>> { Err(Error::new(Reason::TokenBusy, "busy")) };
    assert_eq!(open(&bits, &key.public(), "x", &profile, seed(), busy).unwrap_err().reason(), Reason::TokenBusy);
}

#[test]
fn oaep_is_refused_to_a_small_key_and_a_content_key_of_odd_size_is_none() {
    let key = Key::load("mode1", "slc").public();
    let payload = Payload::Content(ContentKey::new(vec![9; 16]).unwrap());
    let error = seal(&payload, &key, "x", &profile("mode2"), seed()).unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(ContentKey::new(vec![1; 7]).is_err());
    assert!(!format!("{payload:?}").contains('9'), "no key in Debug");
}

#[test]
fn rights_data_that_is_none_fails_as_any_other_unsealing() {
    let key = ContentKey::new(vec![3; 16]).unwrap();
    for base64 in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA==", "no base64"] {
        assert_eq!(rights_data::decrypt(base64, &key).unwrap_err().reason(), Reason::UnsealFailed, "{base64}");
    }
}

#[test]
fn public_keys_come_from_both_forms_of_der() {
    for mode in ["mode1", "mode2"] {
        let key = Key::load(mode, "slc").public();
        assert_eq!(key_from_der(&key.pkcs1_der()).unwrap(), key);
        assert_eq!(key_from_der(&key.spki_der()).unwrap(), key);
        assert_eq!(key_from_der(&key.pkcs1_der()[1..]).unwrap_err().reason(), Reason::InvalidArgument);
    }
}

#[test]
fn a_seal_profile_is_recorded_by_the_names_of_its_variants() {
    let profile = SealProfile::of(SealForm::V2, Hash::Sha1);
    let text = serde_json::to_string(&profile).unwrap();
    assert_eq!(text, r#"{"form":"sealed-key-v2","oaep":"sha1","flags":"msb-first","bound":"utf16-element"}"#);
    assert_eq!(serde_json::from_str::<SealProfile>(&text).unwrap(), profile);
}
