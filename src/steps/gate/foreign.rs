//! Mounts in the new root that the boot program did not make: each is harmless, or a refusal.
//!
//! Sealed content is shown by the root and by each overlay over a directory of it. The other mounts of the boot program
//! show the state of the machine, where everyone may mount what they like.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::{MountRecord, about, covered, new_root_path, open};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::kernel::mount::Mount;
use crate::kernel::mounts::Tree;
use crate::kernel::{self, clone_tree};
use crate::refusal::Refusal;

/// What systemd takes along from the initramfs, by the types of its filesystems. If anything is mounted there in the new
/// root, systemd leaves it in place instead (`switch_root()` in its `src/shared/switch-root.c`).
const TAKEN_ALONG: [(&str, &[&str]); 4] =
    [("/run", &["tmpfs"]), ("/dev", &["devtmpfs", "tmpfs"]), ("/proc", &["proc"]), ("/sys", &["sysfs"])];

/// Programs and configuration are found here by their names alone, so that an empty directory is sealed content, too. The
/// last six are links to /usr in most images.
const NEVER_COVERED: [&str; 8] = ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Judges one mount of the tree at `path` that is none of those recorded.
pub(super) fn check(mount: &Mount, path: &Path, tree: &Tree, recorded: &[MountRecord]) -> Result<(), Refusal> {
    let point = new_root_path(mount, path);
    let found = format!("{} {}", mount.filesystem, mount.source);
    if let Some((directory, types)) = TAKEN_ALONG.iter().find(|(directory, _)| point.starts_with(directory)) {
        let type_is_right = point != Path::new(directory) || types.contains(&mount.filesystem.as_str());
        if !type_is_right || !is_same_root(&mount.point, &point) {
            return Err(about(&point).expected("the initramfs's own or none").found(found));
        }
        // Which of several at one place is the right one cannot be told.
        return match tree.below.iter().filter(|other| other.point == mount.point).count() {
            1 => Ok(()),
            _ => Err(covered(&point)),
        };
    }
    // What it lies on is another such mount, which is judged itself, or the state of the machine.
    let Some(holder) = recorded.iter().find(|record| record.id == mount.parent && record.shows_sealed_content()) else {
        return Ok(());
    };
    if NEVER_COVERED.iter().any(|directory| point.starts_with(directory)) || !covers_nothing(&point, path, holder)? {
        return Err(about(&point).expected("no mount over sealed content").found(found));
    }
    Ok(())
}

/// Whether a mount is at `here`, and has the same root as what is at `there`.
fn is_same_root(here: &Path, there: &Path) -> bool {
    let identity = |path: &Path| {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(CWD, path, flags, StatxFlags::INO)?;
        Ok::<_, Errno>((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
    };
    matches!((kernel::is_mount_point(here), identity(here), identity(there)),
        (Ok(true), Ok(here), Ok(there)) if here == there)
}

/// Whether what the sealed root has at `point` is an empty directory, or nothing: in an overlay over one of its
/// directories, the machine may have made the mount point.
fn covers_nothing(point: &Path, path: &Path, holder: &MountRecord) -> Result<bool, Refusal> {
    let below = |reason: LookupError| {
        Refusal::of(format!("mount '{}': sealed directory below it", point.display())).because(reason)
    };
    let root = open(path).map_err(|reason| below(reason.into()))?;
    // A copy of the root's mount alone shows what the mounts on it cover.
    let none = MountAttrFlags::empty();
    let copy = clone_tree(root, none, none).map_err(|reason| below(reason.into()))?;
    let covered = match point.strip_prefix("/").unwrap_or(point).to_str() {
        Some(name) => lookup::directory(&copy, name, Links::Refused),
        None => Err(LookupError::Kernel(Errno::ILSEQ)),
    };
    match covered {
        Ok(directory) => is_empty(&directory).map_err(|reason| below(reason.into())),
        // A mount over a file covers that file.
        Err(LookupError::Kind { .. }) => Ok(false),
        Err(LookupError::Kernel(Errno::NOENT)) if holder.point != "/" => Ok(true),
        Err(reason) => Err(below(reason)),
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in lookup::entries(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
