//! `sealroot verify`: is everything there that the images of a repository need, and is it what it must be?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use miniserde::Serialize;
use sealroot::disk::object::{self, Object, ObjectIs};
use sealroot::disk::repository::{Repository, image_name};
use sealroot::disk::whole_file::WholeFiles;
use sealroot::formats::composefs::{self, object_name};
use sealroot::refusal::{Refusal, chain};
use sealroot::verity::digest::ImageDigest;

use crate::arguments::{Selection, VerifyArguments};
use crate::contents::Contents;
use crate::measure::{By, Measured};
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};
use crate::{booted, catalog, contents, image_file, parallel};

/// What a boot mounts something on, unless the configuration says otherwise.
const MOUNT_POINTS: [&str; 3] = ["etc", "var", "sysroot"];

/// What was found in a repository.
#[derive(Debug, Serialize)]
pub struct Verification {
    repository: String,
    images: Vec<ImageVerdict>,
    objects: ObjectsVerdict,
    /// Paths below the repository that no image of it refers to; told where they were asked for.
    unused: Option<Vec<String>>,
    /// Why that cannot be told.
    unused_error: Option<String>,
}

/// An image.
#[derive(Debug, Serialize)]
struct ImageVerdict {
    image: String,
    format: Option<String>,
    measured: Option<By>,
    error: Option<String>,
    /// What a boot of it would lack, or might.
    warnings: Vec<String>,
}

/// The objects of all images, each counted once.
#[derive(Debug, Serialize)]
struct ObjectsVerdict {
    checked: u64,
    /// Whether their content was read to its end.
    data: bool,
    /// How many the kernel did not measure, because it or the filesystem has no fs-verity.
    computed: u64,
    broken: Vec<BrokenObject>,
}

#[derive(Debug, Serialize)]
struct BrokenObject {
    object: String,
    error: String,
    files: Vec<UsedBy>,
}

/// A file of an image whose content an object is.
#[derive(Debug, Serialize)]
struct UsedBy {
    image: String,
    path: String,
}

pub fn run(arguments: &VerifyArguments) -> Result<Verification, Failure> {
    let repository = image_file::open_repository(&arguments.repository.directory)?;
    let chosen = select(&repository, &arguments.images)?;
    let (mut images, mut good, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    let looked = parallel::map("images", &chosen, |digest| look(&repository, *digest));
    for (digest, (verdict, objects)) in chosen.iter().zip(looked) {
        if verdict.error.is_none() {
            good.push(*digest);
        }
        images.push(verdict);
        used.extend(objects);
    }
    let used: Vec<_> = used.into_iter().collect();
    let objects = check(&repository, &good, &used, arguments.data)?;
    let (unused, unused_error) = match arguments.list_unused.then(|| unused(&repository)).transpose() {
        Ok(unused) => (unused, None),
        // An image that cannot be read may refer to any of them.
        Err(Failure::Misuse(error) | Failure::Reason(error)) => (None, Some(error)),
    };
    let repository = printable(arguments.repository.directory.as_os_str().as_encoded_bytes());
    Ok(Verification { repository, images, objects, unused, unused_error })
}

/// The images that are meant: one, all, or the one that this system runs on.
fn select(repository: &Repository, selection: &Selection) -> Result<Vec<ImageDigest>, Failure> {
    match selection {
        Selection { all: true, .. } => {
            let images = catalog::images(repository)?;
            if images.is_empty() {
                return Err("repository: expected images, found none".into());
            }
            Ok(images)
        }
        Selection { digest: Some(digest), .. } => Ok(vec![*digest]),
        Selection { digest: None, .. } => match booted::image(&booted::mount_at("/")?) {
            Some(image) => Ok(vec![image]),
            None => {
                Err(Failure::Misuse("expected DIGEST or --all: this system does not run on a composefs image".into()))
            }
        },
    }
}

/// Looks at an image; what its files refer to, too.
fn look(repository: &Repository, digest: ImageDigest) -> (ImageVerdict, Vec<ImageDigest>) {
    let mut verdict =
        ImageVerdict { image: image_name(digest), format: None, measured: None, error: None, warnings: Vec::new() };
    match try_look(repository, digest, &mut verdict) {
        Ok(objects) => (verdict, objects),
        Err(Failure::Misuse(error) | Failure::Reason(error)) => {
            verdict.error = Some(error);
            (verdict, Vec::new())
        }
    }
}

fn try_look(
    repository: &Repository,
    digest: ImageDigest,
    verdict: &mut ImageVerdict,
) -> Result<Vec<ImageDigest>, Failure> {
    let (name, file) = repository.open_image(digest)?;
    let measured = Measured::of(&file, digest.algorithm())?;
    verdict.measured = Some(measured.by());
    if measured.digest() != digest {
        return Err(format!("expected {digest}, {measured}").into());
    }
    if measured.by() == By::FileWithoutVerity {
        return Err("expected a file with fs-verity, found the right one without".into());
    }
    WholeFiles::new().read(&file)?;
    verdict.format = Some(composefs::format(&name, &file)?.name().into());
    let mut objects = Vec::new();
    composefs::walk(&name, &file, |_, object| {
        objects.push(object);
        true
    })?;
    // Whatever that is, each object can be checked.
    verdict.warnings = lacks(repository, &name, &file).unwrap_or_else(|refusal| vec![chain(&refusal)]);
    Ok(objects)
}

/// What an image lacks for a boot. Not each image is one to boot, and what the command line and the configuration say is not known.
fn lacks(repository: &Repository, name: &str, file: &File) -> Result<Vec<String>, Refusal> {
    let contents = Contents::new(name, file, &MOUNT_POINTS)?;
    let missing = contents.missing(repository, None)?;
    let mut warnings: Vec<_> =
        missing.iter().map(|refusal| format!("image '{name}': a boot would refuse: {}", chain(refusal))).collect();
    if contents.lacks_machine_id()? {
        warnings.push(contents::no_machine_id(name));
    }
    Ok(warnings)
}

/// Looks at `objects`, which are those of `images`.
fn check(
    repository: &Repository,
    images: &[ImageDigest],
    objects: &[ImageDigest],
    data: bool,
) -> Result<ObjectsVerdict, Failure> {
    let directory = repository.objects()?;
    let files = WholeFiles::new();
    let found = parallel::map("objects", objects, |digest| check_object(directory.as_fd(), *digest, data, &files));
    let mut computed = 0;
    let mut broken = BTreeMap::new();
    for (digest, found) in objects.iter().zip(found) {
        match found {
            Ok(By::Kernel | By::FileWithoutVerity) => {}
            Ok(By::NoVerityThere) => computed += 1,
            Err(found) => {
                let object = format!("objects/{}", object_name(*digest));
                let error = Object::new(object_name(*digest), *digest, found).to_string();
                broken.insert(*digest, BrokenObject { object, error, files: Vec::new() });
            }
        }
    }
    if !broken.is_empty() {
        for image in images {
            name_users(repository, *image, &mut broken)?;
        }
    }
    let broken = broken.into_values().collect();
    Ok(ObjectsVerdict { checked: objects.len() as u64, data, computed, broken })
}

/// Adds the files of an image whose content broken objects are.
fn name_users(
    repository: &Repository,
    image: ImageDigest,
    broken: &mut BTreeMap<ImageDigest, BrokenObject>,
) -> Result<(), Failure> {
    let (name, file) = repository.open_image(image)?;
    composefs::walk(&name, &file, |path, object| {
        if let Some(object) = broken.get_mut(&object) {
            object.files.push(UsedBy { image: name.clone(), path: path() });
        }
        true
    })?;
    Ok(())
}

fn check_object(
    directory: BorrowedFd<'_>,
    expected: ImageDigest,
    data: bool,
    files: &WholeFiles,
) -> Result<By, ObjectIs> {
    let file: File = object::open_unmeasured(directory, &object_name(expected))?;
    let measured = Measured::of(&file, expected.algorithm()).map_err(ObjectIs::Unread)?;
    match measured.by() {
        _ if measured.digest() != expected => Err(measured.into_found()),
        By::FileWithoutVerity => Err(ObjectIs::Unmeasured(rustix::io::Errno::NODATA)),
        by => {
            if data && by == By::Kernel {
                files.read(&file).map_err(ObjectIs::Damaged)?;
            }
            Ok(by)
        }
    }
}

/// What no image of the repository refers to, and is no image.
fn unused(repository: &Repository) -> Result<Vec<String>, Failure> {
    let mut used = BTreeSet::new();
    for digest in catalog::images(repository)? {
        // An image is an object, too.
        used.insert(object_name(digest));
        let (name, file) = repository.open_image(digest)?;
        composefs::walk(&name, &file, |_, object| {
            used.insert(object_name(object));
            true
        })?;
    }
    let objects = catalog::objects(repository)?;
    Ok(objects.into_iter().filter(|name| !used.contains(name)).map(|name| printable_object(&name)).collect())
}

fn printable_object(name: &str) -> String {
    format!("objects/{}", printable(name.as_bytes()))
}

impl Finding for Verification {
    fn answer(&self) -> Answer {
        let images_are_right = self.images.iter().all(|image| image.error.is_none());
        Answer::if_so(images_are_right && self.objects.broken.is_empty() && self.unused_error.is_none())
    }

    fn complaints(&self) -> Vec<String> {
        self.unused_error.iter().map(|error| format!("unused objects: {error}")).collect()
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        for ImageVerdict { image, format, measured, error, warnings } in &self.images {
            let format = format.as_deref().unwrap_or("image");
            match (error, measured) {
                (Some(error), _) => writeln!(text, "{} {image}: {error}", paint.bad("broken"))?,
                (None, Some(by)) => writeln!(text, "{}     {image}: {format}, {by}", paint.good("ok"))?,
                (None, None) => {}
            }
            warnings.iter().try_for_each(|warning| writeln!(text, "warning {warning}"))?;
        }
        let ObjectsVerdict { checked, data, computed, broken } = &self.objects;
        for BrokenObject { error, files, .. } in broken {
            writeln!(text, "{} {error}", paint.bad("broken"))?;
            for UsedBy { image, path } in files {
                writeln!(text, "         {path} ({})", image.get(..19).unwrap_or(image))?;
            }
        }
        for object in self.unused.iter().flatten() {
            writeln!(text, "unused {object}")?;
        }
        if *computed > 0 {
            writeln!(text, "{computed} objects: {}", By::NoVerityThere)?;
        }
        let good = checked - broken.len() as u64;
        writeln!(text, "{good} of {checked} objects are right{}", if *data { ", to their ends" } else { "" })
    }
}
