//! The configuration inside the initramfs: TOML in, typed settings out.
//!
//! Every setting is optional here; defaults and contradictions are [`crate::policy`]'s matter. An unknown key is an
//! error in either file: a misspelt key must not weaken a machine in silence.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// sealroot's own file.
pub const SEALROOT_TOML: &str = "/usr/lib/sealroot/sealroot.toml";
/// The file of the composefs tools, read for `[root]`, `[etc]` and `[var]` where ours is silent on them.
pub const SETUP_ROOT_CONF_TOML: &str = "/usr/lib/composefs/setup-root-conf.toml";

/// A file's content with the file's name: what a setting's origin is reported as.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who lays out the state, and what /etc defaults to.
    pub layout: Option<Layout>,
    /// `[policy]`
    pub policy: PolicySection,
    /// `[root]`
    pub root: RootSection,
    /// `[etc]`
    pub etc: EtcSection,
    /// `[var]`
    pub var: VarSection,
    /// `[sysroot]`
    pub sysroot: SysrootSection,
}

/// `layout`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// /etc is an overlay by default.
    Composefs,
    /// /etc is a bind mount by default.
    Bootc,
}

/// `policy.karg`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KargPolicy {
    /// No composefs karg is a refusal.
    Require,
    /// No composefs karg means that there is nothing to do.
    Optional,
}

/// `policy.unverified`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnverifiedPolicy {
    /// A `?` karg is a refusal.
    Refuse,
    /// A `?` karg boots unverified while Secure Boot is not enforced.
    AllowWithoutSecureBoot,
}

/// `policy.secure-boot`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBootPolicy {
    /// Only reported.
    Report,
    /// A boot without enforced Secure Boot is a refusal.
    Require,
}

/// `policy.missing-verity`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingVerity {
    /// An image file without fs-verity is a refusal.
    Refuse,
    /// fs-verity is enabled after a digest in user space.
    Enable,
}

/// `policy.check`: how much is checked before the pivot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateMount {
    /// An overlay over the sealed directory, its changes kept in the state directory.
    Overlay,
    /// The state directory itself.
    Bind,
    /// An overlay over the sealed directory, its changes gone at reboot.
    #[serde(alias = "volatile")]
    Transient,
    /// The sealed directory as it is.
    #[serde(alias = "root")]
    None,
}

/// `mount` of `[sysroot]`: the physical root inside the booted system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SysrootMount {
    /// Mounted read-only.
    #[serde(rename = "readonly")]
    ReadOnly,
    /// Mounted read-write.
    Writable,
    /// Not there.
    None,
}

/// One of `flags` of `[etc]` and `[var]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountFlag {
    /// setuid and setgid bits have no effect.
    Nosuid,
    /// Device nodes have no effect.
    Nodev,
    /// Nothing can be executed.
    Noexec,
}

/// `[policy]`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the key of the same name, its type says what it means")]
pub struct PolicySection {
    pub karg: Option<KargPolicy>,
    pub unverified: Option<UnverifiedPolicy>,
    pub secure_boot: Option<SecureBootPolicy>,
    pub missing_verity: Option<MissingVerity>,
    pub check: Option<Check>,
    pub on_failure: Option<OnFailure>,
    /// Seconds that the reason stays on the screen.
    pub failure_delay: Option<u16>,
}

/// `[root]`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootSection {
    /// Whether a writable tmpfs overlay lies over the sealed root.
    pub transient: Option<bool>,
}

/// `[etc]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcSection {
    /// Where /etc comes from.
    pub mount: Option<StateMount>,
    /// The composefs tools' other way to say `mount = "transient"`.
    pub transient: Option<bool>,
    /// The flags of the mount at /etc.
    pub flags: Option<Vec<MountFlag>>,
}

/// `[var]`, with the keys of `[etc]`
pub type VarSection = EtcSection;

/// `[sysroot]`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SysrootSection {
    /// The physical root inside the booted system.
    pub mount: Option<SysrootMount>,
}

/// The keys of [`SEALROOT_TOML`].
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SealrootFile {
    layout: Option<Layout>,
    policy: PolicySection,
    root: RootSection,
    etc: EtcSection,
    var: VarSection,
    sysroot: SysrootSection,
}

/// The keys of [`SETUP_ROOT_CONF_TOML`].
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SetupRootFile {
    root: RootSection,
    etc: EtcSection,
    var: VarSection,
}

/// Why a configuration file is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}:{line}: {reason}")]
pub struct ConfigError {
    file: &'static str,
    line: usize,
    reason: String,
}

impl Config {
    /// Parses [`SEALROOT_TOML`].
    pub fn from_sealroot_toml(text: &str) -> Result<Self, ConfigError> {
        let SealrootFile { layout, policy, root, etc, var, sysroot } = parse(SEALROOT_TOML, text)?;
        Ok(Self { layout, policy, root, etc, var, sysroot })
    }

    /// Parses [`SETUP_ROOT_CONF_TOML`].
    pub fn from_setup_root_conf(text: &str) -> Result<Self, ConfigError> {
        let SetupRootFile { root, etc, var } = parse(SETUP_ROOT_CONF_TOML, text)?;
        Ok(Self { root, etc, var, ..Self::default() })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(file: &'static str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        ConfigError { file, line, reason: error.message().replace('\n', ", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_key() {
        let config = Config::from_sealroot_toml(
            r#"
            layout = "bootc"
            [policy]
            karg = "optional"
            unverified = "allow-without-secure-boot"
            secure-boot = "require"
            missing-verity = "enable"
            check = "data"
            on-failure = "poweroff"
            failure-delay = 3
            [root]
            transient = true
            [etc]
            mount = "volatile"
            flags = []
            [var]
            mount = "root"
            flags = ["nosuid", "noexec"]
            [sysroot]
            mount = "none"
            "#,
        )
        .unwrap();
        assert_eq!(config.layout, Some(Layout::Bootc));
        assert_eq!(config.policy.karg, Some(KargPolicy::Optional));
        assert_eq!(config.policy.unverified, Some(UnverifiedPolicy::AllowWithoutSecureBoot));
        assert_eq!(config.policy.secure_boot, Some(SecureBootPolicy::Require));
        assert_eq!(config.policy.missing_verity, Some(MissingVerity::Enable));
        assert_eq!(config.policy.check, Some(Check::Data));
        assert_eq!(config.policy.on_failure, Some(OnFailure::Poweroff));
        assert_eq!(config.policy.failure_delay, Some(3));
        assert_eq!(config.root.transient, Some(true));
        assert_eq!(config.etc.mount, Some(StateMount::Transient));
        assert_eq!(config.etc.flags, Some(vec![]));
        assert_eq!(config.var.mount, Some(StateMount::None));
        assert_eq!(config.var.flags, Some(vec![MountFlag::Nosuid, MountFlag::Noexec]));
        assert_eq!(config.sysroot.mount, Some(SysrootMount::None));
    }

    #[test]
    fn the_composefs_tools_file() {
        let config = Config::from_setup_root_conf("[etc]\ntransient = true\n[root]\ntransient = true\n").unwrap();
        assert_eq!((config.etc.transient, config.root.transient), (Some(true), Some(true)));
        assert!(Config::from_setup_root_conf("[policy]\n").is_err());
    }

    #[test]
    fn refusals_name_file_line_and_key() {
        for (text, message) in [
            (
                "\n[policy]\nkrag = \"require\"\n",
                "/usr/lib/sealroot/sealroot.toml:3: unknown field `krag`, expected one of `karg`, `unverified`, \
                 `secure-boot`, `missing-verity`, `check`, `on-failure`, `failure-delay`",
            ),
            (
                "[policy]\ncheck = \"none\"\n",
                "/usr/lib/sealroot/sealroot.toml:2: unknown variant `none`, expected one of `digest`, `image`, \
                 `objects`, `data`",
            ),
            ("[extra]\n", "/usr/lib/sealroot/sealroot.toml:1: unknown field `extra`, "),
            ("[policy]\nfailure-delay = -1\n", "/usr/lib/sealroot/sealroot.toml:2: invalid value: integer `-1`"),
            ("[policy]\nkarg = 7\n", "/usr/lib/sealroot/sealroot.toml:2: "),
            ("[policy", "/usr/lib/sealroot/sealroot.toml:1: "),
            ("[var]\nflags = [\"suid\"]\n", "/usr/lib/sealroot/sealroot.toml:2: unknown variant `suid`"),
        ] {
            let found = Config::from_sealroot_toml(text).unwrap_err().to_string();
            assert!(found.starts_with(message), "{text:?}: {found}");
            assert!(!found.contains('\n'), "{text:?}: {found}");
        }
    }
}
