//! What this system runs on: mounts by the kernel's word, and the report of the boot program.

use std::path::Path;

use miniserde::json::{self, Value};
use rustix::fs::{Mode, OFlags};
use sealroot::digest::ImageDigest;
use sealroot::mount::KernelFeatures;
use sealroot::mount::table::{self, Mount};
use sealroot::report;

use crate::output::Failure;

/// What the source of a transient root starts with.
pub const TRANSIENT: &str = "transient:";

/// The mount that `path` lies on.
pub fn mount_at(path: &str) -> Result<Mount, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(Path::new(path), flags, Mode::empty())?;
    Ok(table::mount_of(directory, &mut KernelFeatures::default())?)
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

/// The boot program's report, field by field.
#[derive(Debug)]
pub struct Report(Value);

impl Report {
    /// A text, by the names of the objects that it is in and its own.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        match self.get(names)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of an array.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let Some(Value::Array(values)) = self.get(&[name]) else { return Vec::new() };
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        values.iter().filter_map(text).collect()
    }

    fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().try_fold(&self.0, |value, name| match value {
            Value::Object(object) => object.get(*name),
            _ => None,
        })
    }
}
