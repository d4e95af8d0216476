//! The mount tree at /sysroot, as it is recorded after the boot program built it and compared before the pivot.

mod foreign;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use miniserde::{Deserialize, Serialize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::kernel::Kernel;
use crate::kernel::mount::Mount;
use crate::kernel::mounts::{self, Tree};
use crate::refusal::Refusal;
use crate::steps::mount::{self, RootOrigin};

/// One mount of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where, from the new root: `/`, `/etc`.
    point: String,
    /// The kernel's identifier, a unique one where it has such.
    id: u64,
    /// The identifier of the mount that it is attached to.
    parent: u64,
    /// The filesystem's type.
    #[serde(rename = "type")]
    filesystem: String,
    /// The filesystem's source.
    source: String,
    /// The flags of the mount.
    flags: Vec<String>,
    /// The options of the filesystem, of the root alone: those of a disk's may change by themselves.
    options: Vec<String>,
}

/// About a mount, by its mount point from the new root.
fn about(point: &Path) -> Refusal {
    Refusal::of(format!("mount '{}'", point.display()))
}

/// A mount that is hidden by another at the same place.
fn covered(point: &Path) -> Refusal {
    about(point).expected("one mount").found("another on top of it")
}

/// Records the mounts at `path` that the boot program made itself: `own` has their points and their identifiers, the
/// root first, which must keep the promises of a sealed root made from `promised`, where that is given. Whatever else is
/// mounted there by now is judged as it will be at the gate.
pub fn record(
    path: &Path,
    own: &[(&'static str, u64)],
    promised: Option<&RootOrigin>,
    kernel: &Kernel,
) -> Result<Vec<MountRecord>, Refusal> {
    let tree = tree(path, kernel)?;
    if let Some(origin) = promised {
        mount::check_options(&tree.root, &origin.source(), origin.verification())?;
    }
    let is_own = |mount: &&Mount| own.iter().any(|(_, known)| mount.id == Some(*known));
    let records: Vec<_> =
        [&tree.root].into_iter().chain(&tree.below).filter(is_own).map(|mount| MountRecord::new(mount, path)).collect();
    if let Some((point, id)) = own.iter().find(|(_, id)| !records.iter().any(|record| record.id == *id)) {
        let expected = format!("mount {id}, just made");
        return Err(about(&Path::new("/").join(point)).expected(expected).found("another mount or none"));
    }
    judge(path, &tree, &records)?;
    Ok(records)
}

/// Compares the tree at `path` with what was recorded. A further mount is harmless outside sealed content and over an
/// empty directory of the sealed root that is not below /usr or /etc, whose content is used by its name alone. Over what
/// systemd takes along from the initramfs (/run, /dev, /proc, /sys), it must be the initramfs's own.
pub fn compare(path: &Path, recorded: &[MountRecord], kernel: &Kernel) -> Result<(), Refusal> {
    judge(path, &tree(path, kernel)?, recorded)
}

fn judge(path: &Path, tree: &Tree, recorded: &[MountRecord]) -> Result<(), Refusal> {
    let mut missing: Vec<_> = recorded.iter().collect();
    expect(&mut missing, &MountRecord::new(&tree.root, path))?;
    for mount in &tree.below {
        let point = new_root_path(mount, path);
        if recorded.iter().any(|record| Path::new(&record.point) == point) {
            if mount.id.is_none() {
                return Err(covered(&point));
            }
            expect(&mut missing, &MountRecord::new(mount, path))?;
        } else {
            foreign::check(mount, path, tree, recorded)?;
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(record) => Err(record.changed("no mount".into())),
    }
}

/// The mounts at `path`, which must be one, and those below it.
fn tree(path: &Path, kernel: &Kernel) -> Result<Tree, Refusal> {
    let tree = mounts::tree(path, kernel)
        .map_err(|reason| Refusal::of(format!("mounts at '{}'", path.display())).because(reason))?;
    if tree.root.point != path {
        return Err(about(path).expected("the sealed root").found("no mount"));
    }
    if tree.root.parent != tree.above {
        return Err(covered(Path::new("/")));
    }
    Ok(tree)
}

/// Takes a mount that was found off the list of those that were recorded.
fn expect(missing: &mut Vec<&MountRecord>, found: &MountRecord) -> Result<(), Refusal> {
    match missing.iter().position(|record| record.point == found.point) {
        Some(index) if missing.get(index).is_some_and(|record| *record == found) => {
            missing.swap_remove(index);
            Ok(())
        }
        Some(index) => Err(missing.swap_remove(index).changed(found.describe())),
        None => Err(covered(Path::new(&found.point))),
    }
}

impl MountRecord {
    /// A hidden mount gets the identifier 0, which no mount has.
    fn new(mount: &Mount, path: &Path) -> Self {
        Self {
            point: new_root_path(mount, path).to_string_lossy().into_owned(),
            id: mount.id.unwrap_or(0),
            parent: mount.parent,
            filesystem: mount.filesystem.clone(),
            source: mount.source.clone(),
            flags: mount.flags.clone(),
            options: mount.options.clone(),
        }
    }

    /// The mount's identifier ([`crate::kernel::forms::MountIdKind`]).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it shows content of the image: it is the root, or an overlay over a directory of it. The others show the
    /// physical root, which is no overlay: no overlay has fs-verity. (That of an unverified boot may be one, and is then
    /// judged as if it were sealed.)
    fn shows_sealed_content(&self) -> bool {
        self.filesystem == "overlay"
    }

    fn changed(&self, found: String) -> Refusal {
        about(Path::new(&self.point)).expected(self.describe()).found(found)
    }

    /// For messages.
    fn describe(&self) -> String {
        let Self { id, parent, filesystem, source, flags, options, .. } = self;
        let options = if options.is_empty() { String::new() } else { format!(" {}", options.join(",")) };
        format!("{filesystem} {source} {}{options} (mount {id} on {parent})", flags.join(","))
    }
}

/// `/` for the new root itself, `/etc` for what is mounted there.
fn new_root_path(mount: &Mount, path: &Path) -> PathBuf {
    Path::new("/").join(mount.point.strip_prefix(path).unwrap_or(&mount.point))
}

/// The identifier of the mount at `path`.
pub fn root_id(path: &Path, kernel: &Kernel) -> Result<u64, Refusal> {
    let failed = |reason| about(path).because(reason);
    open(path).and_then(|root| mounts::id(root, kernel)).map_err(failed)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
