//! The mounts of this process's mount namespace in the kernel's own words: one of them, or the tree at a path.
//!
//! By `statmount(2)` where the kernel tells enough by it, else by mountinfo. About the mounts that sealroot makes, both
//! give the same answer, in the same words.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::forms::{Kernel, MountIdKind, MountTable};
use super::mount::Mount;
use super::mountinfo::{self, Line};
use crate::refusal::Refusal;
use crate::sys::statmount::{self, MountStatus, mask};

/// More mounts than this at one root are nobody's honest work.
const MAX_MOUNTS: usize = 65_536;

/// What is asked about a mount.
const WANTED: u64 =
    mask::SB_BASIC | mask::MNT_BASIC | mask::MNT_POINT | mask::FS_TYPE | mask::MNT_OPTS | mask::SB_SOURCE;
/// What every mount has. Options and source are left out of the answer where there are none.
const ALWAYS: u64 = mask::SB_BASIC | mask::MNT_BASIC | mask::MNT_POINT | mask::FS_TYPE;
/// What the answer about a root has, of which nothing mounts one without a source; a kernel that tells the source tells
/// options, too.
const OF_A_ROOT: u64 = ALWAYS | mask::SB_SOURCE;

/// The mounts at a path and below it.
#[derive(Debug)]
pub struct Tree {
    /// The one at the path.
    pub root: Mount,
    /// All others, at any depth, without the options of their filesystems.
    pub below: Vec<Mount>,
    /// The identifier of the mount that the path's parent directory lies on.
    pub above: u64,
}

/// A system call about a mount: its mount point or its identifier.
fn failed(mount: impl Display, call: &'static str) -> impl Fn(Errno) -> Refusal {
    move |reason| Refusal::of(format!("mount {mount}: {call}")).because(reason)
}

/// A mount that is in no table, by its identifier in mountinfo.
fn not_listed(id: u64) -> Refusal {
    Refusal::of("").expected(format!("mount {id} in the kernel's table")).found("none")
}

/// How a descriptor's mount is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MountIds {
    /// What identifies it best ([`MountIdKind`]).
    id: u64,
    /// Its identifier in mountinfo, which may be used again.
    mountinfo: u64,
}

impl MountIds {
    fn of(mount: impl AsFd, kernel: &Kernel) -> Result<Self, Errno> {
        Ok(Self { id: id(&mount, kernel)?, mountinfo: mountinfo_id(mount)? })
    }
}

/// What identifies the mount that a descriptor lies on.
///
/// # Errors
/// The kernel's own.
pub fn id(mount: impl AsFd, kernel: &Kernel) -> Result<u64, Errno> {
    match unique_id(&mount, Path::new(""), AtFlags::EMPTY_PATH, kernel)? {
        Some(id) => Ok(id),
        None => mountinfo_id(mount),
    }
}

/// `None` before Linux 6.8.
fn unique_id(directory: impl AsFd, path: &Path, flags: AtFlags, kernel: &Kernel) -> Result<Option<u64>, Errno> {
    /// `STATX_MNT_ID_UNIQUE` of `linux/stat.h`
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    if kernel.forms().mount_ids == MountIdKind::Reused {
        return Ok(None);
    }
    let id = ask_for_id(directory, path, flags, UNIQUE)?;
    if id.is_none() {
        kernel.learn(|forms| forms.mount_ids = MountIdKind::Reused);
    }
    Ok(id)
}

fn mountinfo_id(mount: impl AsFd) -> Result<u64, Errno> {
    ask_for_id(mount, Path::new(""), AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.ok_or(Errno::OPNOTSUPP)
}

fn ask_for_id(directory: impl AsFd, path: &Path, flags: AtFlags, mask: StatxFlags) -> Result<Option<u64>, Errno> {
    // What a server would have to be asked for is of no interest.
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(directory, path, flags, mask)?;
    Ok(Some(found.stx_mnt_id).filter(|_| found.stx_mask & mask.bits() != 0))
}

/// The mount that a descriptor lies on, which must be attached.
pub fn mount_of(mount: impl AsFd, kernel: &Kernel) -> Result<Mount, Refusal> {
    let failed = failed("of an open file", "statx");
    let id = id(&mount, kernel).map_err(&failed)?;
    if let Some(status) = try_statmount(id, kernel)? {
        return Ok(from_status(status));
    }
    let ids = MountIds { id, mountinfo: mountinfo_id(mount).map_err(failed)? };
    let table = mountinfo::read()?;
    let line = table.into_iter().find(|line| line.id == ids.mountinfo);
    let line = line.ok_or_else(|| not_listed(ids.mountinfo))?;
    Ok(from_line(line, Some(ids.id), 0))
}

/// The mounts at `path` and below it.
pub fn tree(path: &Path, kernel: &Kernel) -> Result<Tree, Refusal> {
    let above = path.parent().unwrap_or(Path::new("/"));
    if kernel.forms().mount_table == MountTable::Statmount
        && let (Some(root), Some(above)) = (unique_id_at(path, kernel)?, unique_id_at(above, kernel)?)
        && let Some(status) = try_statmount(root, kernel)?
    {
        match tree_by_statmount(from_status(status), above) {
            // Somebody else's mount has longer strings than there is room for.
            Err(refusal) if refusal.cause() == Some(&Errno::OVERFLOW) => {
                kernel.learn(|forms| forms.mount_table = MountTable::Mountinfo)
            }
            result => return result,
        }
    }
    kernel.learn(|forms| forms.mount_table = MountTable::Mountinfo);
    let (root, above) = (ids_at(path, kernel)?, ids_at(above, kernel)?);
    tree_by_mountinfo(path, root, above, kernel)
}

fn unique_id_at(path: &Path, kernel: &Kernel) -> Result<Option<u64>, Refusal> {
    unique_id(CWD, path, AtFlags::SYMLINK_NOFOLLOW, kernel).map_err(failed_at(path, "statx"))
}

/// Both of the same mount, whatever happens at the path meanwhile.
fn ids_at(path: &Path, kernel: &Kernel) -> Result<MountIds, Refusal> {
    let fd = open(path).map_err(failed_at(path, "open"))?;
    MountIds::of(fd, kernel).map_err(failed_at(path, "statx"))
}

fn failed_at(path: &Path, call: &'static str) -> impl Fn(Errno) -> Refusal {
    move |reason| failed(format_args!("'{}'", path.display()), call)(reason)
}

/// A location at a path, without following a link or an automount there.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A mount's status, unless this kernel does not tell enough: then never again.
fn try_statmount(id: u64, kernel: &Kernel) -> Result<Option<MountStatus>, Refusal> {
    if kernel.forms().mount_table == MountTable::Mountinfo || kernel.forms().mount_ids == MountIdKind::Reused {
        kernel.learn(|forms| forms.mount_table = MountTable::Mountinfo);
        return Ok(None);
    }
    match statmount::statmount(id, WANTED) {
        Ok(status) if status.mask & OF_A_ROOT == OF_A_ROOT => Ok(Some(status)),
        // Before Linux 6.13; the call is missing (ENOSYS) before 6.8, or forbidden (EPERM) to who is confined.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OVERFLOW) => {
            kernel.learn(|forms| forms.mount_table = MountTable::Mountinfo);
            Ok(None)
        }
        Err(reason) => Err(failed(id, "statmount")(reason)),
    }
}

fn tree_by_statmount(root: Mount, above: u64) -> Result<Tree, Refusal> {
    let root_id = root.id.unwrap_or(0);
    let ids = statmount::listmount(root_id, MAX_MOUNTS).map_err(failed(root_id, "listmount"))?;
    let mut below = Vec::with_capacity(ids.len());
    for id in ids {
        match statmount::statmount(id, WANTED & !mask::MNT_OPTS) {
            Ok(status) if status.mask & ALWAYS == ALWAYS => {
                below.push(Mount { options: Vec::new(), ..from_status(status) })
            }
            Ok(_) => return Err(failed(id, "statmount")(Errno::NODATA)),
            // It went since it was listed.
            Err(Errno::NOENT) => {}
            Err(reason) => return Err(failed(id, "statmount")(reason)),
        }
    }
    Ok(Tree { root, below, above })
}

fn from_status(status: MountStatus) -> Mount {
    let mut options = vec![if status.sb_flags & SB_RDONLY == 0 { "rw".to_owned() } else { "ro".to_owned() }];
    for (flag, name) in SB_FLAGS {
        if status.sb_flags & flag != 0 {
            options.push(name.into());
        }
    }
    if !status.options.is_empty() {
        options.extend(mountinfo::tokens(&status.options));
    }
    Mount {
        id: Some(status.id),
        parent: status.parent,
        point: PathBuf::from(OsString::from_vec(status.point)),
        flags: flag_names(status.mount_attributes),
        filesystem: String::from_utf8_lossy(&status.filesystem).into_owned(),
        source: String::from_utf8_lossy(&status.source).into_owned(),
        options,
    }
}

/// `SB_RDONLY`
const SB_RDONLY: u32 = 1;
/// `SB_SYNCHRONOUS`, `SB_DIRSYNC`, `SB_LAZYTIME`, in mountinfo's order.
const SB_FLAGS: [(u32, &str); 3] = [(1 << 4, "sync"), (1 << 7, "dirsync"), (1 << 25, "lazytime")];

/// The flags of a mount, by mountinfo's names and in its order.
fn flag_names(attributes: u64) -> Vec<String> {
    let has = |flag: MountAttrFlags| attributes & u64::from(flag.bits()) != 0;
    let no_atime = has(MountAttrFlags::MOUNT_ATTR_NOATIME);
    let relatime = attributes & u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits()) == 0;
    [
        ("ro", has(MountAttrFlags::MOUNT_ATTR_RDONLY)),
        ("rw", !has(MountAttrFlags::MOUNT_ATTR_RDONLY)),
        ("nosuid", has(MountAttrFlags::MOUNT_ATTR_NOSUID)),
        ("nodev", has(MountAttrFlags::MOUNT_ATTR_NODEV)),
        ("noexec", has(MountAttrFlags::MOUNT_ATTR_NOEXEC)),
        ("noatime", no_atime),
        ("nodiratime", has(MountAttrFlags::MOUNT_ATTR_NODIRATIME)),
        ("relatime", relatime),
        ("nosymfollow", has(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW)),
        ("idmapped", has(MountAttrFlags::MOUNT_ATTR_IDMAP)),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(name, _)| name.to_owned())
    .collect()
}

fn tree_by_mountinfo(path: &Path, root: MountIds, above: MountIds, kernel: &Kernel) -> Result<Tree, Refusal> {
    let table = mountinfo::read()?;
    let mut at_root = None;
    let mut lines = Vec::new();
    for line in table {
        if line.id == root.mountinfo {
            at_root = Some(line);
        } else if line.mount.point.starts_with(path) {
            lines.push(line);
        }
    }
    let line = at_root.ok_or_else(|| not_listed(root.mountinfo))?;
    // From identifiers of the table to those that last, for the mounts on the root that a look-up leads to. What lies
    // deeper is none of ours, and may be something that hangs.
    let mut known = BTreeMap::from([(above.mountinfo, above.id), (root.mountinfo, root.id)]);
    for line in lines.iter().filter(|line| line.parent == root.mountinfo) {
        if let Ok(ids) = ids_at(&line.mount.point, kernel)
            && ids.mountinfo == line.id
        {
            known.insert(line.id, ids.id);
        }
    }
    let convert = |line: Line| {
        let (id, parent) = (known.get(&line.id).copied(), known.get(&line.parent).copied());
        from_line(line, id, parent.unwrap_or(0))
    };
    let below = lines.into_iter().map(|line| Mount { options: Vec::new(), ..convert(line) }).collect();
    Ok(Tree { root: convert(line), below, above: above.id })
}

fn from_line(line: Line, id: Option<u64>, parent: u64) -> Mount {
    Mount { id, parent, ..line.mount }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_as_mountinfo() {
        for (attributes, flags) in [
            (0x1, "ro,relatime"),
            (0x2 | 0x4 | 0x8 | 0x10, "rw,nosuid,nodev,noexec,noatime"),
            (0x20 | 0x80, "rw,nodiratime"),
            (0x200_000 | 0x100_000, "rw,relatime,nosymfollow,idmapped"),
        ] {
            assert_eq!(flag_names(attributes).join(","), flags, "{attributes:#x}");
        }
        let line = b"9 1 0:4 / /a\\040b ro,relatime - overlay composefs:00 ro,lazytime,lowerdir+=/x\\054y\n";
        let line = mountinfo::parse(line).unwrap().remove(0);
        let status = MountStatus {
            mask: WANTED,
            sb_flags: 1 | 1 << 25,
            mount_attributes: 1,
            id: 7,
            parent: 3,
            point: b"/a b".to_vec(),
            filesystem: b"overlay".to_vec(),
            source: b"composefs:00".to_vec(),
            options: b"lowerdir+=/x\\054y".to_vec(),
        };
        assert_eq!(from_status(status), from_line(line, Some(7), 3));
    }
}
