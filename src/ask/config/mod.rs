//! The configuration inside the initramfs: TOML in, typed settings out.
//!
//! Every setting is optional here; defaults and contradictions are [`crate::ask::policy`]'s matter. An unknown key is an
//! error in either file: a misspelt key must not weaken a machine in silence.

mod document;
mod settings;

pub use settings::*;

use crate::ask::keep::KeepList;
use crate::formats::names::names;
use crate::refusal::Refusal;
use document::{Item, Value};

/// sealroot's own file.
pub const SEALROOT_TOML: &str = "/usr/lib/sealroot/sealroot.toml";
/// The file of the composefs tools, read for `[root]`, `[etc]` and `[var]` where ours is silent on them.
pub const SETUP_ROOT_CONF_TOML: &str = "/usr/lib/composefs/setup-root-conf.toml";

/// What a file sets.
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

impl Config {
    /// Parses [`SEALROOT_TOML`].
    pub fn from_sealroot_toml(text: &str) -> Result<Self, Refusal> {
        parse(SEALROOT_TOML, text, &[OUR_KEYS, STATE_KEYS].concat())
    }

    /// Parses [`SETUP_ROOT_CONF_TOML`].
    pub fn from_setup_root_conf(text: &str) -> Result<Self, Refusal> {
        parse(SETUP_ROOT_CONF_TOML, text, STATE_KEYS)
    }

    /// What [`SEALROOT_TOML`] says about refusals, `policy.on-failure` and `policy.failure-delay`, whatever is wrong with the
    /// rest of it. One of them that is wrong itself, or set more than once, is not set.
    pub fn on_refusal(text: &str) -> Self {
        let mut config = Self::default();
        let items = document::readable_items(text);
        for (table, name, set) in OUR_KEYS.iter().filter(|(_, name, _)| REFUSAL_KEYS.contains(name)) {
            let mut found = items.iter().filter(|item| item.value.is_some() && is_key(&item.path, table, name));
            if let (Some(Item { value: Some(value), .. }), None) = (found.next(), found.next()) {
                // Its error is told by who reads the whole file.
                let _ = set(&mut config, value.clone());
            }
        }
        config
    }
}

/// A key: its table, its name, and how its value gets into a [`Config`].
type Key = (&'static [&'static str], &'static str, fn(&mut Config, Value) -> Result<(), String>);

/// The keys that only [`SEALROOT_TOML`] has.
const OUR_KEYS: &[Key] = &[
    (&[], "layout", |config, value| set(&mut config.layout, value)),
    (&["policy"], "karg", |config, value| set(&mut config.policy.karg, value)),
    (&["policy"], "unverified", |config, value| set(&mut config.policy.unverified, value)),
    (&["policy"], "secure-boot", |config, value| set(&mut config.policy.secure_boot, value)),
    (&["policy"], "alternatives", |config, value| set(&mut config.policy.alternatives, value)),
    (&["policy"], "firmware-strings", |config, value| set(&mut config.policy.firmware_strings, value)),
    (&["policy"], "missing-verity", |config, value| set(&mut config.policy.missing_verity, value)),
    (&["policy"], "check", |config, value| set(&mut config.policy.check, value)),
    (&["policy"], "on-failure", |config, value| set(&mut config.policy.on_failure, value)),
    (&["policy"], "failure-delay", |config, value| set(&mut config.policy.failure_delay, value)),
    (&["sysroot"], "mount", |config, value| set(&mut config.sysroot.mount, value)),
    (&["etc"], "keep", |config, value| set(&mut config.etc.keep, value)),
];

/// Those of them that say what follows a refusal.
const REFUSAL_KEYS: [&str; 2] = ["on-failure", "failure-delay"];

/// The keys of both files.
const STATE_KEYS: &[Key] = &[
    (&["root"], "transient", |config, value| set(&mut config.root.transient, value)),
    (&["etc"], "mount", |config, value| set(&mut config.etc.mount, value)),
    (&["etc"], "transient", |config, value| set(&mut config.etc.transient, value)),
    (&["etc"], "flags", |config, value| set(&mut config.etc.flags, value)),
    (&["var"], "mount", |config, value| set(&mut config.var.mount, value)),
    (&["var"], "transient", |config, value| set(&mut config.var.transient, value)),
    (&["var"], "flags", |config, value| set(&mut config.var.flags, value)),
];

fn parse(file: &'static str, text: &str, keys: &[Key]) -> Result<Config, Refusal> {
    let failed = |offset, reason: String| {
        let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Refusal::of(format!("{file}:{line}: {reason}"))
    };
    let items = document::items(text).map_err(|error| failed(error.offset, error.reason))?;
    let mut config = Config::default();
    let mut tables: Vec<Vec<String>> = Vec::new();
    for Item { offset, path, value } in items {
        let result = match value {
            Some(value) => set_key(&mut config, keys, &mut tables, &path, value),
            None => open_table(keys, &mut tables, &path),
        };
        result.map_err(|reason| failed(offset, reason))?;
    }
    Ok(config)
}

fn open_table(keys: &[Key], tables: &mut Vec<Vec<String>>, path: &[String]) -> Result<(), String> {
    if !keys.iter().any(|(table, ..)| path == *table) {
        let mut known = Vec::new();
        for table in keys.iter().filter_map(|(table, ..)| table.first().copied()) {
            if !known.contains(&table) {
                known.push(table);
            }
        }
        return Err(format!("unknown table '{}', expected {}", dotted(path), one_of(&known)));
    }
    if tables.iter().any(|table| table == path) {
        return Err(format!("table '{}' is defined twice", dotted(path)));
    }
    tables.push(path.to_vec());
    Ok(())
}

fn set_key(
    config: &mut Config,
    keys: &[Key],
    tables: &mut Vec<Vec<String>>,
    path: &[String],
    value: Value,
) -> Result<(), String> {
    let Some((name, table)) = path.split_last() else { return Ok(()) };
    let Some((.., set)) = keys.iter().find(|(known, key, _)| table == *known && name == key) else {
        let known: Vec<_> = keys.iter().filter_map(|(known, key, _)| (table == *known).then_some(*key)).collect();
        let known = if known.is_empty() { "a known table".into() } else { one_of(&known) };
        return Err(format!("unknown key '{}', expected {known}", dotted(path)));
    };
    // A dotted key defines its table as a header does.
    if !tables.iter().any(|known| known == table) {
        tables.push(table.to_vec());
    }
    set(config, value).map_err(|reason| format!("{}: {reason}", dotted(path)))
}

fn is_key(path: &[String], table: &[&str], name: &str) -> bool {
    path.split_last().is_some_and(|(last, parents)| last == name && parents == table)
}

/// A name for messages, whatever it consists of.
fn dotted(path: &[String]) -> String {
    path.join(".").escape_default().to_string()
}

/// `one of 'a', 'b'`
fn one_of(names: &[&str]) -> String {
    format!("one of '{}'", names.join("', '"))
}

fn set<T: FromValue>(slot: &mut Option<T>, value: Value) -> Result<(), String> {
    if slot.is_some() {
        return Err("set twice".into());
    }
    *slot = Some(T::from_value(value)?);
    Ok(())
}

/// A type that a key can have. The error is what was expected and what was found.
trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(value) => Ok(value),
            other => Err(format!("expected true or false, found {other}")),
        }
    }
}

impl FromValue for u8 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Self::try_from(number).map_err(|_| value),
            other => Err(other),
        }
        .map_err(|found| format!("expected an integer from 0 to {}, found {found}", Self::MAX))
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(format!("expected a string, found {other}")),
        }
    }
}

impl FromValue for KeepList {
    fn from_value(value: Value) -> Result<Self, String> {
        Self::try_from(Vec::<String>::from_value(value)?).map_err(|error| error.to_string())
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Array(elements) => elements.into_iter().map(T::from_value).collect(),
            other => Err(format!("expected an array, found {other}")),
        }
    }
}

/// Gives an enum the names of its values, for the report and for files; `or` another that files may say.
macro_rules! named {
    ($type:ident: $($value:ident = $name:literal $(or $other:literal)?),+) => {
        names!($type: $($value = $name),+);

        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    $(Value::String(name) if name == $name $(|| name == $other)? => Ok(Self::$value),)+
                    other => Err(format!("expected {}, found {other}", one_of(&[$($name),+]))),
                }
            }
        }
    };
}

named!(Layout: Composefs = "composefs", Bootc = "bootc");
named!(KargPolicy: Require = "require", Optional = "optional");
named!(UnverifiedPolicy: Refuse = "refuse", AllowWithoutSecureBoot = "allow-without-secure-boot");
named!(SecureBootPolicy: Report = "report", Require = "require");
named!(Alternatives: Refuse = "refuse", FirstExisting = "first-existing");
named!(FirmwareStrings: Refuse = "refuse", Report = "report");
named!(MissingVerity: Refuse = "refuse", Enable = "enable");
named!(Check: Digest = "digest", Image = "image", Objects = "objects", Data = "data");
named!(OnFailure: Auto = "auto", Emergency = "emergency", Reboot = "reboot", Poweroff = "poweroff", Halt = "halt");
named!(StateMount: Overlay = "overlay", Bind = "bind", Transient = "transient" or "volatile", None = "none" or "root");
named!(SysrootMount: ReadOnly = "readonly", Writable = "writable", None = "none");
named!(MountFlag: Nosuid = "nosuid", Nodev = "nodev", Noexec = "noexec");

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
            alternatives = "first-existing"
            firmware-strings = "report"
            missing-verity = "enable"
            check = "data"
            on-failure = "poweroff"
            failure-delay = 3
            [root]
            transient = true
            [etc]
            mount = "volatile"
            flags = []
            keep = ["machine-id", "ssh/ssh_host_*"]
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
        assert_eq!(config.policy.alternatives, Some(Alternatives::FirstExisting));
        assert_eq!(config.policy.firmware_strings, Some(FirmwareStrings::Report));
        assert_eq!(config.policy.missing_verity, Some(MissingVerity::Enable));
        assert_eq!(config.policy.check, Some(Check::Data));
        assert_eq!(config.policy.on_failure, Some(OnFailure::Poweroff));
        assert_eq!(config.policy.failure_delay, Some(3));
        assert_eq!(config.root.transient, Some(true));
        assert_eq!(config.etc.mount, Some(StateMount::Transient));
        assert_eq!(config.etc.flags, Some(vec![]));
        let keep = config.etc.keep.unwrap();
        assert!(keep.matches(b"ssh/ssh_host_rsa_key") && !keep.matches(b"ssh/sshd_config"));
        assert_eq!(config.var.mount, Some(StateMount::None));
        assert_eq!(config.var.flags, Some(vec![MountFlag::Nosuid, MountFlag::Noexec]));
        assert_eq!(config.sysroot.mount, Some(SysrootMount::None));
    }

    #[test]
    fn the_composefs_tools_file() {
        let config = Config::from_setup_root_conf("[etc]\ntransient = true\n[root]\ntransient = true\n").unwrap();
        assert_eq!((config.etc.transient, config.root.transient), (Some(true), Some(true)));
        assert!(Config::from_setup_root_conf("[policy]\n").is_err());
        // Only the file that a builder of sealroot writes says what is kept.
        let message = "2: unknown key 'etc.keep', expected one of 'mount', 'transient', 'flags'";
        let found = Config::from_setup_root_conf("[etc]\nkeep = []\n").unwrap_err().to_string();
        assert_eq!(found, format!("{SETUP_ROOT_CONF_TOML}:{message}"));
    }

    #[test]
    fn refusals_name_file_line_and_key() {
        for (text, message) in [
            (
                "\n[policy]\nkrag = \"require\"\n",
                "3: unknown key 'policy.krag', expected one of 'karg', 'unverified', 'secure-boot', 'alternatives', 'firmware-strings', \
                 'missing-verity', 'check', 'on-failure', 'failure-delay'",
            ),
            (
                "[policy]\ncheck = \"none\"\n",
                "2: policy.check: expected one of 'digest', 'image', 'objects', 'data', found 'none'",
            ),
            ("[policy]\nkarg = 7\n", "2: policy.karg: expected one of 'require', 'optional', found 7"),
            (
                "[policy]\nkarg = \"Require\"\n",
                "2: policy.karg: expected one of 'require', 'optional', found 'Require'",
            ),
            ("[extra]\n", "1: unknown table 'extra', expected one of 'policy', 'sysroot', 'etc', 'root', 'var'"),
            ("[policy.extra]\n", "1: unknown table 'policy.extra', expected one of 'policy', "),
            ("[policy.karg]\n", "1: unknown table 'policy.karg', expected one of 'policy', "),
            ("policy = \"require\"\n", "1: unknown key 'policy', expected one of 'layout'"),
            ("extra.karg = 1\n", "1: unknown key 'extra.karg', expected a known table"),
            ("\"policy.karg\" = \"optional\"\n", "1: unknown key 'policy.karg', expected one of 'layout'"),
            ("\"\".layout = \"bootc\"\n", "1: unknown key '.layout', expected a known table"),
            ("[\"\"]\nlayout = \"bootc\"\n", "1: unknown table '', expected one of "),
            ("\"a\\nb\" = 1\n", "1: unknown key 'a\\nb', expected "),
            ("[policy]\nfailure-delay = -1\n", "2: policy.failure-delay: expected an integer from 0 to 255, found -1"),
            (
                "[policy]\nfailure-delay = 65536\n",
                "2: policy.failure-delay: expected an integer from 0 to 255, found 65536",
            ),
            (
                "[policy]\nfailure-delay = 99999999999999999999\n",
                "2: policy.failure-delay: expected an integer from 0 to 255, found 99999999999999999999",
            ),
            (
                "[policy]\nfailure-delay = 1.5\n",
                "2: policy.failure-delay: expected an integer from 0 to 255, found 1.5",
            ),
            (
                "[policy]\nfailure-delay = 1979-05-27\n",
                "2: policy.failure-delay: expected an integer from 0 to 255, found 1979-05-27",
            ),
            ("[root]\ntransient = \"true\"\n", "2: root.transient: expected true or false, found 'true'"),
            ("[var]\nflags = [\"suid\"]\n", "2: var.flags: expected one of 'nosuid', 'nodev', 'noexec', found 'suid'"),
            ("[var]\nflags = [\"nosuid\",\n7]\n", "2: var.flags: expected one of 'nosuid', 'nodev', 'noexec', found 7"),
            ("[var]\nflags = \"nosuid\"\n", "2: var.flags: expected an array, found 'nosuid'"),
            ("[etc]\nmount = [\"bind\"]\n", "2: etc.mount: expected one of 'overlay', "),
            ("[etc]\nmount = \"bind\"\nmount = \"bind\"\n", "3: etc.mount: set twice"),
            ("layout = \"bootc\"\n\"layout\" = \"bootc\"\n", "2: layout: set twice"),
            ("[etc]\nkeep = \"machine-id\"\n", "2: etc.keep: expected an array, found 'machine-id'"),
            ("[etc]\nkeep = [\"a\", 7]\n", "2: etc.keep: expected a string, found 7"),
            ("[etc]\nkeep = [\"/etc/a\"]\n", "2: etc.keep: expected a path relative to /etc, found '/etc/a'"),
            ("[var]\nkeep = []\n", "2: unknown key 'var.keep', expected one of 'mount', 'transient', 'flags'"),
            ("[etc]\n[var]\n[etc]\n", "3: table 'etc' is defined twice"),
            ("etc.mount = \"bind\"\n[etc]\n", "2: table 'etc' is defined twice"),
            ("etc = { mount = \"bind\" }\n", "1: inline tables are not supported"),
            ("[[etc]]\nmount = \"bind\"\n", "1: arrays of tables are not supported"),
            ("[var]\nflags = [[\"nosuid\"]]\n", "2: arrays in arrays are not supported"),
            ("[var]\nflags = [{}]\n", "2: inline tables are not supported"),
        ] {
            let found = Config::from_sealroot_toml(text).unwrap_err().to_string();
            assert!(found.starts_with(&format!("{SEALROOT_TOML}:{message}")), "{text:?}: {found}");
            assert!(!found.contains('\n'), "{text:?}: {found}");
        }
    }

    /// What follows a refusal does not depend on the part that is broken.
    #[test]
    fn refusals_of_a_broken_file() {
        let (both, none) = ((Some(OnFailure::Reboot), Some(3)), (None, None));
        let (action, delay) = ((both.0, None), (None, both.1));
        let keys = "[policy]\non-failure = \"reboot\"\nfailure-delay = 3\n";
        for (before, after) in [
            ("", ""),
            ("layout = \"none\"\n", "check = 7\nkrag = 1\n[extra]\n"),
            ("[etc]\nmount = \"bind\"\nmount = \"bind\"\n", "[policy]\n"),
            ("etc = { mount = \"bind\" }\n", "[[etc]]\nmount = \"bind\"\n"),
            ("[var]\nflags = [[\"nosuid\"],\n\"nodev\"]\n", "\n[policy.on-failure]\nx = [[1],\n\"halt\"]\n"),
            ("", "[policy\n"),
            ("", "[etc\non-failure = \"halt\"\n"),
            ("", "check = \n"),
            ("", "check = \"\"\"image\n"),
            ("", "x on-failure = \"halt\"\n"),
            ("", "[policy.]\non-failure = \"halt\"\n"),
            ("", "[[policy]]\non-failure = \"halt\"\n"),
            ("", &format!("[policy.{}]\non-failure = \"halt\"\n", "a".repeat(65))),
            ("", &format!("{}.on-failure = \"halt\"\n", "a".repeat(65))),
            ("layout = \"bootc\nlayout = \n]\n= 1\nlayout\n", "layout = \"\\x\""),
            ("[policy\n", ""),
        ] {
            let found = Config::on_refusal(&format!("{before}{keys}{after}")).policy;
            assert_eq!((found.on_failure, found.failure_delay), both, "{before:?}, {after:?}");
            assert!(found.check.is_none());
        }
        for (text, expected) in [
            ("policy.on-failure = \"reboot\"\npolicy.failure-delay = 256\n", action),
            ("policy.on-failure = \"again\"\npolicy.failure-delay = 3\n", delay),
            ("policy.on-failure = \npolicy.failure-delay = 3\n", delay),
            ("policy.failure-delay = 3\n[policy]\non-failure = \"reboot\"\non-failure = \"halt\"\n", delay),
            ("[policy]\non-failure = \"reboot\"\n[policy]\non-failure = \"reboot\"\nfailure-delay = 3\n", delay),
            ("[policy]\non-failure = \"reboot\"\n\"on-failure\" = 7\n", none),
            ("policy.on-failure = [\"reboot\"]\n", none),
            ("on-failure = \"reboot\"\n[etc]\nfailure-delay = 3\n", none),
            ("x = \"\"\"\n[policy]\non-failure = \"reboot\"\n", none),
            ("", none),
        ] {
            let found = Config::on_refusal(text).policy;
            assert_eq!((found.on_failure, found.failure_delay), expected, "{text:?}");
        }
    }

    #[test]
    fn every_name_of_every_value() {
        for text in [
            "layout = \"composefs\"",
            "policy.karg = \"require\"\npolicy.check = \"image\"",
            "[policy]\nunverified = \"refuse\"\nsecure-boot = \"report\"\nmissing-verity = \"refuse\"",
            "[policy]\nkarg = 'require' # comment\r\ncheck = \"\"\"digest\"\"\"\r\n\r\n",
            "\u{feff}[ policy ]\n\"ka\\u0072g\" = \"\\u0072equire\"\nfailure-delay = 0xff",
            "[policy]\nfailure-delay = +2_55\non-failure = \"emergency\"",
            "[var]\nmount = \"bind\"\nflags = [ # why\n  \"nodev\",\n  \"noexec\",\n]\ntransient = false",
            "[sysroot]\nmount = \"readonly\"\n[etc]\nmount = \"overlay\"",
            "[sysroot]\nmount = \"writable\"\n[etc]\nmount = \"transient\"",
            "[etc]\nmount = \"none\"",
            "[policy]\n[etc]\n",
            "",
        ] {
            Config::from_sealroot_toml(text).unwrap();
        }
        let delay = |text| Config::from_sealroot_toml(text).unwrap().policy.failure_delay;
        assert_eq!(delay("policy.failure-delay = 0xff"), Some(255));
        assert_eq!(delay("policy.failure-delay = 2_55"), Some(255));
        assert_eq!(StateMount::None.name(), "none");
    }

    #[test]
    fn no_text_is_a_panic() {
        let nested = |open: &str| format!("layout = {}", open.repeat(65_536));
        for text in [
            "[policy",
            "[policy\n",
            "[]",
            "[.]",
            "[policy.]",
            "]",
            "=",
            "= 1",
            "karg",
            "karg =",
            "karg = =",
            ".karg = 1",
            "policy..karg = 1",
            "layout = \"bootc",
            "layout = 'bootc\n",
            "layout = \"\"\"bootc",
            "layout = \"\\x\"",
            "layout = \"\\ud800\"",
            "layout = \"\\",
            "layout = \"bootc\" layout = \"bootc\"",
            "layout = \"bo\u{0}otc\"",
            "layout = \"b\u{f6}\u{1f4a5}tc\"",
            "layout = \u{f6}",
            "layout = +\u{f6}",
            "layout = 0x\u{f6}",
            "layout = +-0x_",
            "layout = 0_",
            "layout = 1e",
            "layout = 1979-99-99T",
            "layout = tru",
            "layout = inf",
            "layout = -nan",
            "layout = [",
            "layout = [,]",
            "layout = [1 2]",
            "layout = [1]]",
            "layout = {",
            "layout = {a",
            "layout = {a=[{",
            "etc]]\n[[etc",
            "\u{f6} = 1",
            "\r",
            "\u{0}",
            "\u{feff}\u{feff}",
            &nested("["),
            &nested("{a="),
            &nested("[{a="),
            &nested("a."),
            &nested("\"\\"),
            &format!("[{}]", "a.".repeat(65_536)),
            &"[".repeat(65_536),
        ] {
            let found = Config::from_sealroot_toml(text).unwrap_err().to_string();
            assert!(found.starts_with(SEALROOT_TOML) && !found.contains('\n'), "{text:.40}: {found:.200}");
            assert!(Config::on_refusal(text).policy.on_failure.is_none());
        }
    }
}
