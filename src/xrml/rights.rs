//! Which rights somebody has: rights data, who asks, and the time give the rights of a use license. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use time::{Duration, OffsetDateTime};

use super::element::{Object, Principal};
use super::license::{Conditions, PolicyList, Right};
use super::rights_data::RightsData;
use super::time::{Interval, Range};

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
    /// Times within which it may be used; all of them must hold.
    pub ranges: Vec<Range>,
    /// How long the license may be used.
    pub interval: Option<Interval>,
}

impl Grant {
    fn owner() -> Self {
        Grant { name: OWNER.into(), is_named: true, ranges: Vec::new(), interval: None }
    }

    /// When it ends at the latest, counted from a moment; none if never.
    fn end(&self, moment: OffsetDateTime) -> Option<OffsetDateTime> {
        let interval = self.interval.and_then(|interval| interval.length()).map(|length| moment.saturating_add(length));
        self.ranges.iter().map(|range| range.until.moment()).chain(interval).min()
    }
}

/// The right that holds all others.
pub const OWNER: &str = "OWNER";
/// ID type of the principals `Owner` and `Anyone`.
const INTERNAL: &str = "Internal";

/// The rights that somebody has at a moment; none if there are none. `owner` is the one that the publishing license names.
///
/// Super users and the owner get OWNER and nothing else, whatever the times say. Everybody else gets each right of which one
/// condition names them, that is not over yet, and whose conditions are all understood: any condition but times and names
/// withholds its right, and as a precondition all rights.
#[must_use]
pub fn evaluate(data: &RightsData, owner: Option<&Object>, asker: &Asker, moment: OffsetDateTime) -> Vec<Grant> {
    let owners = [owner, data.work.owner.as_ref()];
    let is_owner = owners.into_iter().flatten().any(|object| is_named(object, &asker.user));
    if asker.is_super_user || is_owner {
        return vec![Grant::owner()];
    }
    let none = Conditions::default();
    let before = data.work.preconditions.as_ref().unwrap_or(&none);
    if !is_understood(before) || !before.access.is_empty() || before.ranges.iter().any(|range| !range.holds(moment)) {
        return Vec::new();
    }
    let mut grants: Vec<Grant> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for right in data.work.rights.iter().filter(|right| is_given(right, asker)) {
        let grant = Grant {
            name: right.name.clone(),
            is_named: right.is_named,
            ranges: before.ranges.iter().chain(&right.conditions.ranges).copied().collect(),
            interval: shorter(before.interval, right.conditions.interval),
        };
        if grant.end(moment).is_some_and(|end| end <= moment) {
            continue;
        }
        match places.entry(right.name.as_str()) {
            Entry::Occupied(place) if outlasts(&grant, &grants[*place.get()], moment) => grants[*place.get()] = grant,
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(grants.len());
                grants.push(grant);
            }
        }
    }
    // Whoever holds everything needs nothing else beside it.
    match grants.iter().position(|grant| grant.name == OWNER) {
        Some(at) => vec![grants.swap_remove(at)],
        None => grants,
    }
}

/// Whether an application may use the content under a license's lists: named by no exclusion, and by an inclusion if there
/// is one. Versions are compared number by number; a bound that is no version excludes and does not include.
#[must_use]
pub fn admits(policies: &[PolicyList], application: &str, version: &str) -> bool {
    let names = |list: &PolicyList, unclear: bool| {
        let policies = list.policies.iter().filter(|policy| policy.id.value.eq_ignore_ascii_case(application));
        let mut spans = policies.map(|policy| policy.versions.as_ref());
        spans.any(|span| span.is_none_or(|(least, most)| is_within(version, least, most).unwrap_or(unclear)))
    };
    let of = |kind: &'static str| policies.iter().filter(move |list| list.kind == kind);
    let is_known = policies.iter().all(|list| matches!(list.kind.as_str(), "exclusion" | "inclusion"));
    is_known
        && !of("exclusion").any(|list| names(list, true))
        && (of("inclusion").next().is_none() || of("inclusion").any(|list| names(list, false)))
}

fn is_within(version: &str, least: &str, most: &str) -> Option<bool> {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>()?;
        // What is not written counts zero: 1.0 is 1.0.0.0.
        parts.truncate(parts.iter().rposition(|part| *part != 0).map_or(0, |at| at + 1));
        Some(parts)
    };
    let (version, least, most) = (parse(version)?, parse(least)?, parse(most)?);
    Some(least <= version && version <= most)
}

fn is_given(right: &Right, asker: &Asker) -> bool {
    let conditions = &right.conditions;
    is_understood(conditions) && conditions.access.iter().any(|principal| is_asker(principal, asker))
}

/// Whether there is nothing but times and names: a grant can carry no other condition on.
fn is_understood(conditions: &Conditions) -> bool {
    conditions.unknown.is_empty() && conditions.named.is_empty() && conditions.refresh.is_none()
}

fn is_asker(principal: &Principal, asker: &Asker) -> bool {
    let Some(object) = &principal.object else { return false };
    if object.id.kind == INTERNAL {
        return object.id.value == "Anyone";
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

fn shorter(a: Option<Interval>, b: Option<Interval>) -> Option<Interval> {
    let length = |interval: &Interval| interval.length().unwrap_or(Duration::MAX);
    a.into_iter().chain(b).min_by_key(length)
}

fn outlasts(a: &Grant, b: &Grant, moment: OffsetDateTime) -> bool {
    match (a.end(moment), b.end(moment)) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(a), Some(b)) => a > b,
    }
}
