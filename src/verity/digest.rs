//! fs-verity digests as types: parsed once at the edge, compared as bytes, printed one way.

use std::fmt;
use std::str::FromStr;

use crate::refusal::Refusal;

/// A hash algorithm of fs-verity, with a block size of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The algorithm with this number in `FS_IOC_MEASURE_VERITY`
    /// (`FS_VERITY_HASH_ALG_*` in `linux/fsverity.h`).
    pub fn from_kernel(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The algorithm's number in fs-verity's structures.
    pub fn to_kernel(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The name that kargs and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest, in hexadecimal digits.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The longest digest, in hexadecimal digits.
const MAX_HEX: usize = 128;

/// A digest of `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest<const N: usize>([u8; N]);

/// A SHA-256 fs-verity digest.
pub type Sha256Digest = Digest<32>;
/// A SHA-512 fs-verity digest.
pub type Sha512Digest = Digest<64>;

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const { assert!(2 * N <= MAX_HEX) };
        let mut text = [0; MAX_HEX];
        for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 0xf)];
        }
        f.write_str(text.get(..2 * N).and_then(|text| str::from_utf8(text).ok()).ok_or(fmt::Error)?)
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> TryFrom<&[u8]> for Digest<N> {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl<const N: usize> FromStr for Digest<N> {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if let Some((position, found)) = text.char_indices().find(|(_, c)| !c.is_ascii_hexdigit()) {
            let found = format!("'{}' at position {position}", found.escape_default());
            return Err(Refusal::of("").expected("hexadecimal digits").found(found));
        }
        let mut bytes = [0; N];
        if text.len() != 2 * N {
            let expected = if N == 32 { "64" } else { "128" };
            return Err(wrong_length(expected, text));
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| value << 4 | hex_value(*digit));
        }
        Ok(Self(bytes))
    }
}

fn wrong_length(expected: &str, text: &str) -> Refusal {
    Refusal::of("").expected(format!("{expected} hexadecimal digits")).found(text.len())
}

/// The ASCII hexadecimal digit of a value below 16.
fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// The value of an ASCII hexadecimal digit, of either case.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// The fs-verity digest that names a composefs image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageDigest {
    /// A SHA-256 digest.
    Sha256(Sha256Digest),
    /// A SHA-512 digest.
    Sha512(Sha512Digest),
}

impl ImageDigest {
    /// Parses the hexadecimal digest of a known algorithm.
    pub fn parse(algorithm: Algorithm, text: &str) -> Result<Self, Refusal> {
        match algorithm {
            Algorithm::Sha256 => text.parse().map(Self::Sha256),
            Algorithm::Sha512 => text.parse().map(Self::Sha512),
        }
    }

    /// A digest as the kernel has it, `None` where its length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Self::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(Self::Sha512),
        }
    }

    /// The digest's algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Lower-case hexadecimal digits: the image's name in a repository.
    pub fn to_hex(&self) -> String {
        match self {
            Self::Sha256(digest) => digest.to_string(),
            Self::Sha512(digest) => digest.to_string(),
        }
    }
}

/// `sha512:<hex>`, as `fsverity digest` prints it.
impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.to_hex())
    }
}

/// Hexadecimal digits whose number says the algorithm: 64 or 128.
impl FromStr for ImageDigest {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.hex_len() == text.len())
            .ok_or_else(|| wrong_length("64 or 128", text))?;
        Self::parse(algorithm, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_either_case_and_right_length() {
        let lower = "0f".repeat(32);
        let digest: ImageDigest = lower.to_uppercase().parse().unwrap();
        assert_eq!(digest.algorithm(), Algorithm::Sha256);
        assert_eq!(digest.to_string(), format!("sha256:{lower}"));
        assert_eq!("ab".repeat(64).parse::<ImageDigest>().unwrap().to_hex(), "ab".repeat(64));
    }

    #[test]
    fn everything_else_is_an_error() {
        for (text, message) in [
            ("", "expected 64 or 128 hexadecimal digits, found 0"),
            ("abc", "expected 64 or 128 hexadecimal digits, found 3"),
            (&"g".repeat(64), "expected hexadecimal digits, found 'g' at position 0"),
            (&format!("{}é", "a".repeat(62)), "expected hexadecimal digits, found '\\u{e9}' at position 62"),
            (&"+1".repeat(32), "expected hexadecimal digits, found '+' at position 0"),
        ] {
            assert_eq!(text.parse::<ImageDigest>().unwrap_err().to_string(), message);
        }
        let wrong = ImageDigest::parse(Algorithm::Sha512, &"a".repeat(64)).unwrap_err();
        assert_eq!(wrong.to_string(), "expected 128 hexadecimal digits, found 64");
    }
}
