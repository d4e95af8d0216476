//! Entry points for the targets in `tests/fuzz` that nobody else needs; there only when they are built.

use std::fs::File;
use std::os::unix::fs::FileExt;

pub use crate::formats::elf::interpreter;

use crate::formats::composefs;
use crate::formats::composefs::FormatVersion;
use crate::verity::digest::ImageDigest;

use crate::boot::report::Report;
use crate::refusal::Refusal;

/// What is done with an image after it was measured, but for reading it as a whole.
pub fn look_inside(format: FormatVersion, file: &File, mount_points: &[&'static str]) -> Result<(), Refusal> {
    let mut header = [0; 16];
    file.read_exact_at(&mut header, 0).map_err(|reason| composefs::damaged("images/x", reason))?;
    composefs::check_header("images/x", Some(format), header)?;
    composefs::check_mount_points("images/x", file, mount_points)
}

/// What `check = "objects"` reads of an image: every file's object. Gives their number.
pub fn walk(file: &File) -> Result<usize, Refusal> {
    let mut count = 0;
    composefs::walk("images/x", file, |_, _| {
        count += 1;
        true
    })?;
    Ok(count)
}

/// The digest in a metacopy xattr.
pub fn parse_metacopy(value: &[u8]) -> Option<ImageDigest> {
    composefs::parse_metacopy(value)
}

/// A report as it is written.
pub fn report_text(report: &Report) -> String {
    miniserde::json::to_string(report)
}
