//! The mount tree at /sysroot, as it is recorded after the boot program built it and compared before the pivot.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use miniserde::{Deserialize, Serialize};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use thiserror::Error;

use crate::lookup::{self, Links, LookupError};
use crate::mount::mountinfo::{self, Mount, MountinfoError};
use crate::mount::{MountIds, clone_tree};

/// One mount of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where, from the new root: `/`, `/etc`.
    point: String,
    /// The kernel's unique identifier.
    id: u64,
    /// The unique identifier of the mount that it is attached to.
    parent: u64,
    /// The filesystem's type.
    #[serde(rename = "type")]
    filesystem: String,
    /// The filesystem's source.
    source: String,
    /// The flags of the mount.
    flags: Vec<String>,
    /// The options of the filesystem.
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
        reason: MountinfoError,
    },
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

/// Records the mounts at `path` that the boot program made itself: `own` has their points and their unique
/// identifiers, the root first. Whatever else is mounted there by now is judged as it will be at the gate.
pub fn record(path: &Path, own: &[(&'static str, u64)]) -> Result<Vec<MountRecord>, TreeError> {
    let table = table(path)?;
    let (root, below) = split(&table, path)?;
    let root_id = visible_id(root, path)?;
    let found = [(root, parent_id(path)?)].into_iter().chain(below.into_iter().map(|mount| (mount, root_id)));
    let mut records = Vec::new();
    for (mount, parent) in found {
        match visible_id(mount, path) {
            Ok(id) if own.iter().any(|(_, known)| *known == id) => {
                records.push(MountRecord::new(mount, path, id, parent));
            }
            Ok(_) | Err(TreeError::Covered { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some((point, id)) = own.iter().find(|(_, id)| !records.iter().any(|record| record.id == *id)) {
        let (expected, found) = (format!("mount {id}, just made"), "another mount or none".into());
        return Err(TreeError::Changed { path: Path::new("/").join(point), expected, found });
    }
    compare(path, &records)?;
    Ok(records)
}

/// Compares the tree at `path` with what was recorded. A further mount is harmless outside the sealed root and over an
/// empty directory of it that is not below /usr, where what is found is executed.
pub fn compare(path: &Path, recorded: &[MountRecord]) -> Result<(), TreeError> {
    let table = table(path)?;
    let (root, below) = split(&table, path)?;
    let root_id = visible_id(root, path)?;
    let found_root = MountRecord::new(root, path, root_id, parent_id(path)?);
    let mut missing: Vec<_> = recorded.iter().collect();
    expect(&mut missing, &found_root)?;
    for mount in below {
        let point = new_root_path(mount, path);
        if recorded.iter().any(|record| Path::new(&record.point) == point) {
            // A mount that hangs elsewhere than on the root is not the recorded one, whatever its identifier.
            let parent = if mount.parent == root.id { root_id } else { 0 };
            expect(&mut missing, &MountRecord::new(mount, path, visible_id(mount, path)?, parent))?;
        } else if mount.parent == root.id {
            check_foreign(mount, path)?;
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(record) => Err(record.changed("no mount".into())),
    }
}

/// The one mount at `path`, and those below it.
fn split<'a>(table: &'a [Mount], path: &Path) -> Result<(&'a Mount, Vec<&'a Mount>), TreeError> {
    let (at, below): (Vec<_>, Vec<_>) =
        table.iter().filter(|mount| mount.point.starts_with(path)).partition(|mount| mount.point == path);
    match at.as_slice() {
        [root] => Ok((root, below)),
        [] => Err(TreeError::Nothing { path: path.into() }),
        _ => Err(TreeError::Covered { path: "/".into() }),
    }
}

/// Takes a mount that was found off the list of those that were recorded.
fn expect(missing: &mut Vec<&MountRecord>, found: &MountRecord) -> Result<(), TreeError> {
    match missing.iter().position(|record| record.point == found.point) {
        Some(index) if missing.get(index).is_some_and(|record| record.is(found)) => {
            missing.swap_remove(index);
            Ok(())
        }
        Some(index) => Err(missing.swap_remove(index).changed(found.describe())),
        None => Err(TreeError::Covered { path: found.point.clone().into() }),
    }
}

/// A mount on the sealed root that was not recorded: harmless unless it hides something.
fn check_foreign(mount: &Mount, path: &Path) -> Result<(), TreeError> {
    let point = new_root_path(mount, path);
    let below = |reason| TreeError::Below { path: point.clone(), reason };
    let relative = point.strip_prefix("/").unwrap_or(&point);
    let root = open(path).map_err(|reason| below(reason.into()))?;
    // A copy of the sealed mount alone shows what the further mount covers.
    let none = MountAttrFlags::empty();
    let copy = clone_tree(root, none, none).map_err(|reason| below(reason.into()))?;
    let covered = match relative.to_str() {
        Some(name) => lookup::directory(&copy, name, Links::Refused),
        None => Err(LookupError::Kernel(Errno::ILSEQ)),
    };
    let is_empty = match covered {
        Ok(directory) => is_empty(&directory).map_err(|reason| below(reason.into()))?,
        // A mount over a file covers that file.
        Err(LookupError::Kind { .. }) => false,
        Err(reason) => return Err(below(reason)),
    };
    if is_empty && !point.starts_with("/usr") {
        return Ok(());
    }
    Err(TreeError::Foreign { path: point, found: format!("{} {}", mount.filesystem, mount.source) })
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in Dir::new(File::from(readable))? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

impl MountRecord {
    fn new(mount: &Mount, path: &Path, id: u64, parent: u64) -> Self {
        Self {
            point: new_root_path(mount, path).to_string_lossy().into_owned(),
            id,
            parent,
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

    /// Whether another record is of the same, unchanged mount. The options of the filesystem count for the root alone:
    /// those of a disk's filesystem may change by themselves.
    fn is(&self, other: &Self) -> bool {
        let options = |record: &Self| if record.point == "/" { record.options.clone() } else { Vec::new() };
        Self { options: options(self), ..self.clone() } == Self { options: options(other), ..other.clone() }
    }

    fn changed(&self, found: String) -> TreeError {
        TreeError::Changed { path: self.point.clone().into(), expected: self.describe(), found }
    }

    /// For messages.
    fn describe(&self) -> String {
        let Self { id, parent, filesystem, source, flags, options, .. } = self;
        format!("{filesystem} {source} {} {} (mount {id} on {parent})", flags.join(","), options.join(","))
    }
}

fn table(path: &Path) -> Result<Vec<Mount>, TreeError> {
    mountinfo::read().map_err(|reason| TreeError::Table { path: path.into(), reason })
}

/// `/` for the new root itself, `/etc` for what is mounted there.
fn new_root_path(mount: &Mount, path: &Path) -> PathBuf {
    Path::new("/").join(mount.point.strip_prefix(path).unwrap_or(&mount.point))
}

/// The unique identifier of a mount that a look-up of its mount point leads to.
fn visible_id(mount: &Mount, path: &Path) -> Result<u64, TreeError> {
    let failed = |reason| TreeError::Kernel { path: new_root_path(mount, path), reason };
    let ids = open(&mount.point).and_then(MountIds::of).map_err(failed)?;
    if ids.mountinfo == mount.id {
        Ok(ids.unique)
    } else {
        Err(TreeError::Covered { path: new_root_path(mount, path) })
    }
}

/// The unique identifier of what the mount at `path` is attached to.
fn parent_id(path: &Path) -> Result<u64, TreeError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let failed = |reason| TreeError::Kernel { path: parent.into(), reason };
    Ok(open(parent).and_then(MountIds::of).map_err(failed)?.unique)
}

/// The unique identifier of the mount at `path`.
pub fn root_id(path: &Path) -> Result<u64, TreeError> {
    let failed = |reason| TreeError::Kernel { path: path.into(), reason };
    Ok(open(path).and_then(MountIds::of).map_err(failed)?.unique)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
