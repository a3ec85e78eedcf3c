//! Which applications may use a content: POLICYLISTs of licenses and rights data (MS-RMPR 2.2.9.7.7, 2.2.9.7.8).

use super::element::{Id, Object};
use super::markup::{Element, incomplete, read_each};
use super::time::number;
use super::write::Xml;
use crate::error::{Error, Result};

/// Attribute `type` of POLICYLIST; there is no other (MS-RMPR 2.2.9.7.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// `exclusion`: applications that are shut out.
    Exclusion,
    /// `inclusion`: applications that alone are let in.
    Inclusion,
}

impl PolicyKind {
    const fn name(self) -> &'static str {
        match self {
            PolicyKind::Exclusion => "exclusion",
            PolicyKind::Inclusion => "inclusion",
        }
    }
}

/// POLICYLIST: applications that are shut out or alone let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyList {
    /// Attribute `type`.
    pub kind: PolicyKind,
    /// POLICY.
    pub policies: Vec<Policy>,
}

/// POLICY: an application and a span of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The ID, a file name.
    pub id: Id,
    /// Attributes `min` and `max` of VERSIONSPAN.
    pub versions: Option<(String, String)>,
}

impl PolicyList {
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let policies = read_each(element.all("POLICY"), |policy| {
            let object = policy.required("OBJECT")?;
            let span = object.optional("VERSIONSPAN")?;
            let versions = span.map(|span| {
                let minimum = span.required_attribute("min")?.into_owned();
                Ok::<_, Error>((minimum, span.required_attribute("max")?.into_owned()))
            });
            Ok(Policy { id: Object::read(object)?.id, versions: versions.transpose()? })
        });
        let given = element.required_attribute("type")?;
        let kind = [PolicyKind::Exclusion, PolicyKind::Inclusion].into_iter().find(|kind| kind.name() == given);
        let kind = kind.ok_or_else(|| incomplete("POLICYLIST is neither of type exclusion nor of type inclusion"))?;
        Ok(PolicyList { kind, policies: policies? })
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        if self.policies.is_empty() {
            return xml.leaf("POLICYLIST", &[("type", self.kind.name())], "");
        }
        xml.open("POLICYLIST", &[("type", self.kind.name())]);
        for policy in &self.policies {
            xml.open("POLICY", &[]);
            xml.open("OBJECT", &[]);
            xml.leaf("ID", &[("type", &policy.id.kind)], &policy.id.value);
            if let Some((minimum, maximum)) = &policy.versions {
                xml.leaf("VERSIONSPAN", &[("min", minimum), ("max", maximum)], "");
            }
            xml.close("OBJECT");
            xml.close("POLICY");
        }
        xml.close("POLICYLIST");
    }
}

/// Whether an application may use the content under a license's lists: named by no exclusion, and by an inclusion if there
/// is one that names any. Versions are compared number by number; a bound that is no version excludes and does not include.
#[must_use]
pub fn admits(policies: &[PolicyList], application: &str, version: &str) -> bool {
    let names = |list: &PolicyList, unclear: bool| {
        let policies = list.policies.iter().filter(|policy| policy.id.value.eq_ignore_ascii_case(application));
        let mut spans = policies.map(|policy| policy.versions.as_ref());
        spans.any(|span| span.is_none_or(|(least, most)| is_within(version, least, most).unwrap_or(unclear)))
    };
    let of = |kind: PolicyKind| policies.iter().filter(move |list| list.kind == kind && !list.policies.is_empty());
    !of(PolicyKind::Exclusion).any(|list| names(list, true))
        && (of(PolicyKind::Inclusion).next().is_none() || of(PolicyKind::Inclusion).any(|list| names(list, false)))
}

fn is_within(version: &str, least: &str, most: &str) -> Option<bool> {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(number).collect::<Option<Vec<_>>>()?;
        // What is not written counts zero: 1.0 is 1.0.0.0.
        parts.truncate(parts.iter().rposition(|part| *part != 0).map_or(0, |at| at + 1));
        Some(parts)
    };
    let (version, least, most) = (parse(version)?, parse(least)?, parse(most)?);
    Some(least <= version && version <= most)
}
