//! The comparison of a file tree with the list of its files.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{Content, DIGEST, Entry, Kind, Manifest, PERMISSIONS};
use crate::kernel::lookup::{self, kind_name};
use crate::refusal::Refusal;

/// How much is read and hashed at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// A file cannot be looked at.
fn failed(path: &str, reason: impl Into<io::Error>) -> Refusal {
    Refusal::of(format!("initramfs: '/{path}'")).because(reason.into())
}

/// Compares everything below a directory, on its own filesystem. PID 1 may have mounted some of that once more, to protect it.
pub fn compare(root: BorrowedFd<'_>, manifest: &Manifest) -> Result<(), Refusal> {
    let device = rustix::fs::fstat(root).map_err(|reason| failed("", reason))?;
    let mut tree = Tree { root, device: device.st_dev, manifest, buffer: vec![0; CHUNK] };
    manifest.entries().try_for_each(|(path, entry)| tree.compare(path, entry))
}

/// Compares the root filesystem of this process.
pub fn compare_root(manifest: &Manifest) -> Result<(), Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(|reason| failed("", reason))?;
    compare(root.as_fd(), manifest)
}

struct Tree<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    manifest: &'a Manifest,
    buffer: Vec<u8>,
}

impl Tree<'_> {
    fn compare(&mut self, path: &str, entry: &Entry) -> Result<(), Refusal> {
        let kernel = |reason: Errno| failed(path, reason);
        let fd = match lookup::entry_or_mount(self.root, if path.is_empty() { "." } else { path }) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if entry.optional => return Ok(()),
            Err(Errno::NOENT) => return Err(difference(path, kind_name(entry.kind.file_type()), "none")),
            Err(reason) => return Err(kernel(reason)),
        };
        let found = rustix::fs::fstat(&fd).map_err(kernel)?;
        let (expected_type, found_type) = (entry.kind.file_type(), FileType::from_raw_mode(found.st_mode));
        if found_type != expected_type {
            return Err(difference(path, kind_name(expected_type), kind_name(found_type)));
        }
        if entry.kind == Kind::Ignored {
            return Ok(());
        }
        if found.st_dev != self.device {
            return Err(difference(path, "it on the filesystem of the initramfs", "a mount"));
        }
        let mode = found.st_mode & PERMISSIONS;
        if mode != entry.mode {
            return Err(difference(path, format_args!("mode {:04o}", entry.mode), format_args!("{mode:04o}")));
        }
        match &entry.kind {
            Kind::File(None) | Kind::Ignored | Kind::Special(_) => Ok(()),
            Kind::File(Some(Content { size, digest })) => {
                let length = u64::try_from(found.st_size).unwrap_or(u64::MAX);
                if length != *size {
                    return Err(difference(path, format_args!("{size} bytes"), length));
                }
                let Some(digest) = digest else { return Ok(()) };
                let file = lookup::reopen(fd.as_fd()).map_err(kernel)?;
                if hash(file, &mut self.buffer).map_err(|reason| failed(path, reason))? != *digest {
                    return Err(difference(path, "the content that was sealed", "another"));
                }
                Ok(())
            }
            Kind::Link(expected) => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(kernel)?;
                if target.to_bytes() == expected.as_bytes() {
                    return Ok(());
                }
                Err(difference(path, format_args!("a link to '{expected}'"), shown(target.to_bytes())))
            }
            Kind::Directory => look_for_more(&fd, self.manifest, path),
        }
    }
}

/// Whether a directory has an entry that is not listed.
fn look_for_more(directory: &OwnedFd, manifest: &Manifest, path: &str) -> Result<(), Refusal> {
    let kernel = |reason: Errno| failed(path, reason);
    for entry in lookup::entries(directory).map_err(kernel)? {
        let entry = entry.map_err(kernel)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let slash = if path.is_empty() { "" } else { "/" };
        if str::from_utf8(name).is_ok_and(|name| manifest.get(&format!("{path}{slash}{name}")).is_some()) {
            continue;
        }
        let found = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(kernel)?;
        let path = format!("{path}{slash}{}", name.escape_ascii());
        return Err(difference(&path, "none", kind_name(FileType::from_raw_mode(found.st_mode))));
    }
    Ok(())
}

fn difference(path: &str, expected: impl Display, found: impl Display) -> Refusal {
    Refusal::of(format!("initramfs: '/{path}'")).expected(expected.to_string()).found(found)
}

fn hash(mut file: File, buffer: &mut [u8]) -> io::Result<[u8; DIGEST]> {
    let mut hasher = Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn shown(target: &[u8]) -> String {
    format!("one to '{}'", target.escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    const LIST: &str = "#mtree\n\
        . type=dir mode=0755\n\
        ./etc type=dir mode=0755\n\
        ./etc/empty type=file mode=0600 size=0 sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
        ./etc/file type=file mode=0644 size=5 sha256digest=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n\
        ./etc/link type=link mode=0777 link=file\n\
        ./etc/list type=file mode=0644\n\
        ./made type=file mode=0644 optional\n\
        ./run type=dir mode=0755 ignore\n";

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn compared(change: impl FnOnce(&Path)) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["etc", "run"] {
            fs::create_dir(at(path)).unwrap();
        }
        write(&at("etc/file"), "hello", 0o644);
        write(&at("etc/empty"), "", 0o600);
        write(&at("etc/list"), "whatever", 0o644);
        symlink("file", at("etc/link")).unwrap();
        write(&at("run/anything"), "", 0o777);
        for path in ["", "etc", "run"] {
            fs::set_permissions(at(path), Permissions::from_mode(0o755)).unwrap();
        }
        change(folder.path());
        let manifest = Manifest::parse(LIST.as_bytes()).unwrap();
        let root = File::open(folder.path()).unwrap();
        compare(root.as_fd(), &manifest).map_err(|error| crate::refusal::chain(&error))
    }

    #[test]
    fn the_same() {
        assert_eq!(compared(|_| ()), Ok(()));
        assert_eq!(compared(|root| write(&root.join("made"), "by PID 1", 0o644)), Ok(()));
    }

    #[test]
    fn each_difference() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 12] = [
            (|root| write(&root.join("etc/more"), "", 0o644), "'/etc/more': expected none, found a regular file"),
            (|root| symlink("/dev/null", root.join("a\n")).unwrap(), "'/a\\n': expected none, found a symbolic link"),
            (|root| fs::create_dir(root.join("etc/x.d")).unwrap(), "'/etc/x.d': expected none, found a directory"),
            (
                |root| fs::remove_file(root.join("etc/empty")).unwrap(),
                "'/etc/empty': expected a regular file, found none",
            ),
            (
                |root| write(&root.join("etc/file"), "hallo", 0o644),
                "'/etc/file': expected the content that was sealed, found another",
            ),
            (|root| write(&root.join("etc/file"), "hello!", 0o644), "'/etc/file': expected 5 bytes, found 6"),
            (|root| write(&root.join("etc/file"), "hello", 0o4755), "'/etc/file': expected mode 0644, found 4755"),
            (
                |root| {
                    fs::remove_file(root.join("etc/link")).unwrap();
                    symlink("/dev/null", root.join("etc/link")).unwrap();
                },
                "'/etc/link': expected a link to 'file', found one to '/dev/null'",
            ),
            (
                |root| {
                    fs::remove_file(root.join("etc/list")).unwrap();
                    symlink("file", root.join("etc/list")).unwrap();
                },
                "'/etc/list': expected a regular file, found a symbolic link",
            ),
            (
                |root| {
                    fs::rename(root.join("etc"), root.join("run/etc")).unwrap();
                    symlink("run/etc", root.join("etc")).unwrap();
                },
                "'/etc': expected a directory, found a symbolic link",
            ),
            (|root| fs::create_dir(root.join("made")).unwrap(), "'/made': expected a regular file, found a directory"),
            (
                |root| fs::set_permissions(root, Permissions::from_mode(0o777)).unwrap(),
                "'/': expected mode 0755, found 0777",
            ),
        ];
        for (change, message) in changes {
            assert_eq!(compared(change), Err(format!("initramfs: {message}")));
        }
    }
}
