//! Who gets which rights: one table, one check.

use keyward::xrml::element::{Id, Object};
use keyward::xrml::license::{Conditions, Refresh};
use keyward::xrml::pl::PublishingLicense;
use keyward::xrml::policy::{Policy, PolicyKind, PolicyList, admits};
use keyward::xrml::rights::{Asker, Grant, Identity, Withheld, evaluate};
use keyward::xrml::rights_data::RightsData;
use keyward::xrml::text::Document;
use keyward::xrml::time::{Range, XrmlTime};

use super::vectors;

const NOW: &str = "2026-06-01T00:00";

fn mail(address: &str) -> Identity {
    Identity { mails: vec![address.into()], ..Identity::default() }
}

fn user(address: &str) -> Asker {
    Asker { user: mail(address), ..Asker::default() }
}

fn person(kind: &str, id: &str, name: &str) -> String {
    let id = if id.is_empty() { format!("<ID type=\"{kind}\" />") } else { format!("<ID type=\"{kind}\">{id}</ID>") };
    let name = if name.is_empty() { String::new() } else { format!("<NAME>{name}</NAME>") };
    format!("<PRINCIPAL><OBJECT>{id}{name}</OBJECT></PRINCIPAL>")
}

fn right(name: &str, access: &str, conditions: &str) -> String {
    format!("<RIGHT name=\"{name}\"><CONDITIONLIST><ACCESS>{access}</ACCESS>{conditions}</CONDITIONLIST></RIGHT>")
}

fn range(from: &str, until: &str) -> String {
    format!("<TIME><RANGETIME><FROM>{from}T00:00</FROM><UNTIL>{until}T00:00</UNTIL></RANGETIME></TIME>")
}

fn text(preconditions: &str, rights: &[String]) -> String {
    format!(
        "<XrML version=\"1.2\" xmlns=\"\"><BODY type=\"Microsoft Rights Template\" version=\"3.0\"><ISSUEDTIME>2026-01-01T00:00</ISSUEDTIME><WORK><OBJECT><ID type=\"MS-GUID\">{{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}}</ID></OBJECT><METADATA><OWNER><OBJECT><ID type=\"Windows\" /><NAME>owner@x.test</NAME></OBJECT></OWNER></METADATA>{preconditions}<RIGHTSGROUP name=\"Main-Rights\"><RIGHTSLIST>{}</RIGHTSLIST></RIGHTSGROUP></WORK></BODY></XrML>",
        rights.concat()
    )
}

fn data(preconditions: &str, rights: &[String]) -> RightsData {
    RightsData::read(Document::read_unsigned(&text(preconditions, rights)).unwrap().body()).unwrap()
}

/// What it shows, preconditions, rights, who asks, what that one gets.
type Row<'a> = (&'a str, String, Vec<String>, &'a Asker, &'a [&'a str]);

#[test]
fn rights_go_to_whom_they_are_given_and_to_nobody_else() {
    let bob = person("Unspecified", "", "bob@x.test");
    let group = person("Unspecified", "", "staff@x.test");
    let sid = person("Windows", "S-1-5-21-7", "someone@x.test");
    let anyone = person("Internal", "Anyone", "");
    let owner = person("Internal", "Owner", "");
    let in_group = Asker { groups: vec![mail("staff@x.test")], ..user("eve@x.test") };
    let by_sid = Asker { user: Identity { sid: Some("s-1-5-21-7".into()), ..mail("bob@x.test") }, ..Asker::default() };
    let super_user = Asker { is_super_user: true, ..user("eve@x.test") };
    let passport = Asker {
        user: Identity { account: Some(("Passport".into(), "00AB".into())), ..Identity::default() },
        ..Asker::default()
    };
    let over = range("2025-01-01", "2026-06-01");
    let running = range("2025-01-01", "2026-06-02");
    let later = range("2027-01-01", "2028-01-01");
    let pre = |time: &str| format!("<PRECONDITIONLIST>{time}</PRECONDITIONLIST>");
    let view = |access: &str, conditions: &str| vec![right("VIEW", access, conditions)];
    let (bob_himself, someone) = (user("BOB@x.test"), user("someone@x.test"));
    let (the_owner, nobody) = (user("Owner@X.test"), Asker::default());
    let table: Vec<Row> = vec![
        ("a user by mail", String::new(), view(&bob, ""), &bob_himself, &["VIEW"]),
        ("another user", String::new(), view(&bob, ""), &in_group, &[]),
        ("a group", String::new(), view(&group, ""), &in_group, &["VIEW"]),
        ("an id counts, the name beside it does not", String::new(), view(&sid, ""), &by_sid, &["VIEW"]),
        ("a name beside an id gives nothing", String::new(), view(&sid, ""), &someone, &[]),
        ("one of several", String::new(), view(&format!("{bob}{group}"), ""), &in_group, &["VIEW"]),
        ("anyone", String::new(), view(&anyone, ""), &in_group, &["VIEW"]),
        (
            "anyone as templates of the original write it",
            String::new(),
            view(&person("Internal", "ANYONE", ""), ""),
            &in_group,
            &["VIEW"],
        ),
        (
            "an exception from anyone withholds",
            String::new(),
            view(&format!("<EXCEPT>all</EXCEPT>{anyone}"), ""),
            &in_group,
            &[],
        ),
        (
            "something unknown of a principal withholds",
            String::new(),
            view(&anyone.replace("</PRINCIPAL>", "<EXCEPT /></PRINCIPAL>"), ""),
            &in_group,
            &[],
        ),
        (
            "something unknown of a principal's object withholds",
            String::new(),
            view(&anyone.replace("</OBJECT>", "<EXCEPT /></OBJECT>"), ""),
            &in_group,
            &[],
        ),
        (
            "a list of conditions within the list withholds",
            String::new(),
            view(&anyone, &format!("<CONDITIONLIST>{over}</CONDITIONLIST>")),
            &in_group,
            &[],
        ),
        ("the word Owner is nobody else", String::new(), view(&owner, ""), &in_group, &[]),
        ("a passport by id", String::new(), view(&person("Passport", "00ab", ""), ""), &passport, &["VIEW"]),
        ("a passport of another type", String::new(), view(&person("Federation", "00AB", ""), ""), &passport, &[]),
        ("no access at all", String::new(), view("", ""), &in_group, &[]),
        ("an empty name is nobody", String::new(), view(&person("Unspecified", "", ""), ""), &nobody, &[]),
        ("the owner has everything", String::new(), view(&bob, ""), &the_owner, &["OWNER"]),
        ("the owner whatever the time", pre(&over), view(&bob, &over), &the_owner, &["OWNER"]),
        ("a super user has everything", pre(&over), vec![], &super_user, &["OWNER"]),
        (
            "several rights",
            String::new(),
            vec![right("VIEW", &anyone, ""), right("EDIT", &bob, ""), right("PRINT", &group, "")],
            &in_group,
            &["VIEW", "PRINT"],
        ),
        (
            "owner among the rights swallows the rest",
            String::new(),
            vec![right("VIEW", &anyone, ""), right("OWNER", &group, "")],
            &in_group,
            &["OWNER"],
        ),
        (
            "what runs when the right to everything does not",
            String::new(),
            vec![right("VIEW", &anyone, ""), right("OWNER", &group, &later), right("EDIT", &anyone, &later)],
            &in_group,
            &["VIEW", "OWNER"],
        ),
        (
            "what outlasts the right to everything",
            String::new(),
            vec![right("VIEW", &anyone, ""), right("OWNER", &group, &running), right("EDIT", &anyone, &running)],
            &in_group,
            &["VIEW", "OWNER"],
        ),
        ("a right that is over", String::new(), view(&anyone, &over), &in_group, &[]),
        ("a right that runs", String::new(), view(&anyone, &running), &in_group, &["VIEW"]),
        (
            "a right that begins later is given with its time",
            String::new(),
            view(&anyone, &later),
            &in_group,
            &["VIEW"],
        ),
        ("a content that is over", pre(&over), view(&anyone, ""), &in_group, &[]),
        ("a content that has not begun", pre(&later), view(&anyone, ""), &in_group, &[]),
        ("a content that runs", pre(&running), view(&anyone, ""), &in_group, &["VIEW"]),
        ("an unknown condition withholds", String::new(), view(&anyone, "<NEW />"), &in_group, &[]),
        (
            "a named condition withholds",
            String::new(),
            view(&anyone, "<CONDITION NAME=\"X\">1</CONDITION>"),
            &in_group,
            &[],
        ),
        ("a demand for revocation lists withholds", String::new(), view(&anyone, "<REFRESH />"), &in_group, &[]),
        (
            "a condition beside the list counts as one in it",
            String::new(),
            vec![right("VIEW", &anyone, "").replace("</RIGHT>", &format!("{over}</RIGHT>"))],
            &in_group,
            &[],
        ),
        (
            "an unknown condition beside the list withholds",
            String::new(),
            vec![right("VIEW", &anyone, "").replace("</RIGHT>", "<NEW /></RIGHT>")],
            &in_group,
            &[],
        ),
        ("an unknown precondition withholds all", pre("<NEW />"), view(&anyone, ""), &in_group, &[]),
        ("a named precondition withholds all", pre("<CONDITION NAME=\"X\" />"), view(&anyone, ""), &in_group, &[]),
        (
            "a precondition of names withholds all",
            pre(&format!("<ACCESS>{bob}</ACCESS>")),
            view(&anyone, ""),
            &bob_himself,
            &[],
        ),
    ];
    for (name, preconditions, rights, asker, expected) in table {
        let outcome = evaluate(&data(&preconditions, &rights), None, asker, NOW.parse::<XrmlTime>().unwrap().moment());
        assert_eq!(outcome.grants.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn the_owner_of_the_publishing_license_counts_as_well() {
    let owner =
        Object { id: Id { kind: "Windows".into(), value: String::new() }, ..Object::default() }.named("pub@x.test");
    let mut license = PublishingLicense::read(vectors::document("mode2/pl-online.xml").body()).unwrap();
    license.work.owner = Some(owner);
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    let nothing = data("", &[]);
    assert_eq!(evaluate(&nothing, Some(&license), &user("pub@x.test"), at).grants[0].name, "OWNER");
    assert!(evaluate(&nothing, Some(&license), &user("eve@x.test"), at).grants.is_empty());
}

/// The grants of the same right twice, of which one is chosen.
fn chosen(first: &str, second: &str) -> Vec<Grant> {
    let anyone = person("Internal", "Anyone", "");
    let rights = [right("VIEW", &anyone, first), right("VIEW", &anyone, second)];
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    evaluate(&data("", &rights), None, &user("eve@x.test"), at).grants
}

#[test]
fn times_add_up_and_the_same_right_twice_is_the_one_that_runs_and_then_the_longer() {
    let running = range("2025-01-01", "2026-06-05");
    let later = range("2027-01-01", "2028-01-01");
    let interval = "<TIME><INTERVALTIME days=\"10\" /></TIME>";
    for (longer, shorter) in [
        (interval, running.as_str()),
        (&running, &later),
        ("", &running),
        ("", interval),
        (&range("2025-01-01", "2030-01-01"), interval),
    ] {
        for grants in [chosen(longer, shorter), chosen(shorter, longer)] {
            assert_eq!(grants.len(), 1);
            assert_eq!(grants, chosen(longer, longer), "{longer} rather than {shorter}");
        }
    }
    let anyone = person("Internal", "Anyone", "");
    let pre = format!("<PRECONDITIONLIST>{}</PRECONDITIONLIST>", range("2025-01-01", "2027-01-01"));
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    let rights = [right("VIEW", &anyone, &(running + interval))];
    let outcome = evaluate(&data(&pre, &rights), None, &user("eve@x.test"), at);
    let both = Range { from: "2025-01-01T00:00".parse().unwrap(), until: "2026-06-05T00:00".parse().unwrap() };
    assert_eq!(outcome.grants[0].range, Some(both), "the time that both have in common");
    assert_eq!(outcome.grants[0].interval.unwrap().days, 10);
}

#[test]
fn an_interval_on_the_content_counts_from_its_publication_and_goes_along_as_a_time() {
    let rights = [right("VIEW", &person("Internal", "Anyone", ""), "")];
    let data = data("<PRECONDITIONLIST><TIME><INTERVALTIME days=\"30\" /></TIME></PRECONDITIONLIST>", &rights);
    let mut license = PublishingLicense::read(vectors::document("mode2/pl-online.xml").body()).unwrap();
    license.issued_time = "2026-05-20T10:00".parse().unwrap();
    let ask =
        |license, at: &str| evaluate(&data, license, &user("eve@x.test"), at.parse::<XrmlTime>().unwrap().moment());
    assert_eq!(ask(Some(&license), NOW).grants[0].range.unwrap().until.to_string(), "2026-06-19T10:00");
    assert_eq!(ask(Some(&license), "2026-06-19T10:00").withheld[0].why, "the content is over");
    assert_eq!(ask(Some(&license), "2026-05-01T00:00").withheld[0].why, "the content has not begun");
    assert!(ask(None, NOW).grants.is_empty(), "without a license the data's own time of issue counts");
    assert_eq!(ask(None, "2026-01-30T00:00").grants.len(), 1);
}

#[test]
fn what_is_withheld_says_why_to_whom_it_is_named_for() {
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    let bob = person("Unspecified", "", "bob@x.test");
    let rights = [
        right("VIEW", &bob, "<NEW />"),
        right("EDIT", &bob, &range("2020-01-01", "2020-01-02")),
        right("PRINT", &person("Unspecified", "", "amy@x.test"), "<NEW />"),
    ];
    let outcome = evaluate(&data("", &rights), None, &user("bob@x.test"), at);
    let told: Vec<_> = outcome.withheld.iter().map(|w| (w.name.as_deref().unwrap_or_default(), w.why)).collect();
    assert_eq!(told, [("VIEW", "the right has a condition other than times and names"), ("EDIT", "the right is over")]);
    let whole = evaluate(&data("<PRECONDITIONLIST><NEW /></PRECONDITIONLIST>", &rights), None, &user("bob@x.test"), at);
    assert_eq!(whole.withheld, [Withheld { name: None, why: "the whole content has a condition other than times" }]);
    assert!(evaluate(&data("", &rights), None, &user("eve@x.test"), at).withheld.is_empty());
}

#[test]
fn a_bound_on_the_whole_content_counts_wherever_it_stands() {
    let anyone = person("Internal", "Anyone", "");
    let (over, running) = (range("2020-01-01", "2020-01-02"), range("2026-01-01", "2027-01-01"));
    let validity = |time: &str| {
        time.replace("TIME><RANGETIME", "TIME")
            .replace("</RANGETIME></TIME>", "</TIME>")
            .replace("TIME>", "VALIDITYTIME>")
    };
    let list = |inner: &str| format!("<CONDITIONLIST>{inner}</CONDITIONLIST>");
    let refresh = "<REFRESH><INTERVALTIME days=\"1\" /></REFRESH>";
    let unclear = "<REFRESH><NEW /></REFRESH>";
    let before = "<WORK>";
    let (work, after) = ("<RIGHTSGROUP", "</BODY>");
    for (place, inserted, is_granted) in [
        (before, validity(&over), false),
        (before, validity(&running), true),
        (work, list(&over), false),
        (work, list(&running), true),
        (work, list("<NEW />"), false),
        (work, list("<CONDITION NAME=\"X\" />"), false),
        (work, list(refresh), true),
        (work, list(unclear), false),
        (after, list(&over), false),
        (after, list(&running), true),
        (after, list("<NEW />"), false),
        (after, list("<CONDITION NAME=\"X\" />"), false),
        (after, list(refresh), false),
        (after, list(&format!("<ACCESS>{anyone}</ACCESS>")), false),
    ] {
        let text = text("", &[right("VIEW", &anyone, "")]);
        let inserted = format!("{inserted}{place}");
        let document = Document::read_unsigned(&text.replacen(place, &inserted, 1)).unwrap();
        let data = RightsData::read(document.body()).unwrap();
        let outcome = evaluate(&data, None, &user("eve@x.test"), NOW.parse::<XrmlTime>().unwrap().moment());
        assert_eq!(outcome.grants.len(), usize::from(is_granted), "{inserted}");
        assert!(outcome.grants.iter().all(|grant| grant.range.is_some() == inserted.contains("<FROM>")), "{inserted}");
        assert_eq!(RightsData::read(&data.write().unwrap()).unwrap(), data);
    }
}

#[test]
fn a_grant_is_written_as_use_licenses_write_it() {
    let anyone = person("Internal", "ANYONE", "");
    let rights = ["VIEW", "EXPORT"]
        .map(|name| right(name, &anyone, "").replace(&format!("RIGHT name=\"{name}\""), name).replace("RIGHT", name));
    let outcome = evaluate(&data("", &rights), None, &user("eve@x.test"), NOW.parse::<XrmlTime>().unwrap().moment());
    let forms: Vec<_> = outcome.grants.iter().map(|grant| (grant.name.as_str(), grant.is_named)).collect();
    assert_eq!(forms, [("VIEW", false), ("EXPORT", true)]);
}

#[test]
fn times_that_have_nothing_in_common_give_no_right() {
    let anyone = person("Internal", "Anyone", "");
    let content = format!("<PRECONDITIONLIST>{}</PRECONDITIONLIST>", range("2025-01-01", "2027-01-01"));
    let never = "the times of the right have none in common";
    let ten_days = "<TIME><INTERVALTIME days=\"10\" /></TIME>";
    for (pre, times, why) in [
        (content.as_str(), range("2027-01-01", "2028-01-01"), Some(never)),
        (&content, range("2026-12-31", "2028-01-01"), None),
        ("", range("2026-01-01", "2026-07-01") + &range("2026-07-01", "2027-01-01"), Some(never)),
        ("", range("2026-01-01", "2026-07-01") + &range("2020-01-01", "2021-01-01"), Some("the right is over")),
        ("", range("2026-06-11", "2027-01-01") + ten_days, Some(never)),
        ("", range("2026-06-10", "2027-01-01") + ten_days, None),
    ] {
        let at = NOW.parse::<XrmlTime>().unwrap().moment();
        let outcome = evaluate(&data(pre, &[right("VIEW", &anyone, &times)]), None, &user("eve@x.test"), at);
        assert_eq!(outcome.withheld.first().map(|withheld| withheld.why), why, "{pre} {times}");
        assert_eq!(outcome.grants.len(), usize::from(why.is_none()), "{pre} {times}");
    }
}

#[test]
fn what_bounds_the_publishing_license_bounds_the_rights() {
    let published = PublishingLicense::read(vectors::document("mode2/pl-online.xml").body()).unwrap();
    let span = |from: &str, until: &str| Range {
        from: format!("{from}T00:00").parse().unwrap(),
        until: format!("{until}T00:00").parse().unwrap(),
    };
    let (over, running, later) =
        (span("2020-01-01", "2020-02-01"), span("2026-01-01", "2027-01-01"), span("2027-01-01", "2028-01-01"));
    let times = |range| Some(Conditions { ranges: vec![range], ..Conditions::default() });
    let unknown = || Some(Conditions { unknown: "<NEW />".into(), ..Conditions::default() });
    let lists = || Some(Conditions { refresh: Some(Box::new(Refresh::default())), ..Conditions::default() });
    type Change<'a> = &'a dyn Fn(&mut PublishingLicense);
    let rows: [(&str, Change, Option<Range>, Option<&str>); 11] = [
        ("nothing", &|_| {}, None, None),
        ("valid now", &|l| l.validity = Some(running), Some(running), None),
        ("no longer valid", &|l| l.validity = Some(over), None, Some("the publishing license is not valid any more")),
        ("not valid yet", &|l| l.validity = Some(later), None, Some("the publishing license is not valid yet")),
        ("a time on the work", &|l| l.work.conditions = times(running), Some(running), None),
        ("a time on the work that is over", &|l| l.work.conditions = times(over), None, Some("the content is over")),
        ("a precondition", &|l| l.work.preconditions = times(later), None, Some("the content has not begun")),
        ("a time on the license", &|l| l.conditions = times(over), None, Some("the content is over")),
        ("lists on the work", &|l| l.work.conditions = lists(), None, None),
        (
            "lists on the license",
            &|l| l.conditions = lists(),
            None,
            Some("the whole content has a condition other than times"),
        ),
        ("unknown", &|l| l.conditions = unknown(), None, Some("the whole content has a condition other than times")),
    ];
    let rights = data("", &[right("VIEW", &person("Internal", "Anyone", ""), "")]);
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    for (name, change, expected, why) in rows {
        let mut license = published.clone();
        change(&mut license);
        let outcome = evaluate(&rights, Some(&license), &user("eve@x.test"), at);
        assert_eq!(outcome.withheld.first().map(|withheld| withheld.why), why, "{name}");
        assert_eq!(outcome.grants.first().map(|grant| grant.range), why.is_none().then_some(expected), "{name}");
        // Conditions are not for the owner; the validity of the license is.
        let is_valid = license.validity.is_none_or(|validity| validity.holds(at));
        for asker in [user("owner@x.test"), Asker { is_super_user: true, ..Asker::default() }] {
            assert_eq!(evaluate(&rights, Some(&license), &asker, at).grants.len(), usize::from(is_valid), "{name}");
        }
        assert_eq!(PublishingLicense::read(&license.write().unwrap()).unwrap(), license, "{name}");
    }
}

#[test]
fn the_lists_of_applications_go_along_whoever_gets_the_license() {
    let list = |kind| PolicyList { kind, policies: vec![] };
    let mut rights = data("", &[right("VIEW", &person("Internal", "Anyone", ""), "")]);
    rights.policies = vec![list(PolicyKind::Exclusion)];
    let mut license = PublishingLicense::read(vectors::document("mode2/pl-online.xml").body()).unwrap();
    license.policies = vec![list(PolicyKind::Exclusion), list(PolicyKind::Inclusion)];
    let at = NOW.parse::<XrmlTime>().unwrap().moment();
    for asker in [user("eve@x.test"), user("owner@x.test"), Asker { is_super_user: true, ..Asker::default() }] {
        assert_eq!(evaluate(&rights, None, &asker, at).policies, rights.policies);
        assert_eq!(evaluate(&rights, Some(&license), &asker, at).policies, license.policies, "each once");
    }
}

#[test]
fn applications_are_shut_out_and_let_in_by_name_and_version() {
    let list = |kind, name: &str, versions: Option<(&str, &str)>| PolicyList {
        kind,
        policies: vec![Policy {
            id: Id { kind: "filename".into(), value: name.into() },
            versions: versions.map(|(a, b)| (a.into(), b.into())),
        }],
    };
    let out = list(PolicyKind::Exclusion, "Bad.exe", Some(("1.0.0.0", "2.9")));
    let only = list(PolicyKind::Inclusion, "good.exe", Some(("3.0", "4.0")));
    let none = |kind| PolicyList { kind, policies: vec![] };
    let table: [(&[PolicyList], &str, &str, bool); 16] = [
        (&[], "any.exe", "1.0", true),
        (std::slice::from_ref(&out), "bad.EXE", "1.5", false),
        (std::slice::from_ref(&out), "bad.exe", "1.10.0.0", false),
        (std::slice::from_ref(&out), "bad.exe", "1", false),
        (std::slice::from_ref(&out), "bad.exe", "2.9.0.1", true),
        (std::slice::from_ref(&out), "bad.exe", "3.0", true),
        (std::slice::from_ref(&out), "other.exe", "1.5", true),
        (std::slice::from_ref(&out), "bad.exe", "unknown", false),
        (std::slice::from_ref(&only), "good.exe", "3.5", true),
        (std::slice::from_ref(&only), "good.exe", "2.0", false),
        (std::slice::from_ref(&only), "other.exe", "3.5", false),
        (std::slice::from_ref(&only), "good.exe", "unknown", false),
        (std::slice::from_ref(&out), "bad.exe", "+3.0", false),
        (&[list(PolicyKind::Exclusion, "bad.exe", None)], "bad.exe", "9.0", false),
        (&[none(PolicyKind::Inclusion), none(PolicyKind::Exclusion)], "any.exe", "1.0", true),
        (&[none(PolicyKind::Inclusion), only.clone()], "other.exe", "3.5", false),
    ];
    for (at, (policies, name, version, admitted)) in table.into_iter().enumerate() {
        assert_eq!(admits(policies, name, version), admitted, "row {at}");
    }
}
