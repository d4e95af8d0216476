//! What can be set: one type per key that has more than two values, one struct per table.

use crate::ask::keep::KeepList;

/// `layout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// /etc is an overlay by default.
    Composefs,
    /// /etc is a bind mount by default.
    Bootc,
}

/// `policy.karg`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KargPolicy {
    /// No composefs karg is a refusal.
    Require,
    /// No composefs karg means that there is nothing to do.
    Optional,
}

/// `policy.unverified`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnverifiedPolicy {
    /// A `?` karg is a refusal.
    Refuse,
    /// A `?` karg boots unverified while Secure Boot is not enforced.
    AllowWithoutSecureBoot,
}

/// `policy.secure-boot`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBootPolicy {
    /// Only reported.
    Report,
    /// A boot without enforced Secure Boot is a refusal.
    Require,
}

/// `policy.alternatives`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternatives {
    /// A different digest under each key of the command line is a refusal.
    Refuse,
    /// The first one whose image exists is used.
    FirstExisting,
}

/// `policy.firmware-strings`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareStrings {
    /// A string of the machine's set-up that adds to the command line, to the boot loader's menu or to PID 1's credentials is a
    /// refusal.
    Refuse,
    /// Only reported.
    Report,
}

/// `policy.missing-verity`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingVerity {
    /// An image file without fs-verity is a refusal.
    Refuse,
    /// fs-verity is enabled after a digest in user space.
    Enable,
}

/// `policy.check`: how much is checked before the pivot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The kernel's measurement and the image's headers.
    Digest,
    /// The whole image file is read once.
    Image,
    /// Every object exists and is measured.
    Objects,
    /// Every object is read to its end.
    Data,
}

/// `policy.on-failure`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// What suits the machine.
    Auto,
    /// systemd takes over.
    Emergency,
    /// Reboot.
    Reboot,
    /// Power off.
    Poweroff,
    /// Halt.
    Halt,
}

/// `mount` of `[etc]` and `[var]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMount {
    /// An overlay over the sealed directory, its changes kept in the state directory.
    Overlay,
    /// The state directory itself.
    Bind,
    /// An overlay over the sealed directory, its changes gone at reboot.
    Transient,
    /// The sealed directory as it is.
    None,
}

/// `mount` of `[sysroot]`: the physical root inside the booted system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysrootMount {
    /// Mounted read-only.
    ReadOnly,
    /// Mounted read-write.
    Writable,
    /// Not there.
    None,
}

/// One of `flags` of `[etc]` and `[var]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountFlag {
    /// setuid and setgid bits have no effect.
    Nosuid,
    /// Device nodes have no effect.
    Nodev,
    /// Nothing can be executed.
    Noexec,
}

/// `[policy]`
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "each field is the key of the same name, its type says what it means")]
pub struct PolicySection {
    pub karg: Option<KargPolicy>,
    pub unverified: Option<UnverifiedPolicy>,
    pub secure_boot: Option<SecureBootPolicy>,
    pub alternatives: Option<Alternatives>,
    pub firmware_strings: Option<FirmwareStrings>,
    pub missing_verity: Option<MissingVerity>,
    pub check: Option<Check>,
    pub on_failure: Option<OnFailure>,
    /// Seconds that the reason stays on the screen. They fit into the time that the units have.
    pub failure_delay: Option<u8>,
}

/// `[root]`
#[derive(Clone, Copy, Debug, Default)]
pub struct RootSection {
    /// Whether a writable tmpfs overlay lies over the sealed root.
    pub transient: Option<bool>,
}

/// `[etc]`
#[derive(Clone, Debug, Default)]
pub struct EtcSection {
    /// Where /etc comes from.
    pub mount: Option<StateMount>,
    /// The composefs tools' other way to say `mount = "transient"`.
    pub transient: Option<bool>,
    /// The flags of the mount at /etc.
    pub flags: Option<Vec<MountFlag>>,
    /// What an overlay over /etc takes from the disk; no other table has this key.
    pub keep: Option<KeepList>,
}

/// `[var]`, with the keys of `[etc]`
pub type VarSection = EtcSection;

/// `[sysroot]`
#[derive(Clone, Copy, Debug, Default)]
pub struct SysrootSection {
    /// The physical root inside the booted system.
    pub mount: Option<SysrootMount>,
}
