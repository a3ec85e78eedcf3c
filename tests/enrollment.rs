//! Enrollment offline, and joining: every check by what fails just it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use keyward::enrollment::request::Request;
use keyward::enrollment::response;
use keyward::error::Reason;
use keyward::grpc::client::{Connection, failed};
use keyward::grpc::v1;
use keyward::xrml::chain::Pin;
use keyward::xrml::value::key_from_der;
use serde_json::Value;

use crate::kit::{Instance, events, keyward, python};

/// An instance with a cluster that waits for its certificate, and the authority's response to it.
fn waiting(more: &[&str]) -> (Instance, PathBuf) {
    let mut instance = Instance::new();
    instance.start();
    let made = instance.create_cluster("demo", more);
    let response = instance.process("demo", &made);
    (instance, response)
}

fn state(instance: &Instance) -> Value {
    instance.json(&["cluster", "get", "demo"])["state"].clone()
}

/// The response as text, and back.
fn edit(response: &Path, edit: impl FnOnce(String) -> String) -> PathBuf {
    let bytes = fs::read(response).unwrap();
    let units: Vec<u16> = bytes[2..].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = edit(String::from_utf16(&units).unwrap());
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let edited = response.with_extension(format!("edited-{}.xml", COUNT.fetch_add(1, Ordering::Relaxed)));
    let wide = text.encode_utf16().flat_map(u16::to_le_bytes);
    fs::write(&edited, [0xFF, 0xFE].into_iter().chain(wide).collect::<Vec<u8>>()).unwrap();
    edited
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_issues_nothing_before_its_certificate_is_imported() {
    let (instance, response) = waiting(&[]);
    assert_eq!(state(&instance), "awaiting-enrollment");
    instance.node("demo", "node-1");
    let node = instance.connect("node-1").await;
    let request = instance.draft("demo").request("clusters/demo");
    let refused = failed(node.licensing().sign_document(request.clone()).await.unwrap_err());
    assert_eq!(refused.reason(), Reason::ClusterNotEnrolled);
    let status = node.licensing().sign_document(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);

    instance.import("demo", &response, &[]).good();
    assert_eq!(state(&instance), "enrolled");
    node.licensing().sign_document(request).await.unwrap();
}

#[test]
fn the_whole_chain_of_a_license_verifies_under_the_pinned_root_only() {
    let instance = Instance::with_cluster();
    let (body, license) = (instance.path("body.xml"), instance.path("license.xml"));
    fs::write(&body, instance.draft("demo").body()).unwrap();
    let identity = instance.path("node-1");
    let args = ["license", "sign", body.to_str().unwrap(), "--as", identity.to_str().unwrap(), "--out"];
    keyward(&[&args[..], &[license.to_str().unwrap()]].concat()).good();
    let root = instance.path("root.pem");

    let verdict = |file: &Path, pin: Option<&Path>| {
        let mut args = vec!["verify".to_owned(), file.display().to_string(), "--output".into(), "json".into()];
        args.extend(pin.into_iter().flat_map(|pin| ["--pin".to_owned(), pin.display().to_string()]));
        keyward(&args)
    };
    verdict(&license, Some(&root)).good();
    python("verify_license.py", &[&license, "--pin".as_ref(), &root]).good();
    assert_eq!(verdict(&license, None).code, Some(2), "good, but nobody pinned the root");

    let other = Instance::new();
    other.authority();
    let foreign = other.path("root.pem");
    assert_ne!(verdict(&license, Some(&foreign)).code, Some(0));
    assert_ne!(python("verify_license.py", &[&license, "--pin".as_ref(), &foreign]).code, Some(0));

    let text = fs::read_to_string(&license).unwrap();
    fs::write(&license, text.replacen("alice@", "mally@", 1)).unwrap();
    assert_eq!(verdict(&license, Some(&root)).code, Some(1));
    assert_eq!(python("verify_license.py", &[&license, "--pin".as_ref(), &root]).code, Some(1));
}

#[test]
fn a_request_exported_again_is_the_same_to_the_byte() {
    let (instance, _) = waiting(&[]);
    let again = instance.path("again.xml");
    instance.cli(&["enroll", "export", "demo", "--out", again.to_str().unwrap()]).good();
    assert_eq!(fs::read(instance.path("demo.request.xml")).unwrap(), fs::read(&again).unwrap());
    let steps: Vec<_> = events(&instance.log(), "enrollment").iter().map(|event| event["step"].clone()).collect();
    assert_eq!(steps, ["request-exported", "request-exported"]);
}

#[test]
fn the_authority_answers_only_what_was_read_out_to_it_and_records_every_request() {
    let mut instance = Instance::new();
    instance.start();
    let made = instance.create_cluster("demo", &[]);
    let authority = instance.authority();
    let request = instance.path("demo.request.xml");
    let out = instance.path("out.xml");
    let process = |request: &Path, words: Option<&str>| {
        let mut args = vec!["authority", "process", authority.to_str().unwrap(), request.to_str().unwrap()];
        args.extend(words.into_iter().flat_map(|words| ["--words", words]));
        args.extend(["--out", out.to_str().unwrap()]);
        keyward(&args)
    };
    let shown = process(&request, None);
    let words = made["enrollment_request"]["words"].as_str().unwrap();
    assert!(shown.stdout.contains(words), "both sides see the same words");
    process(&request, Some("abandon ability able")).refused(77, "PERMISSION_DENIED");
    let exchanged = instance.path("exchanged.xml");
    let text = fs::read_to_string(&request).unwrap();
    fs::write(&exchanged, text.replace("demo.example.test", "evil.example.test")).unwrap();
    process(&exchanged, Some(words)).refused(77, "PERMISSION_DENIED");
    fs::write(&exchanged, &text[..text.len() / 2]).unwrap();
    process(&exchanged, Some(words)).refused(65, "DOCUMENT_MALFORMED");
    assert!(!out.exists(), "no file is left of a response that was not given");
    process(&request, Some(&words.to_uppercase())).good();

    // The authority's own log, through a service that is started on its directory for that.
    let mut books = Instance::new();
    fs::remove_dir_all(books.data()).unwrap();
    fs::rename(&authority, books.data()).unwrap();
    let config = books.data().join("keyward.toml");
    let free = fs::read_to_string(&config).unwrap().replace(":7443", ":0").replace(":7444", ":0");
    fs::write(&config, free).unwrap();
    books.start();
    let log = books.log();
    let steps: Vec<_> = events(&log, "enrollment").iter().map(|event| event["step"].as_str().unwrap()).collect();
    let (received, refused) = ("request-received", "request-refused");
    assert_eq!(steps, [received, received, refused, received, refused, received, received, "response-issued"]);
    assert_eq!(events(&log, "refusal").len(), 2);
    let signed: Vec<_> = events(&log, "intent")
        .iter()
        .filter(|event| event["act"]["do"] == "sign-document")
        .map(|event| event["act"]["kind"].as_str().unwrap())
        .collect();
    let kinds = [
        "ca-certificate",
        "enrollment-ca-certificate",
        "enrollment-service-certificate",
        "server-licensor-certificate",
    ];
    assert_eq!(signed, kinds);
}

#[test]
fn a_response_that_fails_one_check_is_refused_and_changes_nothing() {
    let (instance, response) = waiting(&[]);
    // Another authority, with a root of its own, answers the same request.
    let request = fs::read(instance.path("demo.request.xml")).unwrap();
    let other = Instance::new();
    other.authority();
    fs::write(other.path("demo.request.xml"), &request).unwrap();
    let foreign = other.process_as_shown("demo");
    // The same authority answers other requests.
    let authority_answers = |name: &str, from: &str, to: &str| {
        let text = String::from_utf8(request.clone()).unwrap();
        assert!(text.contains(from));
        fs::write(instance.path(&format!("{name}.request.xml")), text.replace(from, to)).unwrap();
        instance.process_as_shown(name)
    };
    let guid = instance.json(&["cluster", "get", "demo"])["guid"].as_str().unwrap().trim_matches(['{', '}']).to_owned();
    let other_key = instance.create_cluster("second", &[]);
    let second = instance.process("second", &other_key);
    let der = |text: &str| {
        let start = text.find("<aPublicKeyBytes>").unwrap() + 17;
        text[start..start + text[start..].find('<').unwrap()].to_owned()
    };
    let own_key = der(std::str::from_utf8(&request).unwrap());
    let second_key = der(&fs::read_to_string(instance.path("second.request.xml")).unwrap());
    let custom = format!(
        "CustomRevocation</RevocationType><aRevocationAuthorities><RevocationAuthorityInformation><aRevocationAuthorityPublicKey>{second_key}</aRevocationAuthorityPublicKey></RevocationAuthorityInformation></aRevocationAuthorities>"
    );
    let cases: Vec<(&str, PathBuf, &str)> = vec![
        ("cut off", edit(&response, |text| text[..text.len() / 2].into()), "DOCUMENT_MALFORMED"),
        ("another root", foreign, "CHAIN_INVALID"),
        ("another request's", second, "ISSUER_KEY_FOREIGN"),
        ("another key", authority_answers("key", &own_key, &second_key), "ISSUER_KEY_FOREIGN"),
        (
            "another guid",
            authority_answers("guid", &guid, "11111111-2222-3333-4444-555555555555"),
            "ISSUER_KEY_FOREIGN",
        ),
        (
            "revocation not asked for",
            authority_answers("revocation", "StandardRevocation</RevocationType>", &custom),
            "CHAIN_INVALID",
        ),
        ("another sku", authority_answers("sku", "RMS 2.0", "RMS 9.9"), "CHAIN_INVALID"),
        ("another version", authority_answers("version", "6.0.0.0", "7.0.0.0"), "CHAIN_INVALID"),
        ("another name", authority_answers("name", "<Name>DEMO", "<Name>OMED"), "CHAIN_INVALID"),
        ("another url", authority_answers("url", "https://demo.", "https://omed."), "CHAIN_INVALID"),
    ];
    let copies: Vec<(&str, PathBuf, &str)> =
        vec![("a changed letter", edit(&response, |text| text.replacen("RMS 2.0", "RMS 2.1", 1)), "SIGNATURE_INVALID")];
    let before = instance.json(&["cluster", "get", "demo"]);
    for (what, file, reason) in cases.iter().chain(&copies) {
        let ran = instance.import("demo", file, &[]);
        assert_eq!(ran.code, Some(65), "{what}: {ran:?}");
        assert!(ran.stderr.contains(&format!("[{reason}]")), "{what}: {}", ran.stderr);
        assert_eq!(instance.json(&["cluster", "get", "demo"]), before, "{what} changed nothing");
    }
    // Three documents instead of four.
    let short = edit(&response, |text| {
        let (from, to) = (text.find("<CACert>").unwrap(), text.find("</CACert>").unwrap() + 9);
        text.replace(&text[from..to], "")
    });
    instance.import("demo", &short, &[]).refused(65, "CHAIN_INVALID");
    // The right four, two of them exchanged.
    let turned = edit(&response, |text| {
        let part = |name: &str| {
            let from = text.find(&format!("<{name}>")).unwrap() + name.len() + 2;
            text[from..text.find(&format!("</{name}>")).unwrap()].to_owned()
        };
        let (service, enrollment_ca) = (part("EnrollmentServiceCert"), part("EnrollmentCACert"));
        text.replace(&service, "\u{1}").replace(&enrollment_ca, &service).replace('\u{1}', &enrollment_ca)
    });
    instance.import("demo", &turned, &[]).refused(65, "CHAIN_INVALID");
    instance.import("none", &response, &[]).refused(65, "NOT_FOUND");
    let without_pin = ["enroll", "import", "demo", response.to_str().unwrap()];
    assert_eq!(instance.cli(&without_pin).code, Some(64), "a pin is required");

    instance.import("demo", &response, &[]).good();
    let second_time = instance.import("demo", &response, &[]).refused(65, "ALREADY_EXISTS");
    assert!(second_time.contains("nothing was changed"), "{second_time}");
    let log = instance.log();
    let refused = events(&log, "enrollment").iter().filter(|event| event["step"] == "response-refused").count();
    assert_eq!(refused, cases.len() + copies.len() + 4, "every result is a record");
}

#[test]
fn a_response_is_good_only_while_its_certificate_may_issue() {
    let (instance, response) = waiting(&[]);
    let request = Request::read(&fs::read(instance.path("demo.request.xml")).unwrap()).unwrap();
    let pem = fs::read_to_string(instance.path("root.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let pins = [Pin::of(&key_from_der(&der).unwrap())];
    let document = fs::read(response).unwrap();
    let verdict = |days: i64| {
        let at = keyward::clock::now() + time::Duration::days(days);
        response::check(&request, &document, &pins, &[], at).map(|_| ()).map_err(|fault| fault.reason())
    };
    assert_eq!(verdict(0), Ok(()));
    assert_eq!(verdict(364), Ok(()));
    assert_eq!(verdict(366), Err(Reason::DocumentDates), "ended");
    assert_eq!(verdict(-1), Err(Reason::DocumentDates), "not begun");
}

#[test]
fn a_difference_is_accepted_by_name_only_and_recorded() {
    let (instance, _) = waiting(&[]);
    let text = fs::read_to_string(instance.path("demo.request.xml")).unwrap();
    fs::write(instance.path("other.request.xml"), text.replace("6.0.0.0", "6.1.0.0")).unwrap();
    let response = instance.process_as_shown("other");
    let said = instance.import("demo", &response, &[]).refused(65, "CHAIN_INVALID");
    assert!(said.contains("--accept-difference version"), "{said}");
    instance.import("demo", &response, &["--accept-difference", "url"]).refused(65, "CHAIN_INVALID");
    instance.import("demo", &response, &["--accept-difference", "key"]).refused(65, "INVALID_ARGUMENT");
    instance.import("demo", &response, &["--accept-difference", "version"]).good();
    let log = instance.log();
    let imported = events(&log, "enrollment").into_iter().find(|event| event["step"] == "response-imported").unwrap();
    assert!(imported["detail"].as_str().unwrap().contains("version is \"6.1.0.0\""), "{imported}");
}

#[test]
fn custom_revocation_names_the_enrollment_service_first_and_standard_names_nobody() {
    let plain = Instance::with_cluster();
    let chain = plain.json(&["cluster", "get", "demo"])["certificate_chain"][0].as_str().unwrap().to_owned();
    assert!(!chain.contains("REFRESH"), "standard revocation has no condition list");

    // Any RSA key will do for the third party: here it is another cluster's.
    let pem = plain.path("third.pem");
    plain.cli(&["key", "get", "clusters/demo/keys/slc-1", "--pem", pem.to_str().unwrap()]).good();
    let third = plain.json(&["key", "get", "clusters/demo/keys/slc-1"])["public_key"]["modulus_le_base64"].clone();
    let (instance, response) = waiting(&["--revocation-key", pem.to_str().unwrap()]);
    instance.import("demo", &response, &[]).good();
    let cluster = instance.json(&["cluster", "get", "demo"]);
    let slc = cluster["certificate_chain"][0].as_str().unwrap();
    let refresh = &slc[slc.find("<REFRESH>").unwrap()..slc.find("</REFRESH>").unwrap()];
    assert_eq!(refresh.matches("<DISTRIBUTIONPOINT>").count(), 2);
    let service = cluster["certificate_chain"][1].as_str().unwrap();
    let principal = &service[service.find("<ISSUEDPRINCIPALS>").unwrap()..];
    let start = principal.find("size=\"2048\">").unwrap() + 12;
    let own = &principal[start..start + principal[start..].find('<').unwrap()];
    let (first, second) = (refresh.find(own).unwrap(), refresh.find(third.as_str().unwrap()).unwrap());
    assert!(first < second, "the enrollment service's own key comes first");
}

#[test]
fn killed_during_the_import_the_cluster_is_enrolled_wholly_or_not_at_all() {
    for (point, expected) in [("checked:import", "awaiting-enrollment"), ("committed:import", "enrolled")] {
        let (mut instance, response) = waiting(&[]);
        assert_eq!(instance.stop(), Some(0));
        instance.start_with(&[("KEYWARD_FAULTPOINT", point)]);
        let pin = instance.path("root.pem");
        let data = instance.data();
        let mut call = std::process::Command::new(crate::kit::KEYWARD)
            .args(["enroll", "import", "demo"])
            .arg(&response)
            .arg("--pin")
            .arg(&pin)
            .arg("--data")
            .arg(&data)
            .spawn()
            .unwrap();
        instance.wait_for_line(&format!("faultpoint {point}"));
        instance.kill();
        assert!(!call.wait().unwrap().success());
        instance.start();
        assert_eq!(state(&instance), expected, "killed at {point}");
        let chain = instance.json(&["cluster", "get", "demo"])["certificate_chain"].as_array().unwrap().len();
        assert_eq!(chain, if expected == "enrolled" { 4 } else { 0 });
        if expected != "enrolled" {
            instance.import("demo", &response, &[]).good();
        }
        instance.log();
    }
}

#[test]
fn a_join_token_admits_one_node_once_and_in_time() {
    let instance = Instance::with_cluster();
    let token = instance.path("node-1.join.toml");
    let text = fs::read_to_string(&token).unwrap();
    let out = instance.path("again");
    let join = |token: &Path| keyward(&["node", "join", token.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    join(&token).refused(77, "UNAUTHENTICATED");
    let guessed = instance.path("guessed.toml");
    let secret = text.lines().find(|line| line.starts_with("secret")).unwrap();
    fs::write(&guessed, text.replace(secret, &format!("secret = \"{}\"", "00".repeat(32)))).unwrap();
    join(&guessed).refused(77, "UNAUTHENTICATED");
    assert!(!out.exists(), "nothing is left of a join that failed");
    let log = instance.log();
    let hidden = secret.split('"').nth(1).unwrap();
    assert!(!serde_json::to_string(&log).unwrap().contains(hidden), "the secret is in no record");
    let store = fs::read(instance.data().join("keyward.db")).unwrap();
    let wal = fs::read(instance.data().join("keyward.db-wal")).unwrap_or_default();
    for file in [store, wal] {
        assert!(!file.windows(hidden.len()).any(|window| window == hidden.as_bytes()), "it is stored hashed");
    }
    let invite = |id: &str, minutes: &str| {
        let token = instance.path(&format!("{id}.toml"));
        instance.cli(&[
            "node",
            "invite",
            id,
            "--cluster",
            "demo",
            "--token-minutes",
            minutes,
            "--out",
            token.to_str().unwrap(),
        ])
    };
    invite("node-3", "1000000").refused(65, "INVALID_ARGUMENT");
    invite("node-3", "10").good();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_join_listener_offers_nothing_but_joining() {
    let instance = Instance::with_cluster();
    let line = instance.printed().iter().find_map(|line| line.strip_prefix("joining nodes on ")).unwrap().to_owned();
    let ca = fs::read_to_string(instance.data().join("tls/authority.pem")).unwrap();
    let connection = Connection::joiner(&format!("https://{line}"), &ca).await.unwrap();
    let request = v1::GetClusterRequest { name: "clusters/demo".into() };
    let status = connection.clusters().get_cluster(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    let request = instance.draft("demo").request("clusters/demo");
    let status = connection.licensing().sign_document(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    // And the door of nodes admits nobody without a certificate.
    let anonymous = Connection::joiner(&instance.server(), &ca).await;
    let fault = match anonymous {
        Err(fault) => fault.reason(),
        Ok(connection) => {
            let request = v1::GetClusterRequest { name: "clusters/demo".into() };
            failed(connection.clusters().get_cluster(request).await.unwrap_err()).reason()
        }
    };
    assert!(matches!(fault, Reason::PeerUnreachable | Reason::PeerRefused), "{fault:?}");
}
