//! Dates of XrML: UTC to the minute (MS-RMPR 2.2.9.1, `YYYY-MM-DDThh:mm`), and the spans made of them.

use std::fmt;
use std::str::FromStr;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::markup::{Element, incomplete};
use super::write::Xml;
use crate::error::{Error, Reason, Result};

/// A moment to the minute, UTC, years 1 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XrmlTime(PrimitiveDateTime);

impl XrmlTime {
    /// The minute that holds `moment`, seconds cut off.
    #[must_use]
    pub fn from_moment(moment: OffsetDateTime) -> Self {
        let utc = moment.to_offset(UtcOffset::UTC);
        let minute = Time::from_hms(utc.hour(), utc.minute(), 0).unwrap_or(Time::MIDNIGHT);
        XrmlTime(PrimitiveDateTime::new(utc.date(), minute))
    }

    /// The beginning of this minute.
    #[must_use]
    pub fn moment(self) -> OffsetDateTime {
        self.0.assume_utc()
    }

    /// Reads the text of an element.
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        element.content()?.parse().map_err(|e: Error| e.while_doing(element.name()))
    }
}

impl FromStr for XrmlTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::new(Reason::DocumentDates, format!("{:?} is no date and time", shorten(text)))
                .hint("Write UTC to the minute, as in 2026-01-02T03:04")
        })
    }
}

fn shorten(text: &str) -> &str {
    text.get(..32).unwrap_or(if text.len() > 32 { "…" } else { text })
}

/// Exactly `YYYY-MM-DDThh:mm`: no seconds, no zone letter, no other calendar form.
fn parse(text: &str) -> Option<XrmlTime> {
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':')];
    if bytes.len() != 16 || separators.iter().any(|(at, separator)| bytes[*at] != *separator) {
        return None;
    }
    let number = |from: usize, until: usize| {
        let digits = text.get(from..until)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten()
    };
    let small = |from: usize| number(from, from + 2).and_then(|n| u8::try_from(n).ok());
    let year = i32::from(number(0, 4).filter(|year| *year > 0)?);
    let date = Date::from_calendar_date(year, Month::try_from(small(5)?).ok()?, small(8)?).ok()?;
    Some(XrmlTime(PrimitiveDateTime::new(date, Time::from_hms(small(11)?, small(14)?, 0).ok()?)))
}

impl fmt::Display for XrmlTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}", time.hour(), time.minute())
    }
}

impl fmt::Debug for XrmlTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of nothing but digits.
pub(super) fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// VALIDITYTIME or RANGETIME: from `from`, included, to `until`, excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First minute in it.
    pub from: XrmlTime,
    /// First minute after it.
    pub until: XrmlTime,
}

impl Range {
    /// Whether it holds a moment.
    #[must_use]
    pub fn holds(&self, moment: OffsetDateTime) -> bool {
        self.from.moment() <= moment && moment < self.until.moment()
    }

    /// The part that both hold, if there is one.
    #[must_use]
    pub fn and(self, other: Range) -> Option<Range> {
        let range = Range { from: self.from.max(other.from), until: self.until.min(other.until) };
        (range.from < range.until).then_some(range)
    }

    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let (from, until) = (XrmlTime::read(element.required("FROM")?)?, XrmlTime::read(element.required("UNTIL")?)?);
        if from >= until {
            let message = format!("{} ends at {until}, not after its begin at {from}", element.name());
            return Err(Error::new(Reason::DocumentDates, message));
        }
        Ok(Range { from, until })
    }

    pub(super) fn write(&self, name: &str, xml: &mut Xml) {
        xml.open(name, &[]);
        xml.leaf("FROM", &[], &self.from.to_string());
        xml.leaf("UNTIL", &[], &self.until.to_string());
        xml.close(name);
    }
}

/// INTERVALTIME: how long something may be used or may have aged. An attribute that is not written counts zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Days.
    pub days: u32,
    /// Hours beyond the days.
    pub hours: u32,
    /// Minutes beyond the hours.
    pub minutes: u32,
    /// Seconds beyond the minutes.
    pub seconds: u32,
}

/// The attributes of INTERVALTIME.
const PARTS: [&str; 4] = ["days", "hours", "minutes", "seconds"];

impl Interval {
    /// The whole length; none if it is zero, which is how "no bound" is written.
    #[must_use]
    pub fn length(&self) -> Option<time::Duration> {
        let length = time::Duration::days(self.days.into())
            + time::Duration::hours(self.hours.into())
            + time::Duration::minutes(self.minutes.into())
            + time::Duration::seconds(self.seconds.into());
        (!length.is_zero()).then_some(length)
    }

    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let part = |name: &str| match element.attribute(name) {
            None => Ok(0),
            Some(value) => number(&value)
                .ok_or_else(|| incomplete(format!("INTERVALTIME has {name}={:?}, not a number", shorten(&value)))),
        };
        // A bound that is not understood is not the same as none.
        if let Some(other) = element.attribute_names().find(|name| !PARTS.contains(name)) {
            return Err(incomplete(format!(
                "INTERVALTIME has an attribute {}, whose meaning is unknown",
                shorten(other)
            )));
        }
        Ok(Interval {
            days: part("days")?,
            hours: part("hours")?,
            minutes: part("minutes")?,
            seconds: part("seconds")?,
        })
    }

    /// Reads the bound on a use. One that is written as zero is refused: nobody who wrote it meant a use without bound.
    pub(super) fn read_bound(element: Element<'_>) -> Result<Self> {
        let interval = Interval::read(element)?;
        if interval.length().is_none() && element.attribute_names().next().is_some() {
            return Err(incomplete("INTERVALTIME of TIME is zero"));
        }
        Ok(interval)
    }

    pub(super) fn write(&self, xml: &mut Xml) {
        let parts = [("days", self.days), ("hours", self.hours), ("minutes", self.minutes), ("seconds", self.seconds)];
        let written: Vec<_> = parts.iter().filter(|(_, n)| *n != 0).map(|(name, n)| (*name, n.to_string())).collect();
        let attributes: Vec<_> = written.iter().map(|(name, n)| (*name, n.as_str())).collect();
        xml.leaf("INTERVALTIME", &attributes, "");
    }
}
