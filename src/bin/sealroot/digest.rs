//! `sealroot digest`: what the kernel would measure.

use std::fmt;
use std::os::unix::ffi::OsStrExt;

use miniserde::Serialize;
use sealroot::verity::digest::{Algorithm, ImageDigest};
use sealroot::verity::merkle::{self, Patience, Threads};

use crate::arguments::DigestArguments;
use crate::measure;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// The digests of all files, in the order of the arguments.
#[derive(Debug, Serialize)]
pub struct Digests {
    algorithm: String,
    files: Vec<FileDigest>,
}

#[derive(Debug, Serialize)]
struct FileDigest {
    path: String,
    digest: Option<String>,
    error: Option<String>,
}

pub fn run(arguments: &DigestArguments) -> Result<Digests, Failure> {
    let algorithm = Algorithm::from(arguments.algorithm);
    let digest = |path| {
        measure::open(path).and_then(|file| merkle::digest(&file, algorithm, Threads::Several, Patience::Endless))
    };
    let files = arguments.files.iter().map(|path| {
        let (digest, error) = match digest(path) {
            Ok(digest) => (Some(ImageDigest::to_hex(&digest)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        FileDigest { path: printable(path.as_os_str().as_bytes()), digest, error }
    });
    Ok(Digests { algorithm: algorithm.name().into(), files: files.collect() })
}

impl Finding for Digests {
    fn answer(&self) -> Answer {
        Answer::if_so(self.files.iter().all(|file| file.error.is_none()))
    }

    fn complaints(&self) -> Vec<String> {
        let complaint = |file: &FileDigest| file.error.as_ref().map(|error| format!("'{}': {error}", file.path));
        self.files.iter().filter_map(complaint).collect()
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        let digest = |file: &FileDigest| file.digest.as_ref().map(|digest| format!("{digest} {}", file.path));
        self.files.iter().filter_map(digest).try_for_each(|line| writeln!(text, "{}:{line}", self.algorithm))
    }
}
