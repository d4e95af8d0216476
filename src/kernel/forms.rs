//! What this kernel can do, found out by trying: every boot begins with the newest form of everything, and a call that
//! fails takes it to the next older one. No version is ever compared.
//!
//! Verification has no older form.

use std::cell::Cell;

use miniserde::Serialize;

use crate::formats::names::names;

/// How the kernel mounts an EROFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErofsSource {
    /// From the image file itself (Linux 6.12, where it is not configured out).
    File,
    /// From a loop device over the image file.
    Loop,
}

names!(ErofsSource: File = "file", Loop = "loop");

/// How the kernel takes the layers of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// As file descriptors (Linux 6.13; of any kind, which ours are, 6.15).
    Fd,
    /// As paths through `/proc/self/fd`, one by one (Linux 6.7).
    Path,
    /// As such paths in one string, `lower::data`.
    List,
}

names!(LayerForm: Fd = "fd", Path = "path", List = "list");

/// Where mounts are while the new root is built from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildPlace {
    /// Nowhere: a detached mount is a layer, and carries others, as well as an attached one (Linux 6.15).
    Detached,
    /// At a private place of their own ([`super::workbench`]).
    Attached,
}

names!(BuildPlace: Detached = "detached", Attached = "attached");

/// How the kernel tells about its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountTable {
    /// One by one, by their unique identifiers (Linux 6.8; with options 6.11; with the source 6.13).
    Statmount,
    /// All in one text.
    Mountinfo,
}

names!(MountTable: Statmount = "statmount", Mountinfo = "mountinfo");

/// What identifies a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountIdKind {
    /// A number that is never used again while the kernel runs (Linux 6.8).
    Unique,
    /// A number that another mount may get once this one is gone.
    Reused,
}

names!(MountIdKind: Unique = "unique", Reused = "reused");

/// The form of each thing that the running kernel takes, as far as it is known.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Forms {
    pub(super) erofs: ErofsSource,
    pub(super) layers: LayerForm,
    pub(super) mounts: BuildPlace,
    pub(super) mount_table: MountTable,
    pub(super) mount_ids: MountIdKind,
}

/// The running kernel: made once, and asked through by whoever mounts.
#[derive(Debug)]
pub struct Kernel {
    forms: Cell<Forms>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel {
    /// The newest form of everything, until this kernel is seen to refuse it.
    pub fn new() -> Self {
        Self {
            forms: Cell::new(Forms {
                erofs: ErofsSource::File,
                layers: LayerForm::Fd,
                mounts: BuildPlace::Detached,
                mount_table: MountTable::Statmount,
                mount_ids: MountIdKind::Unique,
            }),
        }
    }

    /// What is known by now.
    pub fn forms(&self) -> Forms {
        self.forms.get()
    }

    /// How mounts are told, as far as it is known.
    pub fn mount_table(&self) -> MountTable {
        self.forms().mount_table
    }

    /// Has images mounted from loop devices from now on; `false` if that is so already.
    pub(crate) fn fall_back_to_loop(&self) -> bool {
        let before = self.forms().erofs;
        self.learn(|forms| forms.erofs = ErofsSource::Loop);
        before != ErofsSource::Loop
    }

    /// Remembers that this kernel does not take a newer form.
    pub(super) fn learn(&self, change: impl FnOnce(&mut Forms)) {
        let mut forms = self.forms();
        change(&mut forms);
        self.forms.set(forms);
    }
}
