//! Whether JSON is in the one form that records have (RFC 8785), found out in one pass and without writing it anew.
//!
//! Records are narrower than JSON: names are printable ASCII, numbers are whole and not negative, and there is no `null`.
//! Within that, the form allows one spelling of everything: no blanks, names in order and each once, no escape that is
//! not needed, no zeros in front.

/// Deepest nesting of objects and arrays. Records have four levels.
const DEPTH_MAX: usize = 16;
/// Largest number that every JSON reader keeps whole: 2^53 - 1.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What stands behind the value that this text begins with; nothing if there is none in canonical form. `depth` is the
/// number of objects and arrays around it.
pub(super) fn value(text: &str, depth: usize) -> Option<&str> {
    match text.as_bytes().first()? {
        b'{' if depth < DEPTH_MAX => object(&text[1..], depth + 1, |_, _| {}),
        b'[' if depth < DEPTH_MAX => array(&text[1..], depth + 1),
        b'"' => string(&text[1..]),
        b't' => text.strip_prefix("true"),
        b'f' => text.strip_prefix("false"),
        _ => number(text),
    }
}

/// The same of an object, behind its brace; `depth` counts it too. Shows each member: its name, and the text of its value.
pub(super) fn object<'a>(mut text: &'a str, depth: usize, mut see: impl FnMut(&'a str, &'a str)) -> Option<&'a str> {
    if let Some(after) = text.strip_prefix('}') {
        return Some(after);
    }
    let mut before: Option<&str> = None;
    loop {
        let behind = text.strip_prefix('"')?;
        let is_end = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
        let (name, after) = behind.split_at(behind.as_bytes().iter().position(is_end)?);
        if before.is_some_and(|before| before >= name) {
            return None;
        }
        before = Some(name);
        let member = after.strip_prefix("\":")?;
        text = value(member, depth)?;
        see(name, &member[..member.len() - text.len()]);
        match text.as_bytes().first()? {
            b',' => text = &text[1..],
            b'}' => return Some(&text[1..]),
            _ => return None,
        }
    }
}

fn array(mut text: &str, depth: usize) -> Option<&str> {
    if let Some(after) = text.strip_prefix(']') {
        return Some(after);
    }
    loop {
        text = value(text, depth)?;
        match text.as_bytes().first()? {
            b',' => text = &text[1..],
            b']' => return Some(&text[1..]),
            _ => return None,
        }
    }
}

/// A string, behind its first quote.
fn string(mut text: &str) -> Option<&str> {
    loop {
        text = &text[plain(text.as_bytes())..];
        match text.as_bytes().first()? {
            b'"' => return Some(&text[1..]),
            b'\\' => text = escape(&text[1..])?,
            _ => return None,
        }
    }
}

/// How many bytes stand for themselves in a string, up to the first that does not. A record is strings for the most part,
/// so they are looked at sixteen at a time.
fn plain(bytes: &[u8]) -> usize {
    let is_special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    let (chunks, _) = bytes.as_chunks::<16>();
    let is_plain = |chunk: &&[u8; 16]| !chunk.iter().fold(false, |any, byte| any | is_special(byte));
    let whole = 16 * chunks.iter().take_while(is_plain).count();
    whole + bytes[whole..].iter().take_while(|byte| !is_special(byte)).count()
}

/// An escape, behind its backslash: only what must be escaped, and the short way where there is one.
fn escape(text: &str) -> Option<&str> {
    match text.as_bytes().first()? {
        b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Some(&text[1..]),
        b'u' => {
            let digits = text[1..].strip_prefix("00")?;
            let is_control = match digits.as_bytes().first_chunk()? {
                [b'0', low] => matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f'),
                [b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
                _ => false,
            };
            is_control.then(|| &digits[2..])
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<&str> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, after) = text.split_at(end);
    let has_zeros = digits.starts_with('0') && digits.len() > 1;
    (digits.len() <= 16 && !has_zeros && digits.parse::<u64>().ok()? <= NUMBER_MAX).then_some(after)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn is_canonical(bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok_and(|text| value(text, 0) == Some(""))
    }

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
