//! What this room writes and signs holds for a verifier that shares no code with it: Python's standard library.

use std::process::Command;

use keyward::key::Hash;
use keyward::xrml::certificate::Stamp;
use keyward::xrml::clc::ClientCertificate;
use keyward::xrml::pl::PublishingLicense;
use keyward::xrml::rac::AccountCertificate;
use keyward::xrml::revocation::RevocationList;
use keyward::xrml::signature::Root;
use keyward::xrml::slc::{self, Server};
use keyward::xrml::ul::UseLicense;
use keyward::xrml::{ca, enrollment_ca, enrollment_service};

use super::kit::Key;
use super::vectors;

/// Runs the verifier over files; what it prints, and whether all held.
pub(super) fn run(files: &[String]) -> (String, bool) {
    let script = [env!("CARGO_MANIFEST_DIR"), "tests/xrml/verify.py"].join("/");
    let output = Command::new("python3").arg(script).args(files).output().expect("python3 is needed for this test");
    (String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr), output.status.success())
}

#[test]
fn a_whole_hierarchy_of_ours_verifies_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    for (mode, hash) in [("mode1", Hash::Sha1), ("mode2", Hash::Sha256)] {
        let read = |name: &str| vectors::document(&format!("{mode}/{name}")).body().clone();
        let key = |name: &str| Key::load(mode, name);
        let given = slc::read(&read("slc.xml")).unwrap();
        let stamp = || Stamp {
            guid: "{00000000-1111-2222-3333-444444444444}".into(),
            issued_time: given.issued_time,
            range: given.range,
        };
        let root = ca::authority("Wurzel \u{1F333}", key("root").public());
        let ca = ca::certificate(&root, ca::authority("CA & Söhne <1>", key("ca").public()), stamp());
        let subject = ca::authority("Enrollment \"CA\"", key("eca").public());
        let eca = enrollment_ca::certificate(&ca.principal, subject, stamp());
        let service = enrollment_service::service("{00000000-0000-0000-0000-000000000001}", "登録", key("es").public());
        let es = enrollment_service::certificate(&eca.principal, service, stamp());
        let server = Server {
            guid: "{00000000-0000-0000-0000-000000000002}".into(),
            name: Some("line\nfeed".into()),
            url: "HTTPS://Server.Example/_wmcs?a=1&b=2".into(),
            version: "6.3.0.0".into(),
            sku: "RMS 2.0".into(),
            key: key("slc").public(),
        };
        let slc = slc::certificate_with_authorities(&es.principal, server, stamp(), &[key("rev").public()]).unwrap();
        let documents = [
            key("root").document(Root::Server, &ca.write().unwrap(), hash),
            key("ca").document(Root::Server, &eca.write().unwrap(), hash),
            key("eca").document(Root::Server, &es.write().unwrap(), hash),
            key("es").document(Root::Server, &slc.write().unwrap(), hash),
            key("slc").document(Root::UseLicense, &UseLicense::read(&read("ul.xml")).unwrap().write().unwrap(), hash),
            key("slc").document(
                Root::Server,
                &AccountCertificate::read(&read("rac.xml")).unwrap().write().unwrap(),
                hash,
            ),
            key("slc").document(
                Root::Client,
                &PublishingLicense::read(&read("pl-online.xml")).unwrap().write().unwrap(),
                hash,
            ),
            key("slc").document(
                Root::Server,
                &ClientCertificate::read(&read("clc.xml")).unwrap().write().unwrap(),
                hash,
            ),
            key("clc").document(
                Root::Client,
                &PublishingLicense::read(&read("pl-offline.xml")).unwrap().write().unwrap(),
                hash,
            ),
            key("es").document(Root::Server, &slc::read(&read("slc.xml")).unwrap().write().unwrap(), hash),
            key("slc").document(Root::Server, &slc::read(&read("sub-slc.xml")).unwrap().write().unwrap(), hash),
            key("rev").document(
                Root::RevocationList,
                &RevocationList::read(&read("revocation-list.xml")).unwrap().write().unwrap(),
                hash,
            ),
        ];
        let files: Vec<String> = (0..documents.len())
            .map(|at| directory.path().join(format!("{mode}-{at}.xml")).display().to_string())
            .collect();
        for (file, document) in files.iter().zip(&documents) {
            std::fs::write(file, document.as_str()).unwrap();
        }
        let (printed, all) = run(&files);
        assert!(all && printed.matches("ok ").count() == documents.len(), "{printed}");
    }
}

#[test]
fn the_other_verifier_agrees_on_every_vector() {
    for (name, good) in vectors::manifest() {
        if name.contains("pretty") {
            continue; // it reads no white space between tags at all
        }
        let (printed, all) = run(&[vectors::path(&name).display().to_string()]);
        assert_eq!(all, good, "{name}: {printed}");
    }
}
