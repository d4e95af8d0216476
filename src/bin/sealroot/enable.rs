//! `sealroot enable`: fs-verity for files that lack it.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use miniserde::Serialize;
use rustix::fs::{Mode, OFlags};
use sealroot::disk::object::{self, Object};
use sealroot::disk::repository::image_name;
use sealroot::formats::composefs::object_name;
use sealroot::verity::ask_kernel::{enable_file, filesystem_without_verity, too_small_blocks};
use sealroot::verity::digest::{Algorithm, ImageDigest};

use crate::arguments::EnableArguments;
use crate::measure::{self, By, Measured};
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};
use crate::{catalog, image_file, parallel};

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Enabled {
    /// Files that have fs-verity now and had none before.
    enabled: u64,
    /// Files that had it, with the right digest.
    already: u64,
    failed: Vec<FailedFile>,
    /// Names among the objects that are no digests.
    ignored: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FailedFile {
    path: String,
    error: String,
}

enum Done {
    Enabled,
    Already,
}

pub fn run(arguments: &EnableArguments) -> Result<Enabled, Failure> {
    match &arguments.repository {
        Some(directory) => enable_repository(directory),
        None => enable_files(&arguments.files, arguments.algorithm.into()),
    }
}

fn enable_files(paths: &[PathBuf], algorithm: Algorithm) -> Result<Enabled, Failure> {
    let done = parallel::map("files", paths, |path| {
        let file = measure::open(path)?;
        let done = enable_one(&file, None, algorithm)?;
        // The files may be on several filesystems.
        rustix::fs::fsync(&file)?;
        Ok(done)
    });
    let mut enabled = Enabled::default();
    for (path, done) in paths.iter().zip(done) {
        enabled.count(printable(path.as_os_str().as_encoded_bytes()), done);
    }
    Ok(enabled)
}

fn enable_repository(directory: &Path) -> Result<Enabled, Failure> {
    let repository = image_file::open_repository(directory)?;
    let mut enabled = Enabled::default();
    let mut objects = Vec::new();
    for name in catalog::objects(&repository)? {
        match name.replacen('/', "", 1).parse() {
            Ok(digest) if object_name(digest) == name => objects.push(digest),
            _ => enabled.ignored.push(format!("objects/{}", printable(name.as_bytes()))),
        }
    }
    let directory = repository.objects()?;
    let done = parallel::map("objects", &objects, |digest| {
        let file = object::open_unmeasured(directory.as_fd(), &object_name(*digest))
            .map_err(|found| Object::new(object_name(*digest), *digest, found).to_string())?;
        enable_one(&file, Some(*digest), digest.algorithm())
    });
    for (digest, done) in objects.iter().zip(done) {
        enabled.count(format!("objects/{}", object_name(*digest)), done);
    }
    // Where an image is a link to an object, it has fs-verity by now.
    let images = catalog::images(&repository)?;
    let done = parallel::map("images", &images, |digest| {
        let (_, file) = repository.open_image(*digest)?;
        enable_one(&file, Some(*digest), digest.algorithm())
    });
    for (digest, done) in images.iter().zip(done) {
        enabled.count(image_name(*digest), done);
    }
    // Without it, files could be without fs-verity again after a power failure.
    rustix::fs::syncfs(rustix::fs::openat(&directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
    Ok(enabled)
}

/// Enables fs-verity on a file that has none, if its digest is the expected one.
fn enable_one(file: &File, expected: Option<ImageDigest>, algorithm: Algorithm) -> Result<Done, Failure> {
    let before = Measured::of(file, algorithm)?;
    let expected = expected.unwrap_or(before.digest());
    let compare = |measured: &Measured| match measured.digest() == expected {
        true => Ok(()),
        false => Err(format!("expected {expected}, {measured}")),
    };
    compare(&before)?;
    match before.by() {
        By::Kernel => return Ok(Done::Already),
        By::FileWithoutVerity => enable_file(file, algorithm).map_err(|reason| match too_small_blocks(file) {
            Some(blocks) => Failure::Reason(format!("found a file without fs-verity, {blocks}: {reason}")),
            None => reason.into(),
        })?,
        By::NoVerityThere => {
            return Err(format!("found a filesystem without fs-verity, {}", filesystem_without_verity(file)).into());
        }
    }
    // The file could have been written to since it was read.
    compare(&Measured::of(file, algorithm)?)?;
    Ok(Done::Enabled)
}

impl Enabled {
    fn count(&mut self, path: String, done: Result<Done, Failure>) {
        match done {
            Ok(Done::Enabled) => self.enabled += 1,
            Ok(Done::Already) => self.already += 1,
            Err(Failure::Reason(error) | Failure::Misuse(error)) => self.failed.push(FailedFile { path, error }),
        }
    }
}

impl Finding for Enabled {
    fn answer(&self) -> Answer {
        Answer::if_so(self.failed.is_empty())
    }

    fn complaints(&self) -> Vec<String> {
        self.failed.iter().map(|FailedFile { path, error }| format!("'{path}': {error}")).collect()
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        let Self { enabled, already, failed, ignored } = self;
        for name in ignored {
            writeln!(text, "ignored {name}: its name is no digest")?;
        }
        let failed = match failed.len() {
            0 => "0 failed".into(),
            count => paint.bad(format!("{count} failed")),
        };
        writeln!(text, "{enabled} enabled, {already} had fs-verity already, {failed}")
    }
}
