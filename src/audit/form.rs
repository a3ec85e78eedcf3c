//! Whether JSON is in the one form that records have (RFC 8785), found out in one pass and without writing it anew.
//!
//! Records are narrower than JSON: names are printable ASCII, numbers are whole and not negative, and there is no `null`.
//! Within that, the form allows one spelling of everything: no blanks, names in order and each once, no escape that is
//! not needed, no zeros in front.

/// Deepest nesting of objects and arrays. Records have four levels.
const DEPTH_MAX: usize = 16;
/// Largest number that every JSON reader keeps whole: 2^53 - 1.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Whether these bytes are one JSON value in canonical form. Whether they are UTF-8 is the caller's to check.
#[must_use]
pub fn is_canonical(bytes: &[u8]) -> bool {
    value(bytes, 0) == Some(&[])
}

/// What stands behind the value that these bytes begin with; nothing if there is none in canonical form.
fn value(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    match bytes.first()? {
        b'{' if depth < DEPTH_MAX => object(&bytes[1..], depth + 1),
        b'[' if depth < DEPTH_MAX => array(&bytes[1..], depth + 1),
        b'"' => string(&bytes[1..]),
        b't' => bytes.strip_prefix(b"true"),
        b'f' => bytes.strip_prefix(b"false"),
        _ => number(bytes),
    }
}

fn object(mut bytes: &[u8], depth: usize) -> Option<&[u8]> {
    if let Some(after) = bytes.strip_prefix(b"}") {
        return Some(after);
    }
    let mut before: Option<&[u8]> = None;
    loop {
        let text = bytes.strip_prefix(b"\"")?;
        let end = text.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))?;
        let (name, after) = text.split_at(end);
        if before.is_some_and(|before| before >= name) {
            return None;
        }
        before = Some(name);
        bytes = value(after.strip_prefix(b"\":")?, depth)?;
        match bytes.split_first()? {
            (b',', after) => bytes = after,
            (b'}', after) => return Some(after),
            _ => return None,
        }
    }
}

fn array(mut bytes: &[u8], depth: usize) -> Option<&[u8]> {
    if let Some(after) = bytes.strip_prefix(b"]") {
        return Some(after);
    }
    loop {
        bytes = value(bytes, depth)?;
        match bytes.split_first()? {
            (b',', after) => bytes = after,
            (b']', after) => return Some(after),
            _ => return None,
        }
    }
}

/// A string, behind its first quote.
fn string(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let end = bytes.iter().position(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\'))?;
        let (special, after) = bytes[end..].split_first()?;
        bytes = match special {
            b'"' => return Some(after),
            b'\\' => escape(after)?,
            _ => return None,
        };
    }
}

/// An escape, behind its backslash: only what must be escaped, and the short way where there is one.
fn escape(bytes: &[u8]) -> Option<&[u8]> {
    let (kind, after) = bytes.split_first()?;
    match kind {
        b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Some(after),
        b'u' => {
            let digits = after.strip_prefix(b"00")?;
            let is_control = match digits.first_chunk()? {
                [b'0', low] => matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f'),
                [b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
                _ => false,
            };
            is_control.then(|| &digits[2..])
        }
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let (digits, after) = bytes.split_at(end);
    if digits.is_empty() || digits.len() > 16 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value <= NUMBER_MAX).then_some(after)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The same by the book: read it, write it in canonical form, compare. And narrower, as records are.
    fn is_canonical_by_the_book(bytes: &[u8]) -> bool {
        fn is_of_records(value: &Value) -> bool {
            match value {
                Value::Null => false,
                Value::Bool(_) | Value::String(_) => true,
                Value::Number(number) => number.as_u64().is_some_and(|number| number <= NUMBER_MAX),
                Value::Array(items) => items.iter().all(is_of_records),
                Value::Object(members) => members.iter().all(|(name, value)| {
                    let plain = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
                    name.chars().all(plain) && is_of_records(value)
                }),
            }
        }
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return false };
        is_of_records(&value) && serde_json_canonicalizer::to_vec(&value).unwrap() == bytes
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..=NUMBER_MAX).prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            "[\\x00-\\x20\"\\\\a\u{7f}\u{e9}\u{1f600}]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[ -!#-\\[\\]-~]{0,6}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_in_canonical_form_is_canonical(value in json()) {
            prop_assert!(is_canonical(&serde_json_canonicalizer::to_vec(&value).unwrap()));
        }

        #[test]
        fn any_change_is_judged_as_by_the_book(
            value in json(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, prop::sample::select(
                b"{}[],:\"\\ 0123456789abefnrtu/-+.Enul\n\t\x7f".to_vec())), 1..4),
        ) {
            let mut bytes = serde_json_canonicalizer::to_vec(&value).unwrap();
            for (place, how, byte) in changes {
                let at = place.index(bytes.len() + 1);
                match how {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => bytes[at] = byte,
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            if std::str::from_utf8(&bytes).is_ok() {
                prop_assert_eq!(is_canonical(&bytes), is_canonical_by_the_book(&bytes), "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn other_spellings_of_the_same_are_refused() {
        for good in [r#"{"a":1,"b":["x",{}],"c":"\u0001\n\"é"}"#, "0", "9007199254740991", "[]", "true"] {
            assert!(is_canonical(good.as_bytes()) && is_canonical_by_the_book(good.as_bytes()), "{good}");
        }
        for bad in [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{ "a":1}"#,
            r#"{"a":1} "#,
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":null}"#,
            r#"{"a":"\u000a"}"#,
            r#"{"a":"\u001F"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\u0041"}"#,
            "{\"a\":\"\n\"}",
            r#"{"\u0061":1}"#,
            r#"{"a":1,}"#,
            "9007199254740992",
            "",
            "{",
        ] {
            assert!(!is_canonical(bad.as_bytes()), "{bad}");
        }
        assert!(!is_canonical("[".repeat(100_000).as_bytes()), "too deep, and no overflow");
    }
}
