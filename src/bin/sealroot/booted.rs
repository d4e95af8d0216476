//! What this system runs on: mounts by the kernel's word, and the report of the boot program.

use std::path::Path;

use miniserde::Serialize;
use miniserde::json::{self, Number, Value};
use rustix::fs::{Mode, OFlags};
use sealroot::boot::report;
use sealroot::kernel::Kernel;
use sealroot::kernel::mount::Mount;
use sealroot::kernel::mounts;
use sealroot::verity::digest::ImageDigest;

use crate::output::Failure;

/// What the source of a transient root starts with.
pub const TRANSIENT: &str = "transient:";

/// The mount that `path` lies on.
pub fn mount_at(path: &str) -> Result<Mount, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(Path::new(path), flags, Mode::empty())?;
    Ok(mounts::mount_of(directory, &Kernel::new())?)
}

/// The image that a root was mounted from, whether it is verified or not.
pub fn image(root: &Mount) -> Option<ImageDigest> {
    let digest = match root.source.strip_prefix(TRANSIENT) {
        Some(source) => source.strip_prefix("composefs="),
        None => root.source.strip_prefix("composefs:"),
    };
    digest?.parse().ok().filter(|_| root.filesystem == "overlay")
}

/// The report of this boot; `None` where the boot program left none.
pub fn report() -> Result<Option<Report>, Failure> {
    let Some(text) = report::read_text()? else { return Ok(None) };
    let found = str::from_utf8(&text).ok().and_then(|text| json::from_str(text).ok());
    found.map(|value| Some(Report(value))).ok_or_else(|| "the boot program's report: expected JSON".into())
}

/// What `etc.keep` did not keep, or what cannot be read, as the boot program tells it.
#[derive(Debug, Serialize)]
pub struct NotKept {
    pub count: u64,
    /// On the physical root.
    pub folder: String,
    /// The first of them.
    pub entries: Vec<NotKeptEntry>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct NotKeptEntry {
    pub path: String,
    pub reason: String,
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The boot program's report, field by field.
#[derive(Debug)]
pub struct Report(Value);

impl Report {
    /// A text, by the names of the objects that it is in and its own.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        self.get(names).and_then(as_text)
    }

    /// The texts of an array.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let Some(Value::Array(values)) = self.get(&[name]) else { return Vec::new() };
        values.iter().filter_map(as_text).map(str::to_owned).collect()
    }

    /// What the boot program tells of entries of /etc in a field of its report: `not_kept` or `left_behind`.
    pub fn entries_of_etc(&self, field: &str) -> Option<NotKept> {
        let Value::Array(entries) = self.get(&[field, "entries"])? else { return None };
        let Value::Number(Number::U64(count)) = self.get(&[field, "count"])? else { return None };
        let entries = entries.iter().filter_map(|entry| {
            let text = |name| match entry {
                Value::Object(entry) => entry.get(name).and_then(as_text).map(str::to_owned),
                _ => None,
            };
            Some(NotKeptEntry { path: text("path")?, reason: text("reason")? })
        });
        let folder = self.text(&[field, "folder"])?.into();
        Some(NotKept { count: *count, folder, entries: entries.collect() })
    }

    fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().try_fold(&self.0, |value, name| match value {
            Value::Object(object) => object.get(*name),
            _ => None,
        })
    }
}
