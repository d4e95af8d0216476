//! What an image lacks that its boot needs, found without mounting it.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd;

use erofs_rs::r#async::EroFS;
use erofs_rs::types::Inode;
use rustix::io::Errno;
use sealroot::ask::cmdline::CommandLine;
use sealroot::disk::layer::Ownership;
use sealroot::disk::object::{self, Object};
use sealroot::disk::repository::Repository;
use sealroot::formats::composefs::{self, METACOPY, object_name, parse_metacopy};
use sealroot::formats::elf;
use sealroot::formats::erofs::{Reader, completed};
use sealroot::kernel::lookup::LookupError;
use sealroot::refusal::Refusal;
use sealroot::steps::prove::{self, INITS, OS_RELEASE};
use sealroot::verity::digest::ImageDigest;

/// Without it PID 1 makes one, if it can write to /etc. One that is empty or says `uninitialized` is enough if it cannot: systemd
/// mounts another over it. Source: machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";
/// What writes to the disk what changes in listed files of /etc, as it is enabled in one of the folders, and what it runs.
const KEEPER: &str = "sysinit.target.wants/sealroot-keep.service";
const UNITS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];
const COMMAND: &str = "/usr/bin/sealroot";
/// So long is a chain of links at most, as for the kernel.
const MAX_LINKS: usize = 40;
/// `PATH_MAX`
const MAX_TARGET: u64 = 4096;
/// An entry of a directory with its inode takes at least this much of an image, in bytes (`struct erofs_dirent`,
/// `struct erofs_inode_compact`).
const MIN_ENTRY: u64 = 12 + 32;
/// So often all entries of an image are looked at, at most: some paths, each with some parts.
const MAX_LOOKS: u64 = 16;

/// An image file whose files are looked up by their paths.
#[derive(Debug)]
pub struct Contents<'a> {
    name: &'a str,
    reader: Reader<'a>,
    /// How many directory entries are looked at yet, for all names: links can have one directory read over and over.
    entries_left: Cell<u64>,
    /// What something else is mounted on: nothing there is sealed.
    mount_points: &'a [&'static str],
}

/// What a path leads to.
enum Found {
    Inode(Inode),
    /// Why it leads to nothing.
    Nothing(Errno),
}

impl<'a> Contents<'a> {
    /// Of an image file, and of the directories in its root that a boot mounts something on.
    pub fn new(name: &'a str, file: &'a File, mount_points: &'a [&'static str]) -> Result<Self, Refusal> {
        let size = file.metadata().map_err(|reason| composefs::damaged(name, reason))?.len();
        Ok(Self {
            name,
            reader: Reader::new(file),
            entries_left: Cell::new(MAX_LOOKS * (size / MIN_ENTRY)),
            mount_points,
        })
    }

    /// What the boot program would find missing right before it puts the root in place, in its words: os-release, init and what
    /// loads that. Without a command line, init is where systemd looks for it.
    pub fn missing(&self, repository: &Repository, line: Option<&CommandLine>) -> Result<Vec<Refusal>, Refusal> {
        let mut missing = Vec::new();
        missing.extend(self.missing_init(repository, line)?);
        missing.extend(self.sealed_file(repository, OS_RELEASE)?.err());
        Ok(missing)
    }

    fn missing_init(&self, repository: &Repository, line: Option<&CommandLine>) -> Result<Option<Refusal>, Refusal> {
        // What is no path is told without an image.
        let Ok(named) = line.map_or(Ok(None), prove::init_karg) else { return Ok(None) };
        let [preferred, fallback] = INITS;
        let (path, program) = match named {
            Some(path) => {
                let program = self.sealed_file(repository, &path)?;
                (path, program)
            }
            None => match self.sealed_file(repository, preferred)? {
                Err(refusal) if matches!(refusal.cause(), Some(LookupError::Kernel(Errno::NOENT))) => {
                    (fallback.to_owned(), self.sealed_file(repository, fallback)?)
                }
                program => (preferred.to_owned(), program),
            },
        };
        let program = match program {
            Ok(Some(program)) => program,
            // What is in the image itself is too small for a program.
            Ok(None) => return Ok(None),
            Err(refusal) => return Ok(Some(refusal)),
        };
        match elf::interpreter(&program) {
            Ok(Some(interpreter)) => Ok(self.sealed_file(repository, &interpreter)?.err()),
            Ok(None) => Ok(None),
            Err(reason) => Ok(Some(prove::about(&path).because(reason))),
        }
    }

    /// Whether systemd could not set a machine id if /etc is read-only.
    pub fn lacks_machine_id(&self) -> Result<bool, Refusal> {
        Ok(!matches!(self.look_up(MACHINE_ID, &[])?, Found::Inode(inode) if inode.is_file()))
    }

    /// Whether nothing in the booted system would write to the disk what changes in the files of `etc.keep`.
    pub fn lacks_keeper(&self) -> Result<bool, Refusal> {
        let is_file =
            |path: &str| Ok::<_, Refusal>(matches!(self.look_up(path, &[])?, Found::Inode(inode) if inode.is_file()));
        let mut is_wanted = false;
        for folder in UNITS {
            is_wanted |= is_file(&format!("{folder}/{KEEPER}"))?;
        }
        Ok(!(is_wanted && is_file(COMMAND)?))
    }

    /// Who owns a directory in the root, and its mode.
    pub fn ownership(&self, directory: &str) -> Result<Ownership, Refusal> {
        match self.look_up(&format!("/{directory}"), &[])? {
            Found::Inode(inode) => {
                Ok(Ownership { user: inode.uid(), group: inode.gid(), mode: u32::from(inode.permissions()) & 0o7777 })
            }
            Found::Nothing(reason) => Err(Refusal::of(format!("sealed root: '/{directory}'")).because(reason)),
        }
    }

    /// The object of a file by its path, `None` where the content is in the image, or what the boot program says of it. Whether it is
    /// the right one, `verify` says.
    fn sealed_file(&self, repository: &Repository, path: &str) -> Result<Result<Option<File>, Refusal>, Refusal> {
        let inode = match self.regular_file(path)? {
            Ok(inode) => inode,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(digest) = self.object(inode)? else { return Ok(Ok(None)) };
        let objects = repository.objects()?;
        let opened = object::open_unmeasured(objects.as_fd(), &object_name(digest));
        let wrong = |found| Object::new(object_name(digest), digest, found).to_string();
        Ok(opened.map(Some).map_err(|found| Refusal::of(wrong(found)).within(prove::about(path))))
    }

    /// A regular file by its path, or what the boot program says of that.
    fn regular_file(&self, path: &str) -> Result<Result<Inode, Refusal>, Refusal> {
        let wrong = |reason: LookupError| prove::about(path).because(reason);
        Ok(match self.look_up(path, self.mount_points)? {
            Found::Inode(inode) if inode.is_file() => Ok(inode),
            Found::Inode(inode) => {
                let found = if inode.is_dir() { "a directory" } else { "a special file" };
                Err(wrong(LookupError::Kind { expected: "a regular file", found }))
            }
            Found::Nothing(reason @ Errno::XDEV) => Err(prove::on_another_mount(path, reason)),
            Found::Nothing(reason) => Err(wrong(reason.into())),
        })
    }

    /// What a process finds by this path whose root the image is: links are followed, but not to where something is mounted.
    fn look_up(&self, path: &str, mount_points: &[&str]) -> Result<Found, Refusal> {
        let failed = |error| composefs::unreadable(self.name, self.reader.explain(error));
        let filesystem = self.reader.filesystem().map_err(|error| composefs::unreadable(self.name, error))?;
        let root = filesystem.super_block().root_inode_id();
        let root = completed(filesystem.get_inode(root)).map_err(failed)?;
        let mut left: Vec<Vec<u8>> = parts(path.as_bytes());
        // The directory so far, with the ones that it is in.
        let mut way: Vec<(Vec<u8>, Inode)> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match &*part {
                b"" | b"." => continue,
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let here = way.last().map_or(root, |(_, inode)| *inode);
            if !here.is_dir() {
                return Ok(Found::Nothing(Errno::NOTDIR));
            }
            let directory = way.iter().fold(Vec::new(), |path, (name, _)| [path, b"/".to_vec(), name.clone()].concat());
            let Some(inode) = self.entry(&filesystem, &directory, &part)? else {
                return Ok(Found::Nothing(Errno::NOENT));
            };
            if !inode.is_symlink() {
                if way.is_empty() && mount_points.iter().any(|point| point.as_bytes() == part) {
                    return Ok(Found::Nothing(Errno::XDEV));
                }
                way.push((part, inode));
                continue;
            }
            links += 1;
            if links > MAX_LINKS || inode.data_size() > MAX_TARGET {
                return Ok(Found::Nothing(Errno::LOOP));
            }
            let target = completed(filesystem.read_link_inode(inode)).map_err(failed)?;
            if target.as_bytes().starts_with(b"/") {
                way.clear();
            }
            left.extend(parts(target.as_bytes()));
        }
        Ok(Found::Inode(way.last().map_or(root, |(_, inode)| *inode)))
    }

    /// The entry of a directory by its name.
    fn entry(&self, filesystem: &EroFS<&Reader<'_>>, directory: &[u8], name: &[u8]) -> Result<Option<Inode>, Refusal> {
        let failed = |error| composefs::unreadable(self.name, self.reader.explain(error));
        let path = [directory, b"/"].concat();
        let mut entries = completed(filesystem.read_dir(&path)).map_err(failed)?;
        // The directory itself is looked up by its path.
        self.take(1 + directory.len() as u64)?;
        while let Some(entry) = completed(entries.next_entry()) {
            self.take(1)?;
            let entry = entry.map_err(failed)?;
            if entry.dir_entry.file_name() == name {
                return Ok(Some(entry.inode));
            }
        }
        Ok(None)
    }

    /// Counts what is looked at.
    fn take(&self, count: u64) -> Result<(), Refusal> {
        let left = self.entries_left.get().checked_sub(count).ok_or_else(|| {
            let expected = "few directory entries on the way to what a boot reads";
            Refusal::of(format!("image '{}'", self.name)).expected(expected).found("more than an image of its size has")
        })?;
        self.entries_left.set(left);
        Ok(())
    }

    /// The object of a file; `None` for what is in the image.
    fn object(&self, inode: Inode) -> Result<Option<ImageDigest>, Refusal> {
        if inode.xattr_size() == 0 {
            return Ok(None);
        }
        let filesystem = self.reader.filesystem().map_err(|error| composefs::unreadable(self.name, error))?;
        let xattrs = completed(filesystem.xattrs_inode(inode))
            .map_err(|error| composefs::unreadable(self.name, self.reader.explain(error)))?;
        Ok(xattrs.get(METACOPY.as_bytes()).and_then(|value| parse_metacopy(value)))
    }
}

/// What follows if that is so.
pub fn no_machine_id(image: &str) -> String {
    format!(
        "image '{image}': expected a file '{MACHINE_ID}', if only an empty one, found none: systemd cannot set a machine id \
         where /etc is read-only (etc.mount = \"none\")"
    )
}

/// What follows if that is so, for `lacks_keeper`.
pub fn no_keeper(image: &str) -> String {
    format!(
        "image '{image}': expected '{COMMAND}' and sealroot-keep.service, wanted by sysinit.target (etc.keep is set), found not \
         both: changes of /etc are lost at the next boot"
    )
}

/// The parts of a path, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}
