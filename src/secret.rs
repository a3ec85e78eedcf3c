//! Secrets: wiped when dropped, never shown, never cloned.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that must not leak: PINs, content keys, session keys. No `Clone`, no content in `Debug`.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes; the buffer is wiped when this value is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes, for the one use they are for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Compares in constant time for equal lengths.
    #[must_use]
    pub fn equals(&self, other: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A token's PIN: UTF-8 text (PKCS#11 2.40, section 11.6). Same care as [`Secret`].
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes over the text; it is wiped when this value is dropped.
    #[must_use]
    pub fn new(text: String) -> Self {
        Pin(Zeroizing::new(text))
    }

    /// The text, for the one login it is for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}
