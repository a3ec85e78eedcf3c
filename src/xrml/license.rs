//! What licenses say: works, rights, conditions, application policies and application data (MS-RMPR 2.2.9.7 to 2.2.9.10).

use time::{Duration, OffsetDateTime};

use super::element::{DistributionPoint, Object, Principal};
use super::markup::{Element, incomplete, read_each, salvage_each};
use super::time::{Interval, Range, XrmlTime, number};
use super::unknown::{each, known_of};
use super::write::Xml;
use crate::error::{Error, Reason, Result};

/// Most RANGETIMEs of one list of conditions. Real ones have one.
pub const RANGES_MAX: usize = 16;

/// REFRESH: revocation lists that must be at hand, and how old they may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refresh {
    /// Where the lists are and who signs them.
    pub points: Vec<DistributionPoint>,
    /// How long after its issue a list is good.
    pub interval: Interval,
}

/// CONDITION: a named value; version ranges of the operating system are the only ones in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Attribute `NAME`.
    pub name: String,
    /// Attribute `TYPE`.
    pub kind: String,
    /// The text, `min-max` for a version range.
    pub value: String,
}

/// TYPE of a CONDITION that is a range of versions.
const VERSION_SPAN: &str = "versionspan";

impl Condition {
    /// Versions of the operating system that may not use the license, both ends included.
    #[must_use]
    pub fn os_exclusion(least: &str, most: &str) -> Self {
        Condition { name: "OS-Exclusion".into(), kind: VERSION_SPAN.into(), value: format!("{least}-{most}") }
    }

    fn read(element: Element<'_>) -> Result<Self> {
        let condition = Condition {
            name: element.required_attribute("NAME")?.into_owned(),
            kind: element.attribute("TYPE").unwrap_or_default().into_owned(),
            value: element.content()?.into_owned(),
        };
        if condition.kind == VERSION_SPAN && condition.version_span().is_none() {
            return Err(incomplete("a CONDITION of type versionspan is not made of two versions"));
        }
        Ok(condition)
    }

    /// The two ends of a version range, both of them versions.
    #[must_use]
    pub fn version_span(&self) -> Option<(&str, &str)> {
        let is_version = |text: &str| text.split('.').all(|part| number(part).is_some());
        let span = self.value.trim().split_once('-').filter(|_| self.kind == VERSION_SPAN);
        span.filter(|(least, most)| is_version(least) && is_version(most))
    }
}

/// CONDITIONLIST, or what stands in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// TIME/RANGETIME.
    pub ranges: Vec<Range>,
    /// TIME/INTERVALTIME.
    pub interval: Option<Interval>,
    /// ACCESS/PRINCIPAL: who, or a reference to a principal of the document with a sealed key.
    pub access: Vec<Principal>,
    /// REFRESH.
    pub refresh: Option<Box<Refresh>>,
    /// CONDITION.
    pub named: Vec<Condition>,
    /// Elements of no known name, as received, one after the other: beside the others or within one of them.
    pub unknown: String,
}

impl Conditions {
    /// Reads conditions: the children of CONDITIONLIST, or what stands in its place.
    pub(super) fn read<'a>(elements: impl Iterator<Item = Element<'a>> + Clone) -> Result<Self> {
        let named = |name: &'static str| elements.clone().filter(move |element| element.name() == name);
        // Whether two of them would add up or bound each other is not written anywhere.
        if named("ACCESS").nth(1).is_some() {
            return Err(incomplete("more than one ACCESS"));
        }
        let mut conditions = Conditions {
            access: read_each(named("ACCESS").flat_map(|access| access.all("PRINCIPAL")), Principal::read)?,
            named: read_each(named("CONDITION"), Condition::read)?,
            unknown: read_unknown(elements.clone()),
            ..Conditions::default()
        };
        for element in elements {
            match element.name() {
                "TIME" => conditions.read_time(element)?,
                "REFRESH" if conditions.refresh.is_some() => return Err(incomplete("more than one REFRESH")),
                "REFRESH" => conditions.refresh = Some(Box::new(read_refresh(element)?)),
                _ => {}
            }
        }
        Ok(conditions)
    }

    /// Whether the times hold at a moment, intervals counted from an issue.
    #[must_use]
    pub fn hold(&self, issued: Option<XrmlTime>, moment: OffsetDateTime) -> bool {
        let is_over = |length: Duration| issued.is_none_or(|issued| moment - issued.moment() >= length);
        self.ranges.iter().all(|range| range.holds(moment))
            && !self.interval.and_then(|interval| interval.length()).is_some_and(is_over)
    }

    /// Whether there are any but times and names: conditions that may bind in a way that is not judged here.
    #[must_use]
    pub fn has_others(&self) -> bool {
        !self.unknown.is_empty() || !self.named.is_empty() || self.refresh.is_some()
    }

    /// Whether it says nothing but where revocation lists are.
    #[must_use]
    pub fn is_revocation_only(&self) -> bool {
        *self == Conditions { refresh: self.refresh.clone(), ..Conditions::default() }
    }

    fn read_time(&mut self, time: Element<'_>) -> Result<()> {
        for child in time.children() {
            match child.name() {
                "RANGETIME" if self.ranges.len() == RANGES_MAX => {
                    let message = format!("RANGETIMEs of one list of conditions: the bound is {RANGES_MAX}");
                    return Err(Error::new(Reason::LimitExceeded, message));
                }
                "RANGETIME" => self.ranges.push(Range::read(child)?),
                "INTERVALTIME" if self.interval.is_some() => return Err(incomplete("more than one INTERVALTIME")),
                "INTERVALTIME" => self.interval = Some(Interval::read_bound(child)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes CONDITIONLIST. Certificates have the time before the access, licenses after it.
    pub(super) fn write(&self, time_first: bool, xml: &mut Xml) {
        self.write_as("CONDITIONLIST", time_first, xml);
    }

    fn write_as(&self, list: &str, time_first: bool, xml: &mut Xml) {
        xml.open(list, &[]);
        if time_first {
            self.write_time(xml);
        }
        if !self.access.is_empty() {
            xml.open("ACCESS", &[]);
            self.access.iter().for_each(|principal| principal.write("PRINCIPAL", xml));
            xml.close("ACCESS");
        }
        if !time_first {
            self.write_time(xml);
        }
        if let Some(refresh) = &self.refresh {
            xml.open("REFRESH", &[]);
            refresh.points.iter().for_each(|point| point.write(xml));
            refresh.interval.write(xml);
            xml.close("REFRESH");
        }
        for condition in &self.named {
            xml.leaf("CONDITION", &[("NAME", &condition.name), ("TYPE", &condition.kind)], &condition.value);
        }
        xml.received(&self.unknown);
        xml.close(list);
    }

    /// Writes a TIME for each: one holds either a range or an interval (MS-RMPR 2.2.9.8.4, 2.2.9.9.6).
    fn write_time(&self, xml: &mut Xml) {
        let mut write = |one: &dyn Fn(&mut Xml)| {
            xml.open("TIME", &[]);
            one(xml);
            xml.close("TIME");
        };
        self.ranges.iter().for_each(|range| write(&|xml| range.write("RANGETIME", xml)));
        self.interval.iter().for_each(|interval| write(&|xml| interval.write(xml)));
    }
}

/// All elements of no known name among conditions, however deep, as received and one after the other.
fn read_unknown<'a>(elements: impl Iterator<Item = Element<'a>> + Clone) -> String {
    let (mut length, known) = (0, known_of("CONDITIONLIST"));
    elements.clone().for_each(|element| each(element, known, &mut |found| length += found.outer().len()));
    let mut text = String::with_capacity(length);
    if length > 0 {
        elements.for_each(|element| each(element, known, &mut |found| text.push_str(found.outer())));
    }
    text
}

fn read_refresh(element: Element<'_>) -> Result<Refresh> {
    Ok(Refresh {
        points: read_each(element.all("DISTRIBUTIONPOINT"), DistributionPoint::read)?,
        interval: element.optional("INTERVALTIME")?.map(Interval::read).transpose()?.unwrap_or_default(),
    })
}

/// One right: `<VIEW>…</VIEW>` or `<RIGHT name="…">…</RIGHT>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// `VIEW`, `EDIT`, `OWNER`, `ISSUE`, … as written.
    pub name: String,
    /// Whether it is written as a RIGHT with a name.
    pub is_named: bool,
    /// Who may use it, when, with which sealed key.
    pub conditions: Conditions,
}

/// Rights that have elements of their own in use licenses and rights data (MS-RMPR 2.2.9.8.5.3 and 2.2.9.9.6); all others
/// are written as RIGHT with a name. OWNER has one too, but an owner's license must not use it.
const ELEMENT_RIGHTS: [&str; 5] = ["VIEW", "PRINT", "EDIT", "FORWARD", "VIEWRIGHTSDATA"];
/// The same in templates (MS-RMPR 2.2.9.10.4.2).
const TEMPLATE_RIGHTS: [&str; 5] = ["VIEW", "PRINT", "EDIT", "EXPORT", "EXTRACT"];

/// Whether a right of a name has an element of its own in use licenses and rights data.
pub(super) fn has_element(name: &str) -> bool {
    ELEMENT_RIGHTS.contains(&name)
}

impl Right {
    /// A right in the form in which its name is written in use licenses and rights data.
    #[must_use]
    pub fn new(name: &str, conditions: Conditions) -> Self {
        Right { name: name.to_owned(), is_named: !has_element(name), conditions }
    }

    /// A right in the form in which its name is written in a template.
    #[must_use]
    pub fn of_template(name: &str, conditions: Conditions) -> Self {
        Right { name: name.to_owned(), is_named: !TEMPLATE_RIGHTS.contains(&name), conditions }
    }

    /// Whether a sealed key comes with it.
    #[must_use]
    pub fn has_enabling_bits(&self) -> bool {
        self.conditions.access.iter().any(|principal| principal.enabling.is_some())
    }

    fn read(element: Element<'_>) -> Result<Self> {
        let is_named = element.name() == "RIGHT";
        let name = if is_named { element.required_attribute("name")?.into_owned() } else { element.name().to_owned() };
        // An owner's license made by a client has ACCESS directly below the right. Wherever a condition stands, it counts.
        let list = element.optional("CONDITIONLIST")?.into_iter().flat_map(Element::children);
        let conditions =
            Conditions::read(list.chain(element.children().filter(|child| child.name() != "CONDITIONLIST")))?;
        Ok(Right { name, is_named, conditions })
    }

    fn write(&self, time_first: bool, xml: &mut Xml) {
        let name = if self.is_named { "RIGHT" } else { &self.name };
        let attributes = [("name", self.name.as_str())];
        xml.open(name, if self.is_named { &attributes } else { &[] });
        self.conditions.write(time_first, xml);
        xml.close(name);
    }
}

/// WORK: the content and what may be done with it. In a certificate, the right to issue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// OBJECT: the content's ID, or a copy of the certificate's descriptor.
    pub object: Option<Object>,
    /// METADATA/OWNER/OBJECT.
    pub owner: Option<Object>,
    /// CONDITIONLIST: where revocation lists are.
    pub conditions: Option<Conditions>,
    /// PRECONDITIONLIST: what must hold for all rights.
    pub preconditions: Option<Conditions>,
    /// The name of RIGHTSGROUP, where there is one.
    pub group: Option<String>,
    /// RIGHTSGROUP/RIGHTSLIST.
    pub rights: Vec<Right>,
}

/// The only name of a rights group.
pub const MAIN_RIGHTS: &str = "Main-Rights";

impl Work {
    /// The right of a name.
    #[must_use]
    pub fn right(&self, name: &str) -> Option<&Right> {
        self.rights.iter().find(|right| right.name == name)
    }

    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let owner = match element.optional("METADATA")? {
            Some(metadata) => metadata.optional("OWNER")?.map(|owner| Object::read(owner.required("OBJECT")?)),
            None => None,
        };
        let group = element.optional("RIGHTSGROUP")?;
        let rights = match group {
            Some(group) => read_each(group.required("RIGHTSLIST")?.children(), Right::read)?,
            None => Vec::new(),
        };
        Ok(Work {
            object: element.optional("OBJECT")?.map(Object::read).transpose()?,
            owner: owner.transpose()?,
            conditions: element.optional("CONDITIONLIST")?.map(|list| Conditions::read(list.children())).transpose()?,
            preconditions: element
                .optional("PRECONDITIONLIST")?
                .map(|list| Conditions::read(list.children()))
                .transpose()?,
            group: group.map(|group| group.attribute("name").unwrap_or_default().into_owned()),
            rights,
        })
    }

    /// Reads what can be read of a WORK that cannot be read whole.
    pub(super) fn salvage(element: Element<'_>) -> Work {
        let single = |name: &str| element.optional(name).ok().flatten();
        let conditions = |name: &str| Conditions::read(single(name)?.children()).ok();
        let group = single("RIGHTSGROUP");
        let rights = group.and_then(|group| group.optional("RIGHTSLIST").ok().flatten());
        let owner = single("METADATA").and_then(|metadata| metadata.optional("OWNER").ok().flatten());
        Work {
            object: single("OBJECT").and_then(|object| Object::read(object).ok()),
            owner: owner.and_then(|owner| Object::read(owner.required("OBJECT").ok()?).ok()),
            conditions: conditions("CONDITIONLIST"),
            preconditions: conditions("PRECONDITIONLIST"),
            group: group.map(|group| group.attribute("name").unwrap_or_default().into_owned()),
            rights: rights.map(|rights| salvage_each(rights.children(), Right::read)).unwrap_or_default(),
        }
    }

    pub(super) fn write(&self, time_first: bool, xml: &mut Xml) {
        xml.open("WORK", &[]);
        if let Some(object) = &self.object {
            object.write(xml);
        }
        if let Some(owner) = &self.owner {
            xml.open("METADATA", &[]);
            xml.open("OWNER", &[]);
            owner.write(xml);
            xml.close("OWNER");
            xml.close("METADATA");
        }
        if let Some(conditions) = &self.conditions {
            conditions.write(time_first, xml);
        }
        if let Some(preconditions) = &self.preconditions {
            preconditions.write_as("PRECONDITIONLIST", time_first, xml);
        }
        if let Some(group) = &self.group {
            xml.open("RIGHTSGROUP", &[("name", group)]);
            xml.open("RIGHTSLIST", &[]);
            self.rights.iter().for_each(|right| right.write(time_first, xml));
            xml.close("RIGHTSLIST");
            xml.close("RIGHTSGROUP");
        }
        xml.close("WORK");
    }
}

/// AUTHENTICATEDDATA: the encrypted rights data, or an application's own name and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedData {
    /// Attribute `id`: `Encrypted-Rights-Data` or `APPSPECIFIC`.
    pub id: String,
    /// Attribute `name`, for an application's data.
    pub name: Option<String>,
    /// The text.
    pub value: String,
}

impl AuthenticatedData {
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        Ok(AuthenticatedData {
            id: element.required_attribute("id")?.into_owned(),
            name: element.attribute("name").map(Into::into),
            value: element.content()?.into_owned(),
        })
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        let mut attributes = vec![("id", self.id.as_str())];
        attributes.extend(self.name.as_deref().map(|name| ("name", name)));
        xml.leaf("AUTHENTICATEDDATA", &attributes, &self.value);
    }
}
