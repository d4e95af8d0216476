//! Every setting with where it is from: ours first, then the composefs tools', then the default.

use miniserde::Serialize;

use crate::ask::cmdline::CommandLine;
use crate::ask::config::{
    Alternatives, Check, Config, FirmwareStrings, KargPolicy, Layout, MissingVerity, MountFlag, OnFailure,
    SecureBootPolicy, StateMount, SysrootMount, UnverifiedPolicy,
};
use crate::ask::keep::KeepList;
use crate::formats::names::names;

/// Where a setting's value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// [`crate::ask::config::SEALROOT_TOML`]
    SealrootToml,
    /// [`crate::ask::config::SETUP_ROOT_CONF_TOML`]
    SetupRootConf,
    /// The kernel command line.
    CommandLine,
    /// What the sealed root is, where the configuration is silent.
    SealedRoot,
}

names!(Origin:
    Default = "default",
    SealrootToml = "/usr/lib/sealroot/sealroot.toml",
    SetupRootConf = "/usr/lib/composefs/setup-root-conf.toml",
    CommandLine = "command line",
    SealedRoot = "sealed root"
);

/// A value with its origin.
#[derive(Clone, Debug, Serialize)]
pub struct Setting<T> {
    pub(super) value: T,
    pub(super) from: Origin,
}

impl<T> Setting<T> {
    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Ours first, then the composefs tools', then the default.
    fn pick(ours: Option<T>, theirs: Option<T>, default: T) -> Self {
        match (ours, theirs) {
            (Some(value), _) => Self { value, from: Origin::SealrootToml },
            (None, Some(value)) => Self { value, from: Origin::SetupRootConf },
            (None, None) => Self { value: default, from: Origin::Default },
        }
    }
}

/// Every setting, resolved; serialized as the report's `policy`.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "each field is the configuration key that it is renamed to")]
pub struct Settings {
    pub layout: Setting<Layout>,
    #[serde(rename = "policy.karg")]
    pub karg: Setting<KargPolicy>,
    #[serde(rename = "policy.unverified")]
    pub unverified: Setting<UnverifiedPolicy>,
    #[serde(rename = "policy.secure-boot")]
    pub secure_boot: Setting<SecureBootPolicy>,
    #[serde(rename = "policy.alternatives")]
    pub alternatives: Setting<Alternatives>,
    #[serde(rename = "policy.firmware-strings")]
    pub firmware_strings: Setting<FirmwareStrings>,
    #[serde(rename = "policy.missing-verity")]
    pub missing_verity: Setting<MissingVerity>,
    #[serde(rename = "policy.check")]
    pub check: Setting<Check>,
    #[serde(rename = "policy.on-failure")]
    pub on_failure: Setting<OnFailure>,
    #[serde(rename = "policy.failure-delay")]
    pub failure_delay: Setting<u8>,
    #[serde(rename = "root.transient")]
    pub transient_root: Setting<bool>,
    #[serde(rename = "etc.mount")]
    pub etc: Setting<StateMount>,
    #[serde(rename = "etc.flags")]
    pub etc_flags: Setting<Vec<MountFlag>>,
    /// `None` keeps everything, an empty list nothing.
    #[serde(rename = "etc.keep")]
    pub etc_keep: Setting<Option<KeepList>>,
    #[serde(rename = "var.mount")]
    pub var: Setting<StateMount>,
    #[serde(rename = "var.flags")]
    pub var_flags: Setting<Vec<MountFlag>>,
    #[serde(rename = "sysroot.mount")]
    pub sysroot: Setting<SysrootMount>,
}

/// A command line, and the settings that hold for it: nothing is decided about one with the settings of another.
#[derive(Clone, Debug)]
pub struct Resolved {
    command_line: CommandLine,
    settings: Settings,
}

impl Resolved {
    /// Of both files, and of what the command line may say about state.
    pub fn new(command_line: CommandLine, ours: Config, theirs: Config) -> Self {
        let settings = Settings::resolve(ours, theirs, &command_line);
        Self { command_line, settings }
    }

    /// The command line.
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }

    /// Every setting.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Settings {
    /// Whether the configuration is silent on who lays out the state.
    pub fn lacks_layout(&self) -> bool {
        self.layout.from == Origin::Default
    }

    /// The same settings for a sealed root of this layout, if the configuration is silent. A list of what an overlay over /etc keeps
    /// speaks for the overlay.
    #[must_use]
    pub fn for_sealed_root(mut self, layout: Layout) -> Self {
        if self.lacks_layout() && layout != self.layout.value {
            self.layout = Setting { value: layout, from: Origin::SealedRoot };
            if self.etc.from == Origin::Default && self.etc_keep.value.is_none() {
                self.etc = Setting { value: etc_of(layout), from: Origin::SealedRoot };
            }
        }
        self
    }

    /// Resolves both files and what the command line may say about state.
    fn resolve(ours: Config, theirs: Config, command_line: &CommandLine) -> Self {
        let layout = Setting::pick(ours.layout, None, Layout::Composefs);
        let default_etc = etc_of(layout.value);
        let mount = |mount: Option<StateMount>, transient: Option<bool>| {
            mount.or_else(|| transient.filter(|on| *on).map(|_| StateMount::Transient))
        };
        let ours_var = mount(ours.var.mount, ours.var.transient);
        let theirs_var = mount(theirs.var.mount, theirs.var.transient);
        let default_flags = || vec![MountFlag::Nosuid, MountFlag::Nodev];
        let mut var = Setting::pick(ours_var, theirs_var, StateMount::Bind);
        if var.from == Origin::Default && volatile_var(command_line) {
            var = Setting { value: StateMount::None, from: Origin::CommandLine };
        }
        Self {
            layout,
            karg: Setting::pick(ours.policy.karg, None, KargPolicy::Require),
            unverified: Setting::pick(ours.policy.unverified, None, UnverifiedPolicy::Refuse),
            secure_boot: Setting::pick(ours.policy.secure_boot, None, SecureBootPolicy::Report),
            alternatives: Setting::pick(ours.policy.alternatives, None, Alternatives::Refuse),
            firmware_strings: Setting::pick(ours.policy.firmware_strings, None, FirmwareStrings::Refuse),
            missing_verity: Setting::pick(ours.policy.missing_verity, None, MissingVerity::Refuse),
            check: Setting::pick(ours.policy.check, None, Check::Image),
            on_failure: Setting::pick(ours.policy.on_failure, None, OnFailure::Auto),
            failure_delay: Setting::pick(ours.policy.failure_delay, None, 10),
            transient_root: Setting::pick(ours.root.transient, theirs.root.transient, false),
            etc: Setting::pick(
                mount(ours.etc.mount, ours.etc.transient),
                mount(theirs.etc.mount, theirs.etc.transient),
                default_etc,
            ),
            etc_flags: Setting::pick(ours.etc.flags, theirs.etc.flags, default_flags()),
            etc_keep: Setting::pick(ours.etc.keep.map(Some), None, None),
            var,
            var_flags: Setting::pick(ours.var.flags, theirs.var.flags, default_flags()),
            sysroot: Setting::pick(ours.sysroot.mount, None, SysrootMount::ReadOnly),
        }
    }
}

/// What /etc is where the configuration does not say.
fn etc_of(layout: Layout) -> StateMount {
    match layout {
        Layout::Composefs => StateMount::Overlay,
        Layout::Bootc => StateMount::Bind,
    }
}

/// Whether `systemd.volatile=` has systemd provide /var.
fn volatile_var(command_line: &CommandLine) -> bool {
    matches!(command_line.last_value("systemd.volatile"), Some(b"state"))
}
