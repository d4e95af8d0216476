//! The new root takes the place of the physical one at /sysroot.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, major, makedev, minor};
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;

use crate::kernel::mounts;
use crate::kernel::workbench::Workbench;
use crate::kernel::{self, Kernel};
use crate::refusal::Refusal;
use crate::steps::keep::PLACE;
use crate::steps::prove::ProvenRoot;

/// Where systemd looks for the block device below a root that is none (systemd-gpt-auto-generator(8)).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// Where systemd looks for what it is to label.
const RELABEL: &str = "/run/systemd/relabel-extra.d";
const RELABEL_FILE: &str = "/run/systemd/relabel-extra.d/sealroot.relabel";

/// Detaches what is mounted at `path`, puts the new root there and clears the workbench away. What somebody else mounted below would
/// go with that, and nobody would know.
pub fn replace(root: &ProvenRoot, path: &Path, workbench: Workbench, kernel: &Kernel) -> Result<(), Refusal> {
    let failed =
        |step: &'static str| move |reason: Errno| Refusal::of(format!("'{}': {step}", path.display())).because(reason);
    // Several physical roots, one on another, go together.
    if let Some(mount) = mounts::tree(path, kernel)?.below.iter().find(|mount| mount.point != path) {
        let point = mount.point.as_os_str().as_encoded_bytes().escape_ascii().to_string();
        let found = format!("{} {}", mount.filesystem, mount.source);
        return Err(Refusal::of(format!("mount '{point}'"))
            .expected("no mount in the physical root (var.mount = \"none\" leaves /var to a unit of the image)")
            .found(found));
    }
    kernel::detach_all(path).map_err(failed("detach"))?;
    rustix::mount::move_mount(root.root(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move the new root here"))?;
    if let Some(kept) = root.root().kept() {
        place_kept(kept).map_err(|reason| Refusal::of(format!("'{PLACE}'")).because(reason))?;
    }
    workbench.close()
}

/// Puts the upper layer of /etc where the booted system finds it, by a path that root alone can go.
fn place_kept(kept: BorrowedFd<'_>) -> Result<(), Errno> {
    let path = Path::new(PLACE);
    // An earlier run in this boot may have left one.
    kernel::detach_all(path)?;
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(reason) => return Err(reason),
    }
    rustix::mount::move_mount(kept, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Has systemd label what could not be labelled before there is a policy (`relabel_extra()` of its `src/shared/mount-setup.c`).
pub fn ask_for_labels(root: &ProvenRoot) -> Result<(), Refusal> {
    let places = root.root().to_label();
    if places.is_empty() {
        return Ok(());
    }
    let lines: String = places.iter().map(|place| format!("/{place}\n")).collect();
    let written = std::fs::create_dir_all(RELABEL).and_then(|()| std::fs::write(RELABEL_FILE, lines));
    written.map_err(|reason| Refusal::of(format!("'{RELABEL_FILE}'")).because(reason))
}

/// Why systemd will not find the physical root's block device. It can boot without.
fn no_link() -> Refusal {
    Refusal::of(format!("'{VOLATILE_ROOT}'"))
}

/// Leaves the link by which systemd finds the block device of the physical root once / is an overlay. A link that is
/// there already stays.
pub fn link_volatile_root(physical_root: BorrowedFd<'_>, kernel: &Kernel) -> Result<(), Refusal> {
    let found = rustix::fs::fstat(physical_root).map_err(|reason| no_link().because(reason))?;
    let device = match major(found.st_dev) {
        // Filesystems that span devices, like btrfs, have a number of their own.
        0 => source_device(physical_root, kernel)?,
        _ => found.st_dev,
    };
    let target = format!("/dev/block/{}:{}", major(device), minor(device));
    let link = || std::os::unix::fs::symlink(&target, VOLATILE_ROOT);
    let made = link().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all("/run/systemd").and_then(|()| link()),
        _ => Err(error),
    });
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|reason| no_link().because(reason)),
    }
}

fn source_device(physical_root: BorrowedFd<'_>, kernel: &Kernel) -> Result<u64, Refusal> {
    let source = mounts::mount_of(physical_root, kernel).map_err(|reason| no_link().because(reason))?.source;
    match std::fs::metadata(&source) {
        Ok(found) if source.starts_with("/dev/") && found.rdev() != makedev(0, 0) => Ok(found.rdev()),
        _ => Err(no_link().expected("the physical root on a block device").found(format_args!("'{source}'"))),
    }
}
