//! `keyward verify` and `keyward show` as people and programs call them.

use std::path::Path;
use std::process::{Command, Output};

use keyward::key::Hash;
use keyward::xrml::chain::Pin;
use keyward::xrml::revocation::{RevocationList, Revoke};
use keyward::xrml::signature::Root;
use keyward::xrml::text::Document;
use keyward::xrml::ul::UseLicense;

use super::forms::{changed, part};
use super::kit::Key;
use super::vectors;

const CHAIN: [&str; 4] = ["slc.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];

fn keyward(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyward")).args(arguments).output().unwrap()
}

fn paths(mode: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| vectors::path(&format!("{mode}/{name}")).display().to_string()).collect()
}

fn verify(files: &[String], more: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut arguments = vec!["verify", "--output", "json"];
    arguments.extend(files.iter().map(String::as_str));
    arguments.extend(more);
    let output = keyward(&arguments);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json)
}

fn pin(mode: &str) -> String {
    Pin::of(&vectors::issuer_key(&vectors::document(&format!("{mode}/ca.xml")))).to_string()
}

#[test]
fn a_good_chain_is_0_with_its_pin_and_2_without() {
    for mode in ["mode1", "mode2"] {
        let files = paths(mode, &[&["ul.xml"][..], &CHAIN].concat());
        let (code, rows) = verify(&files, &["--pin", &pin(mode)]);
        assert_eq!(code, Some(0));
        let column =
            |name: &str| rows.as_array().unwrap().iter().map(|r| r[name].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(column("kind"), ["ul", "slc", "enrollment-service", "enrollment-ca", "ca"]);
        assert_eq!(column("form"), ["ok"; 5]);
        assert_eq!(column("signature"), ["ok"; 5]);
        assert_eq!(column("link"), ["ok"; 5]);
        assert_eq!(column("trust"), ["pinned"; 5]);
        let (code, rows) = verify(&files, &[]);
        assert_eq!((code, &rows[4]["link"], &rows[0]["trust"]), (Some(2), &"none".into(), &"unpinned".into()));
    }
}

#[test]
fn something_wrong_is_1_and_the_row_says_what() {
    let names = ["ul.xml", "slc-NEG-pretty.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];
    let (code, rows) = verify(&paths("mode2", &names), &["--pin", &pin("mode2")]);
    assert_eq!(code, Some(1));
    assert!(rows[1]["signature"].as_str().unwrap().contains("white space between its tags removed"));
    assert!(rows[1]["notes"][0].as_str().unwrap().contains("laid out"));
    assert_eq!(rows[0]["trust"], "unpinned");
    let (code, rows) = verify(&paths("mode2", &["ul.xml", "ca.xml"]), &["--pin", &pin("mode2")]);
    assert_eq!(code, Some(1));
    assert!(rows[0]["link"].as_str().unwrap().contains("issuer"));
    let table = keyward(&["verify", &paths("mode2", &["slc-NEG-pretty.xml"])[0]]);
    assert!(String::from_utf8(table.stdout).unwrap().contains("white space between its tags"));
}

#[test]
fn what_cannot_be_read_is_3() {
    let given = |name: &str| vectors::path(name).display().to_string();
    for file in [&given("missing.xml"), &given("mode2/profile.json"), &given("mode2/keys/slc.pem"), "/dev/zero"] {
        let output = keyward(&["verify", file]);
        assert_eq!(output.status.code(), Some(3), "{file}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn dates_are_judged_at_the_time_that_is_asked_for() {
    let files = paths("mode2", &[&["rac.xml"][..], &CHAIN].concat());
    let pin = pin("mode2");
    for (time, expected) in [("2026-06-01T00:00", 0), ("2027-06-01T00:00", 1), ("2025-06-01T00:00", 1)] {
        let (code, rows) = verify(&files, &["--pin", &pin, "--at", time]);
        assert_eq!(code, Some(expected), "{time}: {rows}");
    }
    assert_eq!(verify(&files, &["--at", "tomorrow"]).0, Some(65), "a wrong time is not a verdict");
}

#[test]
fn a_pin_may_be_digits_a_certificate_a_public_key_or_a_file_of_digits() {
    use base64::Engine;
    let directory = tempfile::tempdir().unwrap();
    let key = vectors::issuer_key(&vectors::document("mode2/ca.xml"));
    let digits = directory.path().join("pin");
    std::fs::write(&digits, pin("mode2") + "\n").unwrap();
    let pem = directory.path().join("root.pem");
    let base64 = base64::engine::general_purpose::STANDARD.encode(key.spki_der());
    std::fs::write(&pem, format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")).unwrap();
    let files = paths("mode2", &CHAIN);
    for pin in [pin("mode2"), digits.display().to_string(), pem.display().to_string(), files[3].clone()] {
        assert_eq!(verify(&files, &["--pin", &pin]).0, Some(0), "{pin}");
    }
    assert_eq!(verify(&files, &["--pin", "nothing"]).0, Some(3));
}

#[test]
fn a_soap_message_and_a_revocation_list_are_taken_as_they_are() {
    let message = paths("mode2", &["messages/enroll-response.soap.xml"]);
    let (code, rows) = verify(&message, &["--pin", &pin("mode2")]);
    assert_eq!((code, rows.as_array().unwrap().len()), (Some(0), 4));
    let list = &paths("mode2", &["revocation-list.xml"])[0];
    let names = ["ul.xml", "slc-custom-revocation.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];
    let (code, rows) = verify(&paths("mode2", &names), &["--pin", &pin("mode2"), "--revocation-list", list]);
    assert_eq!(code, Some(1));
    assert!(rows[0]["revoked"].as_str().unwrap().contains("revoked by the list of 2026-01-03T00:00"));
    assert_eq!(rows[1]["revoked"], "no");
    let directory = tempfile::tempdir().unwrap();
    let changed = directory.path().join("list.xml").display().to_string();
    let text = vectors::text("mode2/revocation-list.xml").replace("Example revocation list", "Example revocation lisT");
    std::fs::write(&changed, text).unwrap();
    let (code, _) = verify(&paths("mode2", &names), &["--pin", &pin("mode2"), "--revocation-list", &changed]);
    assert_eq!(code, Some(1), "it was read, and it is wrong");
}

#[test]
fn a_license_is_told_in_words() {
    let license = vectors::text("mode2/ul.xml").replace(
        "</ACCESS>",
        "</ACCESS><TIME><RANGETIME><FROM>2026-01-02T00:00</FROM><UNTIL>2027-01-02T00:00</UNTIL></RANGETIME><INTERVALTIME days=\"1\" hours=\"12\" /></TIME>",
    );
    let license = license.replace(
        "</WORK>",
        "</WORK><CONDITIONLIST><CONDITION NAME=\"OS-Exclusion\" TYPE=\"versionspan\">0-2.1</CONDITION></CONDITIONLIST><POLICYLIST type=\"exclusion\"><POLICY><OBJECT><ID type=\"filename\">bad.exe</ID><VERSIONSPAN min=\"1.0\" max=\"2.0\" /></OBJECT></POLICY></POLICYLIST><NEW />",
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ul.xml");
    std::fs::write(&file, license).unwrap();
    let output = keyward(&["show", &file.display().to_string()]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "document    a use license",
        "issued      2026-01-02T03:07 UTC",
        "issuer      EXAMPLE-RMS {a2796874-84e4-412f-8051-1e2709d480ef} https://rms.example.test/_wmcs, RSA-2048, Server-Version 6.3.0.0",
        "for         alice@example.test Windows S-1-5-21-1-2-3-1118, RSA-2048",
        "owner       Windows alice@example.test",
        "right       VIEW: from 2026-01-02T00:00 until 2027-01-02T00:00 UTC, for 1 day 12 hours, with a sealed key",
        "condition   OS-Exclusion (versionspan) 0-2.1",
        "application shut out: bad.exe 1.0 to 2.0",
        "unknown     BODY/NEW",
    ] {
        assert!(text.contains(line), "{line}\n--\n{text}");
    }
}

#[test]
fn every_vector_can_be_shown_in_both_forms() {
    for (name, _) in vectors::manifest() {
        let file = vectors::path(&name).display().to_string();
        for form in ["table", "json"] {
            let output = keyward(&["show", "--output", form, &file]);
            assert_eq!(output.status.code(), Some(0), "{name}");
            assert!(output.stdout.len() > 100, "{name}");
        }
    }
    let list =
        keyward(&["show", "--output", "json", &vectors::path("mode2/revocation-list.xml").display().to_string()]);
    let shown: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(shown[0]["revokes"].as_array().unwrap().len(), 4);
}

/// A file of one document, and the certificates above a server as more files.
fn under_the_server(directory: &Path, document: &Document) -> Vec<String> {
    let file = directory.join("leaf.xml");
    std::fs::write(&file, document.as_str()).unwrap();
    [vec![file.display().to_string()], paths("mode2", &CHAIN)].concat()
}

#[test]
fn what_is_none_of_its_kind_or_cannot_be_read_is_1_and_its_form_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let rights = part("ul.xml", "<RIGHTSGROUP", "</RIGHTSGROUP>");
    let bad =
        "</ACCESS><TIME><RANGETIME><FROM>2026-13-45T99:99</FROM><UNTIL>2027-01-01T00:00</UNTIL></RANGETIME></TIME>";
    for (from, to, words) in [
        (rights.as_str(), "", "WORK grants no right"),
        ("</ACCESS>", bad, "2026-13-45T99:99"),
        ("</BODY>", "<POLICYLIST /></BODY>", "POLICYLIST has no attribute type"),
    ] {
        let files = under_the_server(directory.path(), &changed("ul.xml", "slc", from, to));
        let (code, rows) = verify(&files, &["--pin", &pin("mode2")]);
        assert_eq!(code, Some(1), "{rows}");
        assert!(rows[0]["form"].as_str().unwrap().contains(words), "{rows}");
        assert_eq!((&rows[0]["signature"], &rows[0]["link"]), (&"ok".into(), &"ok".into()));
        assert_eq!((&rows[0]["trust"], &rows[1]["trust"]), (&"unpinned".into(), &"pinned".into()));
    }
}

#[test]
fn a_license_is_asked_for_the_lists_that_it_demands() {
    let directory = tempfile::tempdir().unwrap();
    let key = part("revocation-list.xml", "<PUBLICKEY>", "</PUBLICKEY>");
    let point = format!(
        "<DISTRIBUTIONPOINT><OBJECT type=\"Revocation\"><ID type=\"ascii-tag\">x</ID></OBJECT>{key}</DISTRIBUTIONPOINT>"
    );
    let demand =
        format!("</METADATA><CONDITIONLIST><REFRESH>{point}<INTERVALTIME days=\"10\" /></REFRESH></CONDITIONLIST>");
    let files = under_the_server(directory.path(), &changed("ul.xml", "slc", "</METADATA>", &demand));
    let mut list = RevocationList::read(vectors::document("mode2/revocation-list.xml").body()).unwrap();
    list.entries.clear();
    let list = Key::load("mode2", "rev").document(Root::RevocationList, &list.write().unwrap(), Hash::Sha256);
    let file = directory.path().join("list.xml");
    std::fs::write(&file, list.as_str()).unwrap();
    let (pin, list) = (pin("mode2"), file.display().to_string());
    let missing = "a revocation list that the license demands is not at hand";
    let old = "the revocation list of 2026-01-03T00:00 is older than the license allows";
    for (more, code, words) in [
        (&[][..], 0, missing),
        (&["--at", "2026-01-10T00:00"], 1, missing),
        (&["--revocation-list", &list], 0, "ok"),
        (&["--revocation-list", &list, "--at", "2026-01-10T00:00"], 0, "ok"),
        (&["--revocation-list", &list, "--at", "2026-01-13T00:00"], 1, old),
    ] {
        let (got, rows) = verify(&files, &[&["--pin", &pin], more].concat());
        assert_eq!((got, rows[0]["lists"].as_str()), (Some(code), Some(words)), "{more:?}");
        assert!(rows[1]["lists"].is_null());
    }
}

#[test]
fn a_list_cannot_print_a_row_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut list = RevocationList::read(vectors::document("mode2/revocation-list.xml").body()).unwrap();
    list.issuer.key = Some(Box::new(Key::load("mode2", "slc").public()));
    list.descriptor.id.value = "a\nul.xml  ul  ok  ok  pinned \u{9b}31m\u{202e}\u{61c}".into();
    let license = UseLicense::read(vectors::document("mode2/ul.xml").body()).unwrap();
    list.entries = vec![Revoke::LicenseId(license.descriptor)];
    let list = Key::load("mode2", "slc").document(Root::RevocationList, &list.write().unwrap(), Hash::Sha256);
    let file = directory.path().join("list.xml");
    std::fs::write(&file, list.as_str()).unwrap();
    let files = paths("mode2", &["ul.xml", "slc.xml"]);
    let mut arguments = vec!["verify", "--revocation-list", file.to_str().unwrap()];
    arguments.extend(files.iter().map(String::as_str));
    let output = keyward(&arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("(a ul.xml  ul  ok"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{61c}']), "{text:?}");
}

fn shown(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shown.xml");
    std::fs::write(&file, text).unwrap();
    let output = keyward(&["show", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_condition_is_left_out_wherever_it_stands() {
    let plain = vectors::text("mode2/ul.xml");
    let range = "<TIME><RANGETIME><FROM>2020-01-01T00:00</FROM><UNTIL>2020-01-02T00:00</UNTIL></RANGETIME></TIME>";
    let refresh = "<REFRESH><DISTRIBUTIONPOINT><OBJECT type=\"Revocation\"><ID type=\"ascii-tag\">authority</ID><ADDRESS type=\"URL\">http://lists.example.test</ADDRESS></OBJECT></DISTRIBUTIONPOINT><INTERVALTIME days=\"10\" /></REFRESH>";
    let access = "<ACCESS><PRINCIPAL><OBJECT><ID type=\"Internal\">Owner</ID></OBJECT></PRINCIPAL></ACCESS>";
    let os = "<CONDITION NAME=\"OS-Exclusion\" TYPE=\"versionspan\">1-2</CONDITION>";
    let all = format!("{range}{os}<NEW />{access}{refresh}");
    let told = [
        "condition   only for the owner (Internal Owner)",
        "condition   from 2020-01-01T00:00 until 2020-01-02T00:00 UTC",
        "condition   OS-Exclusion (versionspan) 1-2",
        "condition   a condition of unknown meaning",
        "revocation  authority http://lists.example.test, not older than 10 days",
    ];
    for (place, list) in [
        ("</METADATA>", format!("</METADATA><CONDITIONLIST>{all}</CONDITIONLIST>")),
        ("</METADATA>", format!("</METADATA><PRECONDITIONLIST>{all}</PRECONDITIONLIST>")),
        ("</BODY>", format!("<CONDITIONLIST>{all}</CONDITIONLIST></BODY>")),
    ] {
        let text = shown(&plain.replace(place, &list));
        for line in told {
            assert!(text.contains(line), "{line}\n--\n{text}");
        }
    }
    let text = shown(&plain.replace("</ACCESS>", &format!("</ACCESS>{refresh}<NEW />{os}")));
    let right = "right       VIEW: without limit in time, OS-Exclusion (versionspan) 1-2, a condition of unknown meaning, under the revocation list of authority http://lists.example.test, not older than 10 days, with a sealed key";
    assert!(text.contains(right), "{text}");
}

#[test]
fn nobody_is_taken_for_everybody_and_no_text_for_words_of_the_command() {
    let plain = vectors::text("mode2/ul.xml");
    let person = |kind: &str, id: &str, name: &str| {
        format!(
            "<ACCESS><PRINCIPAL><OBJECT><ID type=\"{kind}\">{id}</ID><NAME>{name}</NAME></OBJECT></PRINCIPAL></ACCESS>"
        )
    };
    for (access, told) in [
        (person("Internal", "Anyone", ""), "everybody (Internal Anyone)"),
        (person("Internal", "ANYONE", "bob@x.test"), "everybody (Internal ANYONE) by the name of bob@x.test"),
        (person("Internal", "Owner", ""), "the owner (Internal Owner)"),
        (person("Internal", "Else", ""), "Internal Else"),
        (person("Unspecified", "", "Anyone"), "Unspecified Anyone"),
        (person("Unspecified", "", "everybody (Internal Anyone)"), "Unspecified \"everybody (Internal Anyone)\""),
        (person("Windows", "S-1-5-21-7", "bob, everybody"), "\"bob, everybody\" Windows S-1-5-21-7"),
        (person("", "", "everybody"), "\"everybody\""),
        (person("MS-GUID", "Everybody", ""), "\"Everybody\""),
        (person("everybody", "else", ""), "\"everybody\" else"),
        (person("Unspecified", "", "bob: without limit in time"), "Unspecified \"bob: without limit in time\""),
        (person("Unspecified", "", ""), "nobody named"),
    ] {
        let access = access.replace("<NAME></NAME>", "");
        let text = shown(&plain.replace("</WORK>", &format!("</WORK><CONDITIONLIST>{access}</CONDITIONLIST>")));
        assert!(text.contains(&format!("condition   only for {told}\n")), "{told}\n--\n{text}");
    }
    let named =
        |name: &str| plain.replace("<VIEW>", &format!("<RIGHT name=\"{name}\">")).replace("</VIEW>", "</RIGHT>");
    assert!(shown(&named("DOC-EDIT_2")).contains("right       DOC-EDIT_2: "));
    let two = shown(&named("VIEW: without limit in time right EDIT"));
    assert!(two.contains("right       \"VIEW: without limit in time right EDIT\": "), "{two}");
}

#[test]
fn a_list_that_is_empty_and_a_demand_that_names_nobody_are_told() {
    let plain = vectors::text("mode2/ul.xml");
    let lists = "</WORK><CONDITIONLIST><REFRESH><INTERVALTIME days=\"1\" /></REFRESH></CONDITIONLIST><POLICYLIST type=\"inclusion\" /><POLICYLIST type=\"exclusion\" />";
    let text = shown(&plain.replace("</WORK>", lists));
    for line in [
        "revocation  nobody named, not older than 1 day",
        "application let in: an empty list, which says nothing",
        "application shut out: an empty list, which says nothing",
    ] {
        assert!(text.contains(line), "{line}\n--\n{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let demand = "</METADATA><CONDITIONLIST><REFRESH /></CONDITIONLIST>";
    let files = under_the_server(directory.path(), &changed("ul.xml", "slc", "</METADATA>", demand));
    let (code, rows) = verify(&files, &["--pin", &pin("mode2"), "--at", "2026-01-10T00:00"]);
    assert_eq!(
        (code, &rows[0]["lists"]),
        (Some(1), &"the license demands a revocation list and does not say whose".into())
    );
}

#[test]
fn conditions_that_nobody_judged_are_told_with_the_time() {
    let directory = tempfile::tempdir().unwrap();
    let foo = "<CONDITIONLIST><CONDITION NAME=\"Foo\" TYPE=\"bar\">x</CONDITION></CONDITIONLIST></BODY>";
    let files = under_the_server(directory.path(), &changed("ul.xml", "slc", "</BODY>", foo));
    for (more, notes) in [(&[][..], ""), (&["--at", "2026-06-01T00:00"], "conditions that are not judged here: Foo")] {
        let (code, rows) = verify(&files, &[&["--pin", &pin("mode2")], more].concat());
        assert_eq!((code, rows[0]["notes"][0].as_str().unwrap_or_default()), (Some(0), notes), "{rows}");
    }
}

#[test]
fn a_part_that_cannot_be_read_hides_no_other() {
    let text = shown(&vectors::text("mode2/ul.xml").replace("</BODY>", "<POLICYLIST /></BODY>"));
    for line in [
        "fault       POLICYLIST has no attribute type",
        "right       VIEW: ",
        "for         alice@example.test",
        "owner       Windows alice@example.test",
    ] {
        assert!(text.contains(line), "{line}\n--\n{text}");
    }
}

#[test]
fn nothing_in_a_document_moves_or_hides_what_a_terminal_shows() {
    let hostile = "A\u{61c}\u{200b}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{e0041}\u{85}\u{9b}B";
    let text = shown(&vectors::text("mode2/ul.xml").replace("EXAMPLE-RMS", hostile));
    assert!(text.contains("issuer      A          B {a2796874"), "{text:?}");
}
