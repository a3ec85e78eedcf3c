//! Which rights somebody has: rights data, who asks, and the time give the rights of a use license. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use time::OffsetDateTime;

use super::element::{Object, Principal};
use super::license::{Conditions, Right, has_element};
use super::pl::PublishingLicense;
use super::policy::PolicyList;
use super::rights_data::RightsData;
use super::time::{Interval, Range, XrmlTime};

/// Somebody or a group: everything by which rights data may name it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Security identifier, as `S-1-5-…`.
    pub sid: Option<String>,
    /// Mail addresses, the primary one and all others.
    pub mails: Vec<String>,
    /// ID of a federated or Passport account, with its type.
    pub account: Option<(String, String)>,
}

/// Who asks for a license.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The user of the account certificate.
    pub user: Identity,
    /// Groups that the user is in; the licensing node's word.
    pub groups: Vec<Identity>,
    /// Whether the user is in the group of super users.
    pub is_super_user: bool,
}

/// A right to write into a use license, and within which times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Name of the right.
    pub name: String,
    /// Whether it is written as a RIGHT with a name.
    pub is_named: bool,
    /// Time within which it may be used, none if it is not bound. A use license has one at most (MS-RMPR 2.2.9.9.6).
    pub range: Option<Range>,
    /// How long it may be used, counted from the issue of the use license.
    pub interval: Option<Interval>,
}

impl Grant {
    fn owner() -> Self {
        Grant { name: OWNER.into(), is_named: true, range: None, interval: None }
    }

    /// When it ends at the latest, counted from a moment; none if never.
    fn end(&self, moment: OffsetDateTime) -> Option<OffsetDateTime> {
        let interval = self.interval.and_then(|interval| interval.length()).map(|length| moment.saturating_add(length));
        self.range.map(|range| range.until.moment()).into_iter().chain(interval).min()
    }

    /// Whether it is worth more at a moment than another one of the same name: it may be used now and the other may not,
    /// or if that is the same, it ends later.
    fn is_better(&self, other: &Grant, moment: OffsetDateTime) -> bool {
        let runs = |grant: &Grant| grant.range.is_none_or(|range| range.holds(moment));
        let end = |grant: &Grant| grant.end(moment).map_or((true, moment), |end| (false, end));
        (runs(self), end(self)) > (runs(other), end(other))
    }
}

/// What is kept from somebody whom the rights data name, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Name of the right; none if it is all of them.
    pub name: Option<String>,
    /// Why, in words.
    pub why: &'static str,
}

/// What somebody gets and what is kept back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// The rights, each once; none if there are none.
    pub grants: Vec<Grant>,
    /// Rights that name who asks, and are not granted.
    pub withheld: Vec<Withheld>,
    /// POLICYLISTs that a use license must have, whoever gets it (MS-RMPR 3.4.4.1).
    pub policies: Vec<PolicyList>,
}

/// The right that holds all others.
pub const OWNER: &str = "OWNER";
/// ID type of the principals `Owner` and `Anyone`.
const INTERNAL: &str = "Internal";
/// The principal that is everybody. Templates of the original write it `ANYONE`.
const ANYONE: &str = "Anyone";

/// Which rights somebody has at a moment. `license` is the publishing license that the data stood in: it names the owner
/// once more, and its ISSUEDTIME is the time of publication; without one, that is the ISSUEDTIME of the data.
///
/// Outside of the license's VALIDITYTIME nobody gets anything (MS-RMPR 3.4.4.1). Within it, super users and the owner get
/// OWNER and nothing else, whatever other times and conditions say. Everybody else gets each right of which one condition
/// names them, that is not over yet, and whose conditions are all understood: any condition but times and names withholds
/// its right. Conditions on the whole content, in the data or the license, must hold now and be nothing but times, or all
/// is withheld; only where revocation lists are, which goes into the use license as it stands, may be said in WORK. An
/// interval on the whole content counts from its publication (MS-RMPR 2.2.9.8.4), one on a right from the issue of the use
/// license.
#[must_use]
pub fn evaluate(
    data: &RightsData,
    license: Option<&PublishingLicense>,
    asker: &Asker,
    moment: OffsetDateTime,
) -> Evaluation {
    let policies = policies(data, license);
    let mut outcome = Evaluation { policies, ..Evaluation::default() };
    let nothing = |outcome, why| Evaluation { withheld: vec![Withheld { name: None, why }], ..outcome };
    let missed = license.and_then(|license| license.validity).filter(|validity| !validity.holds(moment));
    if let Some(validity) = missed {
        let is_early = moment < validity.from.moment();
        let why = ["the publishing license is not valid any more", "the publishing license is not valid yet"];
        return nothing(outcome, why[usize::from(is_early)]);
    }
    let owners = [license.and_then(|license| license.work.owner.as_ref()), data.work.owner.as_ref()];
    let is_owner = owners.into_iter().flatten().any(|object| is_named(object, &asker.user));
    if asker.is_super_user || is_owner {
        return Evaluation { grants: vec![Grant::owner()], ..outcome };
    }
    let whole = match whole(data, license, moment) {
        Ok(whole) => whole,
        Err(why) => return nothing(outcome, why),
    };
    let mut places: HashMap<&str, usize> = HashMap::new();
    for right in data.work.rights.iter().filter(|right| names(right, asker)) {
        let grant = match grant(right, whole, moment) {
            Ok(grant) => grant,
            Err(why) => {
                outcome.withheld.push(Withheld { name: Some(right.name.clone()), why });
                continue;
            }
        };
        match places.entry(right.name.as_str()) {
            Entry::Occupied(place) if grant.is_better(&outcome.grants[*place.get()], moment) => {
                outcome.grants[*place.get()] = grant;
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(outcome.grants.len());
                outcome.grants.push(grant);
            }
        }
    }
    // Whoever holds everything needs nothing else beside it, but what runs when that does not.
    if let Some(owner) = outcome.grants.iter().find(|grant| grant.name == OWNER).cloned() {
        outcome.grants.retain(|grant| grant.name == OWNER || grant.is_better(&owner, moment));
    }
    outcome
}

/// The lists of the data, and those of the license, which has some only while it is not signed.
fn policies(data: &RightsData, license: Option<&PublishingLicense>) -> Vec<PolicyList> {
    let mut policies = data.policies.clone();
    let others = license.into_iter().flat_map(|license| &license.policies);
    policies.extend(others.filter(|list| !data.policies.contains(list)).cloned());
    policies
}

/// The time of the whole content, which holds at a moment, or why nobody gets anything.
fn whole(
    data: &RightsData,
    license: Option<&PublishingLicense>,
    moment: OffsetDateTime,
) -> Result<Option<Range>, &'static str> {
    let published = license.map_or(data.issued_time, |license| license.issued_time);
    let works = [Some(&data.work), license.map(|license| &license.work)].into_iter().flatten();
    let lists = works.flat_map(|work| [(&work.preconditions, false), (&work.conditions, true)]);
    let around = [Some((&data.conditions, false)), license.map(|license| (&license.conditions, false))];
    let validity = [data.validity, license.and_then(|license| license.validity)];
    let mut ranges: Vec<Range> = validity.into_iter().flatten().collect();
    for (list, may_refresh) in lists.chain(around.into_iter().flatten()) {
        let Some(list) = list else { continue };
        let is_plain = list.unknown.is_empty() && list.named.is_empty() && list.access.is_empty();
        if !is_plain || (list.refresh.is_some() && !may_refresh) {
            return Err("the whole content has a condition other than times");
        }
        ranges.extend(&list.ranges);
        ranges.extend(since(published, list));
    }
    match ranges.iter().find(|range| !range.holds(moment)) {
        Some(range) if moment < range.from.moment() => Err("the content has not begun"),
        Some(_) => Err("the content is over"),
        None => Ok(common(ranges).flatten()),
    }
}

/// The time that an interval on the whole content leaves. Beyond the last year that can be written there is no bound.
fn since(published: XrmlTime, list: &Conditions) -> Option<Range> {
    let until = published.moment().checked_add(list.interval?.length()?)?;
    Some(Range { from: published, until: XrmlTime::from_moment(until) })
}

/// The time that all ranges hold, none where they bound nothing; or nothing if they have no time in common.
fn common(ranges: impl IntoIterator<Item = Range>) -> Option<Option<Range>> {
    let both = |common: Option<Range>, range: Range| match common {
        Some(common) => common.and(range).map(Some),
        None => Some(Some(range)),
    };
    ranges.into_iter().try_fold(None, both)
}

/// A right as a grant, or why it is not granted.
fn grant(right: &Right, whole: Option<Range>, moment: OffsetDateTime) -> Result<Grant, &'static str> {
    let conditions = &right.conditions;
    // A grant can carry no other condition on.
    if conditions.has_others() {
        return Err("the right has a condition other than times and names");
    }
    let ranges = || whole.into_iter().chain(conditions.ranges.iter().copied());
    if ranges().any(|range| range.until.moment() <= moment) {
        return Err("the right is over");
    }
    let range = common(ranges()).ok_or(NEVER)?;
    let is_named = !has_element(&right.name);
    let grant = Grant { name: right.name.clone(), is_named, range, interval: conditions.interval };
    match grant.end(moment).zip(range) {
        Some((end, range)) if end <= range.from.moment() => Err(NEVER),
        _ => Ok(grant),
    }
}

const NEVER: &str = "the times of the right have none in common";

fn names(right: &Right, asker: &Asker) -> bool {
    right.conditions.access.iter().any(|principal| is_asker(principal, asker))
}

fn is_asker(principal: &Principal, asker: &Asker) -> bool {
    let Some(object) = &principal.object else { return false };
    if object.id.kind == INTERNAL {
        return object.id.value.eq_ignore_ascii_case(ANYONE);
    }
    is_named(object, &asker.user) || asker.groups.iter().any(|group| is_named(object, group))
}

/// Whether an object names somebody: by its ID where it has one, else by a mail address.
fn is_named(object: &Object, identity: &Identity) -> bool {
    let id = &object.id;
    if id.kind == INTERNAL {
        return false;
    }
    if !id.value.is_empty() {
        let sid = identity.sid.as_ref().filter(|_| id.kind == "Windows");
        let account = identity.account.as_ref().filter(|(kind, _)| *kind == id.kind).map(|(_, value)| value);
        return sid.or(account).is_some_and(|value| value.eq_ignore_ascii_case(&id.value));
    }
    let name = object.name.as_deref().unwrap_or_default();
    !name.is_empty() && identity.mails.iter().any(|mail| mail.eq_ignore_ascii_case(name))
}
