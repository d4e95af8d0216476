//! The mount tree at /sysroot, as it is recorded after the boot program built it and compared before the pivot.

mod foreign;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use miniserde::{Deserialize, Serialize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::lookup::LookupError;
use crate::mount::Kernel;
use crate::mount::root::{self, RootError, RootOrigin};
use crate::mount::table::{self, Mount, TableError, Tree};

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

/// Why the tree cannot be told, or is not the one that was recorded.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The kernel's table.
    #[error("mounts at '{}'", path.display())]
    Table {
        /// The new root.
        path: PathBuf,
        /// Why.
        #[source]
        reason: TableError,
    },
    /// The root is not what it was made to be.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A mount of the tree cannot be looked at.
    #[error("mount '{}'", path.display())]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// Nothing is mounted there.
    #[error("mount '{}': expected the sealed root, found no mount", path.display())]
    Nothing {
        /// The new root.
        path: PathBuf,
    },
    /// A mount is hidden by another at the same place.
    #[error("mount '{}': expected one mount, found another on top of it", path.display())]
    Covered {
        /// The mount point.
        path: PathBuf,
    },
    /// A recorded mount is not there, or is another now.
    #[error("mount '{}': expected {expected}, found {found}", path.display())]
    Changed {
        /// The mount point, from the new root.
        path: PathBuf,
        /// What was recorded.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A mount that was not recorded covers sealed content.
    #[error("mount '{}': expected no mount over sealed content, found {found}", path.display())]
    Foreign {
        /// The mount point, from the new root.
        path: PathBuf,
        /// What is mounted.
        found: String,
    },
    /// A mount is where systemd would put what it takes along from the initramfs.
    #[error("mount '{}': expected the initramfs's own or none, found {found}", path.display())]
    NotTakenAlong {
        /// The mount point, from the new root.
        path: PathBuf,
        /// What is mounted.
        found: String,
    },
    /// The sealed directory below a mount cannot be looked at.
    #[error("mount '{}': sealed directory below it", path.display())]
    Below {
        /// The mount point, from the new root.
        path: PathBuf,
        /// Why.
        #[source]
        reason: LookupError,
    },
}

/// Records the mounts at `path` that the boot program made itself: `own` has their points and their identifiers, the
/// root first, which must keep the promises of a sealed root made from `promised`, where that is given. Whatever else is
/// mounted there by now is judged as it will be at the gate.
pub fn record(
    path: &Path,
    own: &[(&'static str, u64)],
    promised: Option<&RootOrigin>,
    kernel: &Kernel,
) -> Result<Vec<MountRecord>, TreeError> {
    let tree = tree(path, kernel)?;
    if let Some(origin) = promised {
        root::check_options(&tree.root, &origin.source(), origin.verification())?;
    }
    let is_own = |mount: &&Mount| own.iter().any(|(_, known)| mount.id == Some(*known));
    let records: Vec<_> =
        [&tree.root].into_iter().chain(&tree.below).filter(is_own).map(|mount| MountRecord::new(mount, path)).collect();
    if let Some((point, id)) = own.iter().find(|(_, id)| !records.iter().any(|record| record.id == *id)) {
        let (expected, found) = (format!("mount {id}, just made"), "another mount or none".into());
        return Err(TreeError::Changed { path: Path::new("/").join(point), expected, found });
    }
    judge(path, &tree, &records)?;
    Ok(records)
}

/// Compares the tree at `path` with what was recorded. A further mount is harmless outside sealed content and over an
/// empty directory of the sealed root that is not below /usr or /etc, whose content is used by its name alone. Over what
/// systemd takes along from the initramfs (/run, /dev, /proc, /sys), it must be the initramfs's own.
pub fn compare(path: &Path, recorded: &[MountRecord], kernel: &Kernel) -> Result<(), TreeError> {
    judge(path, &tree(path, kernel)?, recorded)
}

fn judge(path: &Path, tree: &Tree, recorded: &[MountRecord]) -> Result<(), TreeError> {
    let mut missing: Vec<_> = recorded.iter().collect();
    expect(&mut missing, &MountRecord::new(&tree.root, path))?;
    for mount in &tree.below {
        let point = new_root_path(mount, path);
        if recorded.iter().any(|record| Path::new(&record.point) == point) {
            if mount.id.is_none() {
                return Err(TreeError::Covered { path: point });
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
fn tree(path: &Path, kernel: &Kernel) -> Result<Tree, TreeError> {
    let tree = table::tree(path, kernel).map_err(|reason| TreeError::Table { path: path.into(), reason })?;
    if tree.root.point != path {
        return Err(TreeError::Nothing { path: path.into() });
    }
    if tree.root.parent != tree.above {
        return Err(TreeError::Covered { path: "/".into() });
    }
    Ok(tree)
}

/// Takes a mount that was found off the list of those that were recorded.
fn expect(missing: &mut Vec<&MountRecord>, found: &MountRecord) -> Result<(), TreeError> {
    match missing.iter().position(|record| record.point == found.point) {
        Some(index) if missing.get(index).is_some_and(|record| *record == found) => {
            missing.swap_remove(index);
            Ok(())
        }
        Some(index) => Err(missing.swap_remove(index).changed(found.describe())),
        None => Err(TreeError::Covered { path: found.point.clone().into() }),
    }
}

impl MountRecord {
    /// Of a mount that is not hidden; another gets an identifier that none has.
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

    /// The mount's unique identifier.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it shows content of the image: it is the root, or an overlay over a directory of it. The others show the
    /// physical root, which is no overlay: no overlay has fs-verity. (That of an unverified boot may be one, and is then
    /// judged as if it were sealed.)
    fn shows_sealed_content(&self) -> bool {
        self.filesystem == "overlay"
    }

    fn changed(&self, found: String) -> TreeError {
        TreeError::Changed { path: self.point.clone().into(), expected: self.describe(), found }
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
pub fn root_id(path: &Path, kernel: &Kernel) -> Result<u64, TreeError> {
    let failed = |reason| TreeError::Kernel { path: path.into(), reason };
    open(path).and_then(|root| table::id(root, kernel)).map_err(failed)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
