//! RFC 8785 JSON, fast for what records hold: the library that does all of RFC 8785 takes most of the time that a
//! record costs otherwise, and remains the judge: tests compare the two, and what is unusual is left to it.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Whole numbers up to here are written by RFC 8785 as they are; beyond, as the nearest double.
const WHOLE_MAX: u64 = 1 << 53;

/// The canonical bytes of a value.
///
/// # Errors
/// If the value cannot be written as JSON.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let text = Text { bytes: RefCell::new(Vec::with_capacity(640)), unusual: Cell::new(false) };
    value.serialize(&mut Serializer::with_formatter(
        &text,
        Sorted { text: &text, members: Vec::with_capacity(16), objects: Vec::with_capacity(4) },
    ))?;
    if text.unusual.get() {
        return serde_json_canonicalizer::to_vec(value);
    }
    Ok(text.bytes.into_inner())
}

/// What is written so far. The serializer writes to its end; the formatter puts finished objects in order.
struct Text {
    bytes: RefCell<Vec<u8>>,
    /// There is something in it that this writer knows no canonical form of.
    unusual: Cell<bool>,
}

impl Text {
    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }
}

impl io::Write for &Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A member of an object: where its name begins, where that ends, where its value ends.
#[derive(Clone, Copy)]
struct Member {
    begin: usize,
    name_end: usize,
    end: usize,
}

impl Member {
    fn name(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.begin..self.name_end]
    }

    fn range(self) -> Range<usize> {
        self.begin..self.end
    }
}

/// Compact JSON whose objects have their members in order.
struct Sorted<'a> {
    text: &'a Text,
    /// The members of all objects that are not closed yet.
    members: Vec<Member>,
    /// Where the members of each of these objects begin, the innermost last.
    objects: Vec<usize>,
}

impl Sorted<'_> {
    fn unusual(&self) -> io::Result<()> {
        self.text.unusual.set(true);
        Ok(())
    }
}

/// Puts the members of the object that ends the text in order.
fn sort(bytes: &mut Vec<u8>, members: &mut [Member]) {
    let Some(first) = members.first().map(|member| member.begin) else { return };
    if members.is_sorted_by_key(|member| member.name(bytes)) {
        return;
    }
    members.sort_unstable_by_key(|member| member.name(bytes));
    let mut sorted = Vec::with_capacity(bytes.len() - first);
    for member in members {
        if !sorted.is_empty() {
            sorted.push(b',');
        }
        sorted.extend_from_slice(&bytes[member.range()]);
    }
    bytes.truncate(first);
    bytes.append(&mut sorted);
}

impl Formatter for Sorted<'_> {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.push(self.members.len());
        writer.write_all(b"{")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        let begin = self.text.len();
        self.members.push(Member { begin, name_end: begin, end: begin });
        Ok(())
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        // Without the closing quote, which would stand before a longer name's next character or after it.
        let end = self.text.len() - 1;
        if let Some(member) = self.members.last_mut() {
            member.name_end = end;
            let begin = member.begin;
            // RFC 8785 sorts by UTF-16 units: the order of bytes, as long as all is ASCII and nothing is escaped.
            let plain = self.text.bytes.borrow()[begin..end].iter().all(|byte| byte.is_ascii() && *byte != b'\\');
            if !plain {
                return self.unusual();
            }
        }
        Ok(())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.text.len();
        if let Some(member) = self.members.last_mut() {
            member.end = end;
        }
        Ok(())
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if let Some(first) = self.objects.pop() {
            sort(&mut self.text.bytes.borrow_mut(), &mut self.members[first..]);
            self.members.truncate(first);
        }
        writer.write_all(b"}")
    }

    fn write_u64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        if value > WHOLE_MAX { self.unusual() } else { write!(writer, "{value}") }
    }

    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        if value.unsigned_abs() > WHOLE_MAX { self.unusual() } else { write!(writer, "{value}") }
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: u128) -> io::Result<()> {
        self.unusual()
    }

    fn write_i128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: i128) -> io::Result<()> {
        self.unusual()
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, _: &mut W, _: f32) -> io::Result<()> {
        self.unusual()
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, _: &mut W, _: f64) -> io::Result<()> {
        self.unusual()
    }

    fn write_number_str<W: ?Sized + io::Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        self.unusual()
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        self.unusual()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn names() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c]{0,3}", "[a-z_]{1,8}", "[ -~]{0,4}", any::<String>()]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x7f]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                // Not in order: that is made here.
                btree_map(names(), inner, 0..6).prop_map(|map| map.into_iter().rev().collect::<Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_library(value in values()) {
            prop_assert_eq!(to_vec(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap());
        }
    }

    #[test]
    fn names_that_begin_alike_are_in_the_order_of_what_they_say() {
        let value = serde_json::json!({"ab": 1, "a!": 2, "a": 3, "a b": 4, "": 5});
        assert_eq!(to_vec(&value).unwrap(), br#"{"":5,"a":3,"a b":4,"a!":2,"ab":1}"#);
    }
}
