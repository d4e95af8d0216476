//! A composefs repository on the physical root: looked up from its directory, read only, trusted in nothing.
//!
//! An image is found by its digest and by no other name. What a name leads to is measured afterwards
//! by the kernel, so a link in `images/` may lead anywhere below the repository.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use miniserde::{Deserialize, json};
use rustix::io::Errno;

use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;
use crate::verity::digest::ImageDigest;

/// The repository's directory below the physical root.
pub const REPOSITORY: &str = "composefs";
/// `meta.json` of the version that we know is a few hundred bytes.
const MAX_METADATA: u64 = 64 * 1024;
const USUAL_METADATA: usize = 1024;
/// The repository format that composefs-rs 0.7 and later write.
const KNOWN_VERSION: u64 = 1;

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    directory: OwnedFd,
    /// For messages.
    name: String,
}

/// About a repository, by its name.
fn about(repository: &str) -> Refusal {
    Refusal::of(format!("repository '{repository}'"))
}

/// An image that cannot be used.
fn unusable(name: &str, reason: LookupError) -> Refusal {
    Refusal::of(format!("image '{name}'")).because(reason)
}

/// The parts of `meta.json` that can say "not for you"; one that makes no sense leaves the other. Whatever else it
/// claims decides nothing.
#[derive(Default)]
struct Metadata {
    version: Option<u64>,
    incompatible: Vec<String>,
}

#[derive(Deserialize)]
struct Version {
    version: Option<u64>,
}

#[derive(Deserialize)]
struct WithFeatures {
    features: Option<Features>,
}

#[derive(Deserialize)]
struct Features {
    incompatible: Option<Vec<String>>,
}

impl Metadata {
    fn parse(text: &str) -> Self {
        let version = json::from_str(text).ok().and_then(|Version { version }| version);
        let features = json::from_str(text).ok().and_then(|WithFeatures { features }| features);
        Self { version, incompatible: features.and_then(|features| features.incompatible).unwrap_or_default() }
    }
}

impl Repository {
    /// Opens the repository below a physical root and looks whether it is one that we can read.
    pub fn open(physical_root: impl AsFd) -> Result<Self, Refusal> {
        let directory = lookup::directory(physical_root, REPOSITORY, Links::Beneath)
            .map_err(|reason| about(REPOSITORY).because(reason))?;
        Self::at(directory, REPOSITORY.into())
    }

    /// Takes a directory that is the repository, and looks whether it is one that we can read. `name` is for messages.
    pub fn at(directory: OwnedFd, name: String) -> Result<Self, Refusal> {
        let repository = Self { directory, name };
        let Metadata { version, incompatible } = repository.metadata().unwrap_or_default();
        if let Some(found) = version.filter(|version| *version > KNOWN_VERSION) {
            let expected = format!("version {KNOWN_VERSION} or lower");
            return Err(repository.wrong_metadata(expected, found));
        }
        if !incompatible.is_empty() {
            let found = format!("{incompatible:?}");
            return Err(repository.wrong_metadata("no incompatible features".into(), found));
        }
        Ok(repository)
    }

    fn wrong_metadata(&self, expected: String, found: impl Display) -> Refusal {
        Refusal::of("'meta.json'").expected(expected).found(found).within(about(&self.name))
    }

    /// `meta.json`, where it is readable and says anything: it is unsigned, so its absence means nothing.
    fn metadata(&self) -> Option<Metadata> {
        let location = lookup::regular_file(&self.directory, "meta.json", Links::Beneath).ok()?;
        let mut text = String::with_capacity(USUAL_METADATA);
        lookup::reopen(location.as_fd()).ok()?.take(MAX_METADATA).read_to_string(&mut text).ok()?;
        Some(Metadata::parse(&text))
    }

    /// The image with this digest, if there is anything by its name. Only a look-up: what a link leads to may lie anywhere below
    /// the repository.
    pub fn image(&self, digest: ImageDigest) -> Result<Option<OwnedFd>, Refusal> {
        let name = image_name(digest);
        match lookup::regular_file(&self.directory, &name, Links::Beneath) {
            Ok(location) => Ok(Some(location)),
            Err(LookupError::Kernel(Errno::NOENT)) if self.is_absent(&name) => Ok(None),
            Err(reason) => Err(unusable(&name, reason)),
        }
    }

    /// Whether there is nothing at all by this name, not even a link that leads nowhere.
    fn is_absent(&self, name: &str) -> bool {
        matches!(lookup::location(&self.directory, name, Links::Refused), Err(Errno::NOENT))
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// For tools that look at a repository without booting from it.
impl Repository {
    /// Opens the image with this digest, which may be anything still; its name too.
    pub fn open_image(&self, digest: ImageDigest) -> Result<(String, File), Refusal> {
        let name = image_name(digest);
        let opened = lookup::regular_file(&self.directory, &name, Links::Beneath)
            .and_then(|location| Ok(lookup::reopen(location.as_fd())?));
        match opened {
            Ok(file) => Ok((name, file)),
            Err(reason) => Err(unusable(&name, reason)),
        }
    }

    /// The directory of objects.
    pub fn objects(&self) -> Result<OwnedFd, Refusal> {
        objects_of(&self.directory, &self.name)
    }
}

/// The directory of objects in the repository of a physical root: the data-only layer.
pub fn objects(physical_root: impl AsFd) -> Result<OwnedFd, Refusal> {
    let repository = lookup::directory(physical_root, REPOSITORY, Links::Beneath)
        .map_err(|reason| about(REPOSITORY).because(reason))?;
    objects_of(repository, REPOSITORY)
}

fn objects_of(repository: impl AsFd, name: &str) -> Result<OwnedFd, Refusal> {
    lookup::directory(repository, "objects", Links::Beneath)
        .map_err(|reason| Refusal::of("'objects'").because(reason).within(about(name)))
}

/// An image's name below the repository, for look-ups and messages.
pub fn image_name(digest: ImageDigest) -> String {
    format!("images/{}", digest.to_hex())
}

impl AsFd for Repository {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<u64>, Vec<String>) {
        let Metadata { version, incompatible } = Metadata::parse(text);
        (version, incompatible)
    }

    #[test]
    fn metadata_that_says_something() {
        assert_eq!(parse(r#"{"version":2,"algorithm":["x",{"y":null}]}"#), (Some(2), vec![]));
        assert_eq!(parse(r#"{"features":{"compatible":["a"],"incompatible":[]}}"#), (None, vec![]));
        assert_eq!(parse(r#"{"version":1,"features":{"incompatible":["a\u0062"]}}"#), (Some(1), vec!["ab".into()]));
        assert_eq!(parse(r#"{"version":2,"features":[]}"#), (Some(2), vec![]));
        assert_eq!(parse(r#"{"version":"2","features":{"incompatible":["a"]}}"#), (None, vec!["a".into()]));
    }

    #[test]
    fn metadata_that_says_nothing() {
        let depth = MAX_METADATA as usize;
        for text in [
            "",
            "{}",
            "null",
            "[]",
            "{",
            r#"{"version":-1}"#,
            r#"{"version":99999999999999999999}"#,
            r#"{"version":1e999999999}"#,
            r#"{"features":{"incompatible":"a"}}"#,
            r#"{"features":{"incompatible":["\ud800"]}}"#,
            r#"{"version":2} x"#,
            &"[".repeat(depth),
            &"{\"x\":".repeat(depth / 5),
            &"0".repeat(depth),
            &format!("{{\"version\":{}}}", "9".repeat(depth)),
        ] {
            assert_eq!(parse(text), (None, vec![]), "{}", text.get(..20).unwrap_or(text));
        }
        // What is ignored may nest as it likes.
        let nested = format!("{{\"x\":{}{},\"version\":2}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse(&nested), (Some(2), vec![]));
    }
}
