//! `sealroot inspect`: what is in an image.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use miniserde::Serialize;
use sealroot::formats::composefs::object_name;
use sealroot::formats::erofs::{Entries, Reader};

use crate::arguments::InspectArguments;
use crate::entry::Entry;
use crate::image_file::{self, ImageFile};
use crate::measure::By;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// An image.
#[derive(Debug, Serialize)]
pub struct Inspection {
    image: String,
    format: String,
    algorithm: String,
    digest: String,
    measured: By,
    /// Of the image file, in bytes.
    size: u64,
    contents: Option<Contents>,
    entries: Option<Vec<Entry>>,
    entry: Option<Entry>,
}

/// Counts, and sizes in bytes.
#[derive(Debug, Default, Serialize)]
struct Contents {
    directories: u64,
    files: u64,
    symlinks: u64,
    /// Devices, FIFOs and sockets.
    special: u64,
    /// Each counted once, however many files have it as their content.
    objects: u64,
    object_bytes: u64,
    object_algorithm: Option<String>,
    /// Files whose content is in the image itself.
    inline_files: u64,
    inline_bytes: u64,
}

pub fn run(arguments: &InspectArguments) -> Result<Inspection, Failure> {
    let wanted = arguments.path.as_deref().map(Path::new).map(absolute).transpose()?;
    let image = image_file::open(&arguments.image)?;
    let (mut contents, mut entries, mut entry) = (None, None, None);
    match wanted {
        Some(path) => entry = Some(find(&image, path.as_slice())?),
        None if arguments.list => entries = Some(all(&image)?),
        None => contents = Some(count(all(&image)?)),
    }
    let digest = image.measured.digest();
    Ok(Inspection {
        size: image.file.metadata()?.len(),
        image: image.name,
        format: image.format.name().into(),
        algorithm: digest.algorithm().name().into(),
        digest: digest.to_hex(),
        measured: image.measured.by(),
        contents,
        entries,
        entry,
    })
}

/// A path inside the image as its entries spell it, which need not be text.
fn absolute(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut clean = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                clean.push(b'/');
                clean.extend_from_slice(name.as_bytes());
            }
            Component::ParentDir | Component::Prefix(_) => return Err(misuse(path)),
        }
    }
    match path.is_absolute() {
        true if clean.is_empty() => Ok(b"/".into()),
        true => Ok(clean),
        false => Err(misuse(path)),
    }
}

fn misuse(path: &Path) -> Failure {
    let path = printable(path.as_os_str().as_bytes());
    Failure::Misuse(format!("'{path}': expected an absolute path without '..'"))
}

fn all(image: &ImageFile) -> Result<Vec<Entry>, Failure> {
    let reader = Reader::new(&image.file);
    let filesystem = reader.filesystem()?;
    let mut entries = vec![Entry::root(&reader, &filesystem)?];
    for found in Entries::new(&reader, &filesystem)? {
        entries.push(Entry::new(&reader, &filesystem, &found?)?);
    }
    Ok(entries)
}

fn find(image: &ImageFile, path: &[u8]) -> Result<Entry, Failure> {
    let reader = Reader::new(&image.file);
    let filesystem = reader.filesystem()?;
    if path == b"/" {
        return Ok(Entry::root(&reader, &filesystem)?);
    }
    for found in Entries::new(&reader, &filesystem)? {
        let found = found?;
        if found.dir_entry.path().as_bytes() == path {
            return Ok(Entry::new(&reader, &filesystem, &found)?);
        }
    }
    Err(format!("image '{}': expected an entry '{}', found none", image.name, printable(path)).into())
}

fn count(entries: Vec<Entry>) -> Contents {
    let mut contents = Contents::default();
    let mut objects = BTreeMap::new();
    // A file with several names counts once for each: so does `find`.
    for entry in entries {
        match entry.kind() {
            "directory" => contents.directories += 1,
            "file" => contents.files += 1,
            "symlink" => contents.symlinks += 1,
            _ => contents.special += 1,
        }
        match entry.object() {
            Some(object) => {
                objects.insert(object, entry.size());
            }
            None if entry.kind() == "file" && entry.size() > 0 => {
                contents.inline_files += 1;
                contents.inline_bytes = contents.inline_bytes.saturating_add(entry.size());
            }
            None => {}
        }
    }
    contents.objects = objects.len() as u64;
    // An image may claim any size.
    contents.object_bytes = objects.values().fold(0, |sum, size| u64::saturating_add(sum, *size));
    contents.object_algorithm = objects.keys().next().map(|digest| digest.algorithm().name().into());
    contents
}

impl Finding for Inspection {
    fn answer(&self) -> Answer {
        Answer::Yes
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        if let Some(entries) = &self.entries {
            return entries.iter().try_for_each(|entry| writeln!(text, "{}", entry.line()));
        }
        if let Some(entry) = &self.entry {
            writeln!(text, "{}", entry.line())?;
            if let Some(digest) = entry.object() {
                writeln!(text, "object: objects/{}", object_name(digest))?;
            }
            return entry.xattrs().try_for_each(|(name, value)| writeln!(text, "xattr: {name}=\"{value}\""));
        }
        let Self { image, format, algorithm, digest, measured, size, contents, .. } = self;
        writeln!(text, "image:     {image}")?;
        writeln!(text, "format:    composefs {format}")?;
        writeln!(text, "digest:    {algorithm}:{digest}")?;
        writeln!(text, "           {measured}")?;
        writeln!(text, "size:      {size} bytes")?;
        let Some(contents) = contents else { return Ok(()) };
        let Contents { directories, files, symlinks, special, objects, inline_files, .. } = contents;
        writeln!(text, "entries:   {directories} directories, {files} files, {symlinks} symlinks, {special} special")?;
        let object_algorithm = contents.object_algorithm.as_deref().unwrap_or("none");
        writeln!(text, "objects:   {objects} ({object_algorithm}), {} bytes", contents.object_bytes)?;
        writeln!(text, "in image:  {inline_files} files, {} bytes", contents.inline_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, clean) in [("/", "/"), ("//", "/"), ("/usr//bin/./x/", "/usr/bin/x"), ("/a b", "/a b")] {
            assert_eq!(absolute(Path::new(path)).unwrap(), clean.as_bytes());
        }
        for path in ["", "usr", "./usr", "/usr/../etc"] {
            assert!(matches!(absolute(Path::new(path)), Err(Failure::Misuse(_))), "{path}");
        }
    }
}
