//! The kernel command line: bytes in, the images it asks for out.
//!
//! Split as the kernel splits it (`next_arg()` in `lib/cmdline.c`): white space outside double quotes ends an
//! argument, quotes around an argument or a value are taken off, nothing is an escape. The arguments behind `--` are
//! looked at like all others, because a program that reads `/proc/cmdline` sees them.

use std::{fmt, str};

use crate::formats::composefs::FormatVersion;
use crate::refusal::Refusal;
use crate::verity::digest::{Algorithm, ImageDigest};

/// The karg of an image in any format, which the image itself says; the algorithm follows from the length of the digest.
const KARG_HEX: &str = "composefs";
/// The karg that says format, algorithm and block size.
const KARG_DIGEST: &str = "composefs.digest";

/// One argument, `key` or `key=value`, without the quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// A command line, split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine(Vec<Argument>);

impl CommandLine {
    /// Splits the content of `/proc/cmdline`. Nothing is refused here: what an argument means is its reader's matter.
    pub fn split(text: &[u8]) -> Self {
        let mut quoted = false;
        Self(
            text.split(|byte| {
                quoted ^= *byte == b'"';
                !quoted && is_space(*byte)
            })
            .filter(|argument| !argument.is_empty())
            .map(Argument::new)
            .collect(),
        )
    }

    /// The values of every argument with this key, in order; an argument without `=` has none. As for the kernel and
    /// for systemd, a hyphen in a key is an underscore.
    pub fn values<'a>(&'a self, key: &'a str) -> impl DoubleEndedIterator<Item = Option<&'a [u8]>> {
        let same = |(a, b): (&u8, &u8)| a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-'));
        self.0
            .iter()
            .filter(move |argument| {
                argument.key.len() == key.len() && argument.key.iter().zip(key.as_bytes()).all(same)
            })
            .map(|argument| argument.value.as_deref())
    }

    /// All arguments, in order.
    pub fn arguments(&self) -> &[Argument] {
        &self.0
    }

    /// The keys of all arguments, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|argument| argument.key.as_slice())
    }

    /// The value of the last argument with this key that has one, which is the one that systemd uses.
    pub fn last_value<'a>(&'a self, key: &'a str) -> Option<&'a [u8]> {
        self.values(key).flatten().next_back()
    }
}

/// For messages, without the quotes.
impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key.escape_ascii())?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={}", value.escape_ascii()))
    }
}

impl Argument {
    fn new(text: &[u8]) -> Self {
        // A quote at the start belongs to the whole argument, a quote behind the `=` to the value. Either takes the
        // quote at the end with it, of which there is one.
        let (text, quoted) = match text.strip_prefix(b"\"") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let end = |text: &'_ [u8]| text.strip_suffix(b"\"").unwrap_or(text).to_vec();
        let Some(equals) = text.iter().position(|byte| *byte == b'=') else {
            return Self { key: if quoted { end(text) } else { text.to_vec() }, value: None };
        };
        let (key, value) = text.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        let value = match value.strip_prefix(b"\"") {
            Some(rest) => end(rest),
            None if quoted => end(value),
            None => value.to_vec(),
        };
        Self { key: key.to_vec(), value: Some(value) }
    }
}

/// The kernel's `isspace()`, which takes the no-break space of Latin-1 along.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

/// Whether systemd's `parse_boolean()` takes a value for false.
pub fn is_false(value: &[u8]) -> bool {
    ["0", "no", "n", "false", "f", "off"].iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// An image that the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedImage {
    karg: &'static str,
    format: Option<FormatVersion>,
    digest: ImageDigest,
}

/// Format, if it was named, and digest: `v1 sha512:<hex>`.
impl fmt::Display for RequestedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(format) = self.format {
            write!(f, "{} ", format.name())?;
        }
        self.digest.fmt(f)
    }
}

impl RequestedImage {
    /// The key of the karg that asked.
    pub fn karg(&self) -> &'static str {
        self.karg
    }

    /// The format that the image must have; `None` if any will do, since the digest says which bytes they are.
    pub fn format(&self) -> Option<FormatVersion> {
        self.format
    }

    /// The digest that the image must have, and its name in the repository.
    pub fn digest(&self) -> ImageDigest {
        self.digest
    }
}

/// What a command line asks of sealroot: an image, or one for each key. Whether two different ones may be is for the policy to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRequest {
    images: Vec<RequestedImage>,
    verification: RequestedVerification,
}

/// Whether the kargs ask for verification or for "verify if you can".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedVerification {
    /// No `?`: the image must be verified.
    Required,
    /// A `?` behind the `=`.
    Optional,
}

impl BootRequest {
    /// The images asked for, in the command line's order; empty where there is no karg.
    pub fn images(&self) -> &[RequestedImage] {
        &self.images
    }

    /// Whether verification was asked for.
    pub fn verification(&self) -> RequestedVerification {
        self.verification
    }
}

impl TryFrom<&CommandLine> for BootRequest {
    type Error = Refusal;

    fn try_from(command_line: &CommandLine) -> Result<Self, Refusal> {
        let (mut images, mut all): (Vec<RequestedImage>, Vec<RequestedImage>) = Default::default();
        let mut verification = None;
        for argument in &command_line.0 {
            let karg = match argument.key.as_slice() {
                key if key == KARG_HEX.as_bytes() => KARG_HEX,
                key if key == KARG_DIGEST.as_bytes() => KARG_DIGEST,
                _ => continue,
            };
            let (image, asked) = parse_karg(karg, argument.value.as_deref())?;
            if *verification.get_or_insert(asked) != asked {
                return Err(about(karg).expected("'?' with every composefs karg or with none").found("both"));
            }
            let same = |known: &RequestedImage| (known.digest, known.format) == (image.digest, image.format);
            if let Some(known) = all.iter().find(|known| known.karg == karg && !same(known)) {
                return Err(about(karg).expected("one image").found(format_args!("{known} and {image}")));
            }
            all.push(image.clone());
            match images.iter_mut().find(|known| known.digest == image.digest) {
                None => images.push(image),
                // The other key says which format it is.
                Some(known) if known.format.is_none() => *known = image,
                Some(_) => {}
            }
        }
        Ok(Self { images, verification: verification.unwrap_or(RequestedVerification::Required) })
    }
}

/// A refusal of what a karg says.
fn about(karg: &str) -> Refusal {
    Refusal::of(format!("karg '{karg}'"))
}

fn parse_karg(karg: &'static str, value: Option<&[u8]>) -> Result<(RequestedImage, RequestedVerification), Refusal> {
    let form =
        |expected, found: &[u8]| about(karg).expected(expected).found(format_args!("'{}'", found.escape_ascii()));
    let no_value = || about(karg).expected("a digest").found("no value");
    let value = value.filter(|value| !value.is_empty()).ok_or_else(no_value)?;
    let text = str::from_utf8(value).map_err(|_| form("ASCII", value))?;
    let (text, verification) = match text.strip_prefix('?') {
        Some(rest) => (rest, RequestedVerification::Optional),
        None => (text, RequestedVerification::Required),
    };
    let bad_digest = |reason: Refusal| reason.within(format_args!("karg '{karg}'"));
    if karg == KARG_HEX {
        let digest = text.parse().map_err(bad_digest)?;
        return Ok((RequestedImage { karg, format: None, digest }, verification));
    }
    let (description, hex) =
        text.split_once(':').ok_or_else(|| form("'<format>-<algorithm>-<log2 of the block size>:<digest>'", value))?;
    let mut parts = description.split('-');
    let (Some(format), Some(algorithm), Some(block_size), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form("'<format>-<algorithm>-<log2 of the block size>' before ':'", description.as_bytes()));
    };
    let format = match format {
        "v1" => FormatVersion::V1,
        "v2" => FormatVersion::V2,
        _ => return Err(form("format 'v1' or 'v2'", format.as_bytes())),
    };
    let algorithm = match algorithm {
        "sha256" => Algorithm::Sha256,
        "sha512" => Algorithm::Sha512,
        _ => return Err(form("algorithm 'sha256' or 'sha512'", algorithm.as_bytes())),
    };
    if block_size != "12" {
        return Err(form("'12' as log2 of the block size", block_size.as_bytes()));
    }
    let digest = ImageDigest::parse(algorithm, hex).map_err(bad_digest)?;
    Ok((RequestedImage { karg, format: Some(format), digest }, verification))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<BootRequest, Refusal> {
        BootRequest::try_from(&CommandLine::split(text.as_bytes()))
    }

    #[test]
    fn splits_as_the_kernel_does() {
        let line = CommandLine::split(b" a=1\tb \"c d=e f\" g=\"h i\" j=\"k\"l a=2 \xa0m\n");
        let argument = |key: &str, value: Option<&str>| Argument {
            key: key.into(),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        assert_eq!(
            line.0,
            [
                argument("a", Some("1")),
                argument("b", None),
                argument("c d", Some("e f")),
                argument("g", Some("h i")),
                argument("j", Some("k\"l")),
                argument("a", Some("2")),
                argument("m", None),
            ]
        );
        assert_eq!(line.last_value("a"), Some(&b"2"[..]));
        assert_eq!(line.values("b").collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn kargs_of_every_form() {
        let (sha256, sha512) = ("a1".repeat(32), "B2".repeat(64));
        for (line, format, algorithm) in [
            (format!("quiet composefs={sha256} rw"), None, Algorithm::Sha256),
            (format!("composefs={sha512}"), None, Algorithm::Sha512),
            (format!("composefs.digest=v1-sha256-12:{sha256}"), Some(FormatVersion::V1), Algorithm::Sha256),
            (format!("composefs.digest=v1-sha512-12:{sha512}"), Some(FormatVersion::V1), Algorithm::Sha512),
            (format!("composefs.digest=v2-sha256-12:{sha256}"), Some(FormatVersion::V2), Algorithm::Sha256),
            (format!("\"composefs.digest=v2-sha512-12:{sha512}\""), Some(FormatVersion::V2), Algorithm::Sha512),
            (format!("composefs=\"{sha256}\""), None, Algorithm::Sha256),
        ] {
            let request = request(&line).unwrap();
            assert_eq!(request.verification(), RequestedVerification::Required);
            let [image] = request.images() else { panic!("{line}: {request:?}") };
            assert_eq!((image.format(), image.digest().algorithm()), (format, algorithm), "{line}");
        }
    }

    #[test]
    fn what_is_not_an_error() {
        let digest = "ab".repeat(32);
        assert!(request("composefs2=x composefs.digests=y xcomposefs=z root=LABEL=a").unwrap().images().is_empty());
        let same = request(&format!("composefs={digest} composefs={}", digest.to_uppercase())).unwrap();
        assert_eq!(same.images().len(), 1);
        let both = request(&format!("composefs.digest=v1-sha256-12:{digest} composefs={}", "cd".repeat(32))).unwrap();
        assert_eq!(both.images().iter().map(RequestedImage::karg).collect::<Vec<_>>(), [KARG_DIGEST, KARG_HEX]);
        // The same digest under both keys is one image, in the format that is named.
        let named = format!("composefs.digest=v1-sha256-12:{digest}");
        for line in [format!("composefs={digest} {named}"), format!("{named} composefs={digest}")] {
            let request = request(&line).unwrap();
            let [image] = request.images() else { panic!("{line}: {request:?}") };
            assert_eq!((image.karg(), image.format()), (KARG_DIGEST, Some(FormatVersion::V1)), "{line}");
        }
        let optional = request(&format!("composefs=?{digest}")).unwrap();
        assert_eq!(optional.verification(), RequestedVerification::Optional);
    }

    #[test]
    fn refusals_name_karg_expected_and_found() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        for (line, message) in [
            ("composefs".into(), "karg 'composefs': expected a digest, found no value".into()),
            ("composefs=".into(), "karg 'composefs': expected a digest, found no value".into()),
            ("composefs=?".into(), "karg 'composefs': expected 64 or 128 hexadecimal digits, found 0".into()),
            ("composefs=abc".into(), "karg 'composefs': expected 64 or 128 hexadecimal digits, found 3".into()),
            (
                format!("composefs={}", "z".repeat(64)),
                "karg 'composefs': expected hexadecimal digits, found 'z' at position 0".into(),
            ),
            (
                format!("composefs={a} composefs={b}"),
                format!("karg 'composefs': expected one image, found sha256:{a} and sha256:{b}"),
            ),
            (
                format!("composefs.digest=v1-sha256-12:{a} composefs.digest=v2-sha256-12:{a}"),
                format!("karg 'composefs.digest': expected one image, found v1 sha256:{a} and v2 sha256:{a}"),
            ),
            // Whatever is between them, and under the other key.
            (
                format!("composefs={a} composefs.digest=v2-sha256-12:{a} composefs={b}"),
                format!("karg 'composefs': expected one image, found sha256:{a} and sha256:{b}"),
            ),
            (
                format!("composefs.digest=v1-sha256-12:{a} composefs={a} composefs.digest=v2-sha256-12:{a}"),
                format!("karg 'composefs.digest': expected one image, found v1 sha256:{a} and v2 sha256:{a}"),
            ),
            (
                format!("composefs=?{a} composefs.digest=v1-sha256-12:{b}"),
                "karg 'composefs.digest': expected '?' with every composefs karg or with none, found both".into(),
            ),
            (
                format!("composefs.digest={a}"),
                format!(
                    "karg 'composefs.digest': expected '<format>-<algorithm>-<log2 of the block size>:<digest>', \
                     found '{a}'"
                ),
            ),
            (
                format!("composefs.digest=v3-sha256-12:{a}"),
                "karg 'composefs.digest': expected format 'v1' or 'v2', found 'v3'".into(),
            ),
            (
                format!("composefs.digest=v1-md5-12:{a}"),
                "karg 'composefs.digest': expected algorithm 'sha256' or 'sha512', found 'md5'".into(),
            ),
            (
                format!("composefs.digest=v1-sha256-16:{a}"),
                "karg 'composefs.digest': expected '12' as log2 of the block size, found '16'".into(),
            ),
            (
                format!("composefs.digest=v1-sha256-12-x:{a}"),
                "karg 'composefs.digest': expected '<format>-<algorithm>-<log2 of the block size>' before ':', \
                 found 'v1-sha256-12-x'"
                    .into(),
            ),
            (
                format!("composefs.digest=v1-sha512-12:{a}"),
                "karg 'composefs.digest': expected 128 hexadecimal digits, found 64".into(),
            ),
        ] {
            assert_eq!(request(&line).unwrap_err().to_string(), message, "{line}");
        }
        let bytes = CommandLine::split(b"composefs=\xff\x01");
        assert_eq!(
            BootRequest::try_from(&bytes).unwrap_err().to_string(),
            "karg 'composefs': expected ASCII, found '\\xff\\x01'"
        );
    }
}
