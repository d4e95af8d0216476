//! /etc, /var, /sysroot and the transient root around a sealed root, in a tree that nothing else can see.
//!
//! Every overlay takes its lower layer from the sealed root and never from another overlay on top of it: the kernel
//! stacks two levels, and the sealed root is one.

mod left_behind;
mod state;

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::ask::config::{MountFlag, StateMount, SysrootMount};
use crate::ask::keep::KeepList;
use crate::ask::policy::Settings;
use crate::disk::layer::{self, Ownership};
use crate::disk::physical::{self, PhysicalRoot};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::kernel::workbench::Workbench;
use crate::kernel::{FsError, INERT, Kernel, attach, clone_tree, mounts, overlay, tmpfs};
use crate::refusal::{Refusal, chain};
use crate::steps::etc_entries::EtcEntries;
use crate::steps::keep::{self, DISK, RootIs, TAKEN, UPPER};
use crate::steps::mount::{DetachedRoot, RootOrigin, SealedLayers};
use crate::sys::mount_attr;
pub use left_behind::LEFT_BEHIND;
pub(super) use state::{
    existing_layer, expect_files, expect_layers, expect_nothing_lost, may_become, no_files, state_directory,
    state_error,
};
use state::{upper_layer, work_layer};

/// The new root with everything in it, ready to replace /sysroot.
#[derive(Debug)]
pub struct AssembledRoot {
    mount: OwnedFd,
    layers: SealedLayers,
    origin: RootOrigin,
    source: String,
    own_mounts: Vec<(&'static str, u64)>,
    kept: Option<OwnedFd>,
    left_behind: EtcEntries,
    to_label: Vec<&'static str>,
}

impl AssembledRoot {
    /// What of /etc cannot be read, the first time that this is asked.
    pub fn take_left_behind(&mut self) -> EtcEntries {
        mem::take(&mut self.left_behind)
    }

    /// What the root was made from.
    pub fn origin(&self) -> &RootOrigin {
        &self.origin
    }

    /// The layers of the sealed root.
    pub fn layers(&self) -> &SealedLayers {
        &self.layers
    }

    /// The mounts that the new root consists of: mount point and identifier, the root first.
    pub fn own_mounts(&self) -> &[(&'static str, u64)] {
        &self.own_mounts
    }

    /// The upper layer in memory, with the directory that keeps what is listed of it (`etc.keep`).
    pub fn kept(&self) -> Option<BorrowedFd<'_>> {
        self.kept.as_ref().map(AsFd::as_fd)
    }

    /// What has to be labelled when SELinux has a policy: it is on a filesystem whose labels nobody can set before that.
    pub fn to_label(&self) -> &[&'static str] {
        &self.to_label
    }

    /// The source of the root's mount, as `findmnt` shows it.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl AsFd for AssembledRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A directory of the sealed root that cannot be used.
fn no_mount_point(name: &str, reason: impl Into<LookupError>) -> Refusal {
    Refusal::of(format!("sealed root: '/{name}'")).because(reason.into())
}

/// A filesystem that could not be mounted, by where it was to be.
fn not_mounted(name: &str, reason: FsError) -> Refusal {
    Refusal::of(format!("'/{name}'")).because(reason)
}

/// Whether an overlay was refused with the error that the kernel has for too many levels of stacking, among others.
pub fn may_be_stacking(refusal: &Refusal) -> bool {
    let is_it = |error: &FsError| error.reason() == Errno::INVAL && error.filesystem() == "overlay";
    refusal.cause().is_some_and(is_it)
}

/// What the assembly works with.
struct Assembly<'a> {
    sealed: &'a DetachedRoot,
    physical: &'a PhysicalRoot<'a>,
    workbench: &'a Workbench,
    kernel: &'a Kernel,
    not_kept: &'a mut EtcEntries,
    /// The upper layer of what `etc.keep` keeps.
    kept: Option<OwnedFd>,
    left_behind: EtcEntries,
    to_label: Vec<&'static str>,
    root: RootIs,
}

/// A part of the root that takes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All of it.
    Root,
    Etc,
    Var,
}

impl Place {
    /// Its path, from the root.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Etc => "etc",
            Self::Var => "var",
        }
    }

    /// The name on the workbench of what is below its writable layers.
    fn held_name(self) -> &'static str {
        match self {
            Self::Root => "root-state",
            Self::Etc => "etc-state",
            Self::Var => "var-state",
        }
    }
}

/// A directory that is to be writable, or not.
struct StateDirectory<'a> {
    place: Place,
    mount: StateMount,
    attributes: MountAttrFlags,
    /// What is kept of it; `None` for everything.
    keep: Option<&'a KeepList>,
}

/// The directories of the root that [`assemble`] will mount something on.
pub fn mount_points(settings: &Settings) -> Vec<&'static str> {
    [
        ("etc", *settings.etc.value() != StateMount::None),
        ("var", *settings.var.value() != StateMount::None),
        ("sysroot", *settings.sysroot.value() != SysrootMount::None),
    ]
    .into_iter()
    .filter_map(|(name, needed)| needed.then_some(name))
    .collect()
}

/// Puts the new root together. What of the state is not kept is in `not_kept`, even if this fails.
pub fn assemble(
    sealed: DetachedRoot,
    physical: &PhysicalRoot<'_>,
    settings: &Settings,
    workbench: &Workbench,
    kernel: &Kernel,
    not_kept: &mut EtcEntries,
) -> Result<AssembledRoot, Refusal> {
    let sysroot = *settings.sysroot.value();
    let directories = [
        StateDirectory {
            place: Place::Etc,
            mount: *settings.etc.value(),
            attributes: mount_attributes(settings.etc_flags.value()),
            keep: settings.etc_keep.value().as_ref(),
        },
        StateDirectory {
            place: Place::Var,
            mount: *settings.var.value(),
            attributes: mount_attributes(settings.var_flags.value()),
            keep: None,
        },
    ];
    let persistent = |directory: &StateDirectory<'_>| matches!(directory.mount, StateMount::Overlay | StateMount::Bind);
    if sysroot == SysrootMount::Writable || directories.iter().any(persistent) {
        physical::make_writable(physical.mounted(), kernel).map_err(|reason| {
            Refusal::of("physical root").expected("to be writable for the configured state").because(reason)
        })?;
    }
    let (left_behind, to_label) = (EtcEntries::default(), Vec::new());
    let root = if *settings.transient_root.value() { RootIs::Transient } else { RootIs::ReadOnly };
    let mut assembly =
        Assembly { sealed: &sealed, physical, workbench, kernel, not_kept, kept: None, left_behind, to_label, root };
    let mut source = sealed.origin().source();
    let transient = if *settings.transient_root.value() {
        source = format!("transient:composefs={}", sealed.origin().requested().digest().to_hex());
        Some(assembly.transient_overlay(Place::Root, &source, MountAttrFlags::empty())?)
    } else {
        None
    };
    let mounts = directories
        .iter()
        .map(|directory| Ok((directory.place.name(), assembly.state_mount(directory)?)))
        .collect::<Result<Vec<_>, Refusal>>()?;
    let root = transient.as_ref().map_or(sealed.as_fd(), AsFd::as_fd);
    for (name, mount) in &mounts {
        if let Some(mount) = mount {
            attach(mount, root, name).map_err(|reason| no_mount_point(name, reason))?;
        }
    }
    attach_physical(physical, root, sysroot)?;
    let own_mounts = own_mounts(root, &mounts, physical, sysroot, kernel)?;
    let Assembly { kept, left_behind, to_label, .. } = assembly;
    let origin = sealed.origin().clone();
    let (sealed, layers) = sealed.into_parts();
    Ok(AssembledRoot {
        mount: transient.unwrap_or(sealed),
        layers,
        origin,
        source,
        own_mounts,
        kept,
        left_behind,
        to_label,
    })
}

fn own_mounts(
    root: BorrowedFd<'_>,
    mounts: &[(&'static str, Option<OwnedFd>)],
    physical: &PhysicalRoot<'_>,
    sysroot: SysrootMount,
    kernel: &Kernel,
) -> Result<Vec<(&'static str, u64)>, Refusal> {
    let state = mounts.iter().filter_map(|(name, mount)| mount.as_ref().map(|mount| (*name, mount.as_fd())));
    let physical = (sysroot != SysrootMount::None).then_some(("sysroot", physical.copy()));
    [("/", root)]
        .into_iter()
        .chain(state)
        .chain(physical)
        .map(|(name, mount)| match mounts::id(mount, kernel) {
            Ok(id) => Ok((name, id)),
            Err(reason) => Err(Refusal::of("identifier of a mount").because(reason)),
        })
        .collect()
}

fn attach_physical(physical: &PhysicalRoot<'_>, root: BorrowedFd<'_>, mount: SysrootMount) -> Result<(), Refusal> {
    match mount {
        SysrootMount::None => return Ok(()),
        SysrootMount::ReadOnly => {}
        SysrootMount::Writable => {
            mount_attr::make_private(physical.copy(), INERT, MountAttrFlags::MOUNT_ATTR_RDONLY)
                .map_err(|reason| Refusal::of("'/sysroot': make writable").because(reason))?;
        }
    }
    attach(physical.copy(), root, "sysroot").map_err(|reason| no_mount_point("sysroot", reason))
}

impl Assembly<'_> {
    /// The mount that goes to one directory of the new root, if any.
    fn state_mount(&mut self, directory: &StateDirectory<'_>) -> Result<Option<OwnedFd>, Refusal> {
        match directory.mount {
            StateMount::None => Ok(None),
            StateMount::Bind => {
                let (name, clone) = self.state_clone(directory)?;
                if directory.place == Place::Etc {
                    expect_files(&clone, &name, directory.place)?;
                }
                self.label(&clone, &name, directory.place)?;
                Ok(Some(clone))
            }
            StateMount::Transient => {
                self.transient_overlay(directory.place, "transient", directory.attributes).map(Some)
            }
            StateMount::Overlay => match directory.keep {
                Some(keep) => self.kept_overlay(directory, keep).map(Some),
                None => self.persistent_overlay(directory).map(Some),
            },
        }
    }

    /// A private copy of the mount of a state directory, writable, with its path on the physical root.
    fn state_clone(&self, directory: &StateDirectory<'_>) -> Result<(String, OwnedFd), Refusal> {
        let digest = self.sealed.origin().requested().digest();
        let (name, state) = state_directory(self.physical.mounted(), digest, directory.place)?;
        match clone_tree(state, directory.attributes, MountAttrFlags::MOUNT_ATTR_RDONLY) {
            Ok(clone) => Ok((name, clone)),
            Err(reason) => Err(state_error(&name, reason)),
        }
    }

    /// An overlay whose changes stay on the physical root.
    fn persistent_overlay(&mut self, directory: &StateDirectory<'_>) -> Result<OwnedFd, Refusal> {
        let lower = self.sealed_directory(directory.place)?;
        let (name, state) = self.state_clone(directory)?;
        self.workbench.hold(&state, directory.place.held_name())?;
        let like = Ownership::of(&lower).map_err(|reason| no_mount_point(directory.place.name(), reason))?;
        expect_layers(&state, &name, directory.place)?;
        let upper = upper_layer(&state, &name, like, &lower)?;
        if directory.place == Place::Etc {
            let folder = format!("{name}/upper");
            match left_behind::look(&upper, folder) {
                Ok(found) => self.left_behind = found,
                Err(reason) => log::warn!("{}, ignoring", chain(&state_error(&format!("{name}/upper"), reason))),
            }
        }
        let work = work_layer(&state, &name, like)?;
        overlay::writable("overlay", lower, upper, work, directory.attributes, self.kernel)
            .map_err(|reason| not_mounted(directory.place.name(), reason))
    }

    /// An overlay whose changes are in memory, with what is listed of those on the physical root.
    fn kept_overlay(&mut self, directory: &StateDirectory<'_>, keep: &KeepList) -> Result<OwnedFd, Refusal> {
        let &StateDirectory { place, attributes, .. } = directory;
        let failed = |reason| not_mounted(place.name(), reason);
        let in_memory = |reason: Errno| state_error("tmpfs", reason);
        let lower = self.sealed_directory(place)?;
        let (name, state) = self.state_clone(directory)?;
        let like = Ownership::of(&lower).map_err(|reason| no_mount_point(place.name(), reason))?;
        expect_layers(&state, &name, place)?;
        let kept = upper_layer(&state, &name, like, &lower)?;
        self.label_later(place, &lower)?;
        let memory = tmpfs("0700", attributes).map_err(failed)?;
        self.workbench.hold(&memory, place.held_name())?;
        let upper = upper_layer(&memory, "tmpfs", like, &lower)?;
        let name_of_kept = format!("{name}/{UPPER}");
        let layers = keep::Layers { kept: &kept, sealed: &lower, upper: &upper, name: &name_of_kept, root: self.root };
        let taken = keep::take(keep, &layers, self.not_kept)?;
        let work = work_layer(&memory, "tmpfs", like)?;
        rustix::fs::mkdirat(&memory, DISK, Mode::RWXU).map_err(in_memory)?;
        keep::new_file(&memory, TAKEN, &taken).map_err(in_memory)?;
        let mount = overlay::writable("kept", lower, upper, work, attributes, self.kernel).map_err(failed)?;
        // Below an overlay nobody may write. What is mounted on it is written to.
        mount_attr::make_private(&memory, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty())
            .and_then(|()| mount_attr::make_private(&state, INERT, MountAttrFlags::empty()))
            .map_err(in_memory)?;
        attach(&state, &memory, DISK).map_err(|reason| state_error(&name, reason))?;
        self.kept = Some(memory);
        Ok(mount)
    }

    /// An overlay whose changes are gone at reboot, over a directory of the sealed root or (`""`) over all of it.
    fn transient_overlay(
        &mut self,
        place: Place,
        source: &str,
        attributes: MountAttrFlags,
    ) -> Result<OwnedFd, Refusal> {
        let failed = |reason| not_mounted(place.name(), reason);
        let unreadable = |reason: Errno| no_mount_point(place.name(), reason);
        let lower = if place == Place::Root {
            self.sealed
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| unreadable(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?
        } else {
            self.sealed_directory(place)?
        };
        let like = Ownership::of(&lower).map_err(unreadable)?;
        self.label_later(place, &lower)?;
        let state = tmpfs("0755", attributes).map_err(failed)?;
        self.workbench.hold(&state, place.held_name())?;
        let upper = upper_layer(&state, "tmpfs", like, &lower)?;
        let work = work_layer(&state, "tmpfs", like)?;
        let mount = overlay::writable(source, lower, upper, work, attributes, self.kernel).map_err(failed)?;
        if place == Place::Root {
            self.workbench.hold(&mount, "transient")?;
        }
        Ok(mount)
    }

    /// Gives a directory that no program of the system has labelled the label of the sealed one.
    fn label(&self, state: &OwnedFd, name: &str, place: Place) -> Result<(), Refusal> {
        let sealed = self.sealed_directory(place)?;
        let unlabelled = || Ok(layer::has_label(&sealed)? && !layer::has_label(state)?);
        let given = unlabelled().and_then(|it| if it { layer::give_label(state, &sealed) } else { Ok(()) });
        given.map_err(|reason| state_error(name, reason))
    }

    /// A tmpfs does not take a label before SELinux has its policy.
    fn label_later(&mut self, place: Place, sealed: &OwnedFd) -> Result<(), Refusal> {
        if layer::has_label(sealed).map_err(|reason| no_mount_point(place.name(), reason))? {
            self.to_label.push(place.name());
        }
        Ok(())
    }

    fn sealed_directory(&self, place: Place) -> Result<OwnedFd, Refusal> {
        lookup::directory(self.sealed, place.name(), Links::Refused)
            .map_err(|reason| no_mount_point(place.name(), reason))
    }
}

fn mount_attributes(flags: &[MountFlag]) -> MountAttrFlags {
    flags.iter().fold(MountAttrFlags::empty(), |attributes, flag| {
        attributes
            | match flag {
                MountFlag::Nosuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
                MountFlag::Nodev => MountAttrFlags::MOUNT_ATTR_NODEV,
                MountFlag::Noexec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            }
    })
}
