//! Digests as words that two people can compare by voice.

use aws_lc_rs::digest;

/// Words of a fingerprint.
pub const WORDS: usize = 12;
/// Bits of each word: the list has 2048.
const BITS: usize = 11;

/// A digest over a file's bytes in two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Its first 132 bits as twelve words of the BIP 39 English list. (It is no mnemonic: there is no checksum.)
    pub words: String,
}

impl Fingerprint {
    /// The fingerprint of a file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let digest = digest.as_ref();
        let list = bip39::Language::English.word_list();
        let word = |at: usize| {
            let number = (0..BITS).fold(0usize, |number, bit| {
                let place = at * BITS + bit;
                (number << 1) | usize::from(digest[place / 8] >> (7 - place % 8) & 1)
            });
            list[number]
        };
        Fingerprint { sha256: hex::encode(digest), words: (0..WORDS).map(word).collect::<Vec<_>>().join(" ") }
    }

    /// Whether these are the words, whatever the blanks and letter case.
    #[must_use]
    pub fn is_read_as(&self, words: &str) -> bool {
        let heard: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
        heard.join(" ") == self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_bits_of_the_digest() {
        // SHA-256 of nothing begins e3b0c442…: 11100011101 is 1821, the list's "topple".
        let of_nothing = Fingerprint::of(b"");
        assert!(of_nothing.sha256.starts_with("e3b0c44298fc1c14"));
        assert_eq!(of_nothing.words.split(' ').count(), WORDS);
        let list = bip39::Language::English.word_list();
        assert_eq!(of_nothing.words.split(' ').next(), Some(list[0b111_0001_1101]));
        assert_eq!(of_nothing.words.split(' ').nth(1), Some(list[0b100_0011_0001_0000 >> 4 & 0x7ff]));
    }

    #[test]
    fn words_are_heard_in_any_case_and_spacing_and_in_their_order_only() {
        let of_nothing = Fingerprint::of(b"");
        assert!(of_nothing.is_read_as(&format!("  {}\n", of_nothing.words.to_uppercase().replace(' ', "  "))));
        let turned: Vec<&str> = of_nothing.words.split(' ').rev().collect();
        assert!(!of_nothing.is_read_as(&turned.join(" ")));
    }
}
