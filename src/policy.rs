//! Inputs to decisions: the only place that says what is allowed.
//!
//! Command line and configuration come from the signed UKI and may decide; nothing here ever looks at the disk.

use miniserde::Serialize;
use thiserror::Error;

use crate::cmdline::{BootRequest, CmdlineError, CommandLine, RequestedImage, RequestedVerification};
use crate::config::{
    Check, Config, KargPolicy, Layout, MissingVerity, MountFlag, OnFailure, SecureBootPolicy, StateMount, SysrootMount,
    UnverifiedPolicy,
};
use crate::firmware::SecureBoot;
use crate::names::names;

/// Where a setting's value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// [`crate::config::SEALROOT_TOML`]
    SealrootToml,
    /// [`crate::config::SETUP_ROOT_CONF_TOML`]
    SetupRootConf,
    /// The kernel command line.
    CommandLine,
}

names!(Origin:
    Default = "default",
    SealrootToml = "/usr/lib/sealroot/sealroot.toml",
    SetupRootConf = "/usr/lib/composefs/setup-root-conf.toml",
    CommandLine = "command line"
);

/// A value with its origin.
#[derive(Clone, Debug, Serialize)]
pub struct Setting<T> {
    value: T,
    from: Origin,
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
    #[serde(rename = "policy.missing-verity")]
    pub missing_verity: Setting<MissingVerity>,
    #[serde(rename = "policy.check")]
    pub check: Setting<Check>,
    #[serde(rename = "policy.on-failure")]
    pub on_failure: Setting<OnFailure>,
    #[serde(rename = "policy.failure-delay")]
    pub failure_delay: Setting<u16>,
    #[serde(rename = "root.transient")]
    pub transient_root: Setting<bool>,
    #[serde(rename = "etc.mount")]
    pub etc: Setting<StateMount>,
    #[serde(rename = "etc.flags")]
    pub etc_flags: Setting<Vec<MountFlag>>,
    #[serde(rename = "var.mount")]
    pub var: Setting<StateMount>,
    #[serde(rename = "var.flags")]
    pub var_flags: Setting<Vec<MountFlag>>,
    #[serde(rename = "sysroot.mount")]
    pub sysroot: Setting<SysrootMount>,
}

impl Settings {
    /// Resolves both files and what the command line may say about state.
    pub fn resolve(ours: Config, theirs: Config, command_line: &CommandLine) -> Self {
        let layout = Setting::pick(ours.layout, None, Layout::Composefs);
        let etc_default = match layout.value {
            Layout::Composefs => StateMount::Overlay,
            Layout::Bootc => StateMount::Bind,
        };
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
            missing_verity: Setting::pick(ours.policy.missing_verity, None, MissingVerity::Refuse),
            check: Setting::pick(ours.policy.check, None, Check::Image),
            on_failure: Setting::pick(ours.policy.on_failure, None, OnFailure::Auto),
            failure_delay: Setting::pick(ours.policy.failure_delay, None, 10),
            transient_root: Setting::pick(ours.root.transient, theirs.root.transient, false),
            etc: Setting::pick(
                mount(ours.etc.mount, ours.etc.transient),
                mount(theirs.etc.mount, theirs.etc.transient),
                etc_default,
            ),
            etc_flags: Setting::pick(ours.etc.flags, theirs.etc.flags, default_flags()),
            var,
            var_flags: Setting::pick(ours.var.flags, theirs.var.flags, default_flags()),
            sysroot: Setting::pick(ours.sysroot.mount, None, SysrootMount::ReadOnly),
        }
    }

    /// The first value that this release parses and cannot carry out yet.
    fn unsupported(&self) -> Option<(&'static str, &'static str)> {
        if self.unverified.value != UnverifiedPolicy::Refuse {
            return Some(("policy.unverified", "allow-without-secure-boot"));
        }
        if self.missing_verity.value != MissingVerity::Refuse {
            return Some(("policy.missing-verity", "enable"));
        }
        match self.check.value {
            Check::Digest | Check::Image => {}
            Check::Objects => return Some(("policy.check", "objects")),
            Check::Data => return Some(("policy.check", "data")),
        }
        match self.on_failure.value {
            OnFailure::Auto | OnFailure::Emergency => None,
            OnFailure::Reboot => Some(("policy.on-failure", "reboot")),
            OnFailure::Poweroff => Some(("policy.on-failure", "poweroff")),
            OnFailure::Halt => Some(("policy.on-failure", "halt")),
        }
    }
}

/// Whether `systemd.volatile=` has systemd provide /var (`state`, `overlay`).
fn volatile_var(command_line: &CommandLine) -> bool {
    matches!(command_line.last_value("systemd.volatile"), Some(b"state" | b"overlay"))
}

/// What to do, decided.
#[derive(Debug)]
pub enum Decision {
    /// Mount this root, or refuse.
    Seal(Policy),
    /// No karg asks for a root and the configuration says that this is fine.
    NothingToDo(Settings),
}

/// A boot that is to be sealed: what may be mounted, and how.
#[derive(Clone, Debug)]
pub struct Policy {
    images: Vec<RequestedImage>,
    settings: Settings,
}

impl Policy {
    /// The acceptable images, the preferred one first; never empty.
    pub fn images(&self) -> &[RequestedImage] {
        &self.images
    }

    /// Every setting.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Why the inputs are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The command line contradicts itself or a karg is malformed.
    #[error("kernel command line")]
    CommandLine(#[from] CmdlineError),
    /// No karg.
    #[error("kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither")]
    NoKarg,
    /// A `?`.
    #[error(
        "kernel command line: expected verification to be required (policy.unverified = \"refuse\"), found '?' in karg \
         '{karg}'"
    )]
    Unverified {
        /// The key of the karg.
        karg: &'static str,
    },
    /// Secure Boot is required and not enforced.
    #[error("Secure Boot: expected 'enforced' (policy.secure-boot = \"require\"), found '{}'", found.name())]
    SecureBoot {
        /// What the firmware says.
        found: SecureBoot,
    },
    /// A value of a later release.
    #[error("{key} = \"{value}\": not supported yet")]
    Unsupported {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        value: &'static str,
    },
}

/// Decides, from everything that was asked. `settings` must come from the same command line.
pub fn decide(
    command_line: &CommandLine,
    settings: Settings,
    secure_boot: SecureBoot,
) -> Result<Decision, PolicyError> {
    if let Some((key, value)) = settings.unsupported() {
        return Err(PolicyError::Unsupported { key, value });
    }
    if settings.secure_boot.value == SecureBootPolicy::Require && secure_boot != SecureBoot::Enforced {
        return Err(PolicyError::SecureBoot { found: secure_boot });
    }
    let request = BootRequest::try_from(command_line)?;
    let Some(first) = request.images().first() else {
        return match settings.karg.value {
            KargPolicy::Require => Err(PolicyError::NoKarg),
            KargPolicy::Optional => Ok(Decision::NothingToDo(settings)),
        };
    };
    match request.verification() {
        RequestedVerification::Required => Ok(Decision::Seal(Policy { images: request.images().to_vec(), settings })),
        RequestedVerification::Optional => Err(PolicyError::Unverified { karg: first.karg() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "composefs=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn settings(line: &str, ours: &str, theirs: &str) -> Settings {
        Settings::resolve(
            Config::from_sealroot_toml(ours).unwrap(),
            Config::from_setup_root_conf(theirs).unwrap(),
            &CommandLine::split(line.as_bytes()),
        )
    }

    fn decided(line: &str, ours: &str, secure_boot: SecureBoot) -> Result<Decision, String> {
        decide(&CommandLine::split(line.as_bytes()), settings(line, ours, ""), secure_boot)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_strict() {
        let settings = settings("", "", "");
        assert_eq!(settings.karg.value, KargPolicy::Require);
        assert_eq!(settings.check.value, Check::Image);
        assert_eq!(settings.etc.value, StateMount::Overlay);
        assert_eq!(settings.var.value, StateMount::Bind);
        assert_eq!(settings.var_flags.value, [MountFlag::Nosuid, MountFlag::Nodev]);
        assert_eq!(settings.sysroot.value, SysrootMount::ReadOnly);
        assert_eq!(settings.layout.from, Origin::Default);
    }

    #[test]
    fn our_file_wins_and_theirs_fills_in() {
        let found = settings("", "[etc]\nmount = \"bind\"\n", "[etc]\ntransient = true\n[root]\ntransient = true\n");
        assert_eq!((found.etc.value, found.etc.from), (StateMount::Bind, Origin::SealrootToml));
        assert_eq!((found.transient_root.value, found.transient_root.from), (true, Origin::SetupRootConf));
        let found = settings("", "layout = \"bootc\"\n", "[var]\nmount = \"none\"\n");
        assert_eq!((found.etc.value, found.etc.from), (StateMount::Bind, Origin::Default));
        assert_eq!((found.var.value, found.var.from), (StateMount::None, Origin::SetupRootConf));
    }

    #[test]
    fn volatile_leaves_var_alone_unless_configured() {
        let found = settings("systemd.volatile=state", "", "");
        assert_eq!((found.var.value, found.var.from), (StateMount::None, Origin::CommandLine));
        let found = settings("systemd.volatile=overlay", "[var]\nmount = \"transient\"\n", "");
        assert_eq!(found.var.value, StateMount::Transient);
        assert_eq!(settings("systemd.volatile=no", "", "").var.value, StateMount::Bind);
    }

    #[test]
    fn decisions() {
        assert!(matches!(decided(DIGEST, "", SecureBoot::Off), Ok(Decision::Seal(_))));
        assert!(matches!(
            decided("quiet", "[policy]\nkarg = \"optional\"\n", SecureBoot::Off),
            Ok(Decision::NothingToDo(_))
        ));
        let required = "[policy]\nsecure-boot = \"require\"\n";
        assert!(matches!(decided(DIGEST, required, SecureBoot::Enforced), Ok(Decision::Seal(_))));
        for (line, ours, message) in [
            ("quiet", "", "kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither"),
            (
                &DIGEST.replace('=', "=?"),
                "",
                "kernel command line: expected verification to be required (policy.unverified = \"refuse\"), found \
                 '?' in karg 'composefs'",
            ),
            (DIGEST, required, "Secure Boot: expected 'enforced' (policy.secure-boot = \"require\"), found 'off'"),
            ("composefs=1", "[policy]\nkarg = \"optional\"\n", "kernel command line"),
            (DIGEST, "[policy]\ncheck = \"objects\"\n", "policy.check = \"objects\": not supported yet"),
            (DIGEST, "[policy]\ncheck = \"data\"\n", "policy.check = \"data\": not supported yet"),
            (DIGEST, "[policy]\non-failure = \"halt\"\n", "policy.on-failure = \"halt\": not supported yet"),
            (DIGEST, "[policy]\non-failure = \"reboot\"\n", "policy.on-failure = \"reboot\": not supported yet"),
            (DIGEST, "[policy]\non-failure = \"poweroff\"\n", "policy.on-failure = \"poweroff\": not supported yet"),
            (
                DIGEST,
                "[policy]\nmissing-verity = \"enable\"\n",
                "policy.missing-verity = \"enable\": not supported yet",
            ),
            (
                DIGEST,
                "[policy]\nunverified = \"allow-without-secure-boot\"\n",
                "policy.unverified = \"allow-without-secure-boot\": not supported yet",
            ),
        ] {
            assert_eq!(decided(line, ours, SecureBoot::Off).unwrap_err(), message);
        }
    }
}
