//! The configuration inside the initramfs: TOML in, typed settings out.
//!
//! Every setting is optional here; defaults and contradictions are [`crate::ask::policy`]'s matter. An unknown key in our file is
//! an error: a misspelt key must not weaken a machine in silence. In the composefs tools' file it may be one that only they know.

mod document;
mod keys;
mod reader;
mod settings;
mod values;

pub use settings::*;

use crate::refusal::Refusal;
use document::Item;
use keys::{OUR_KEYS, REFUSAL_KEYS};
use reader::{OUR_FILE, THEIR_FILE, is_key, parse};

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
    /// The keys and tables of [`SETUP_ROOT_CONF_TOML`] that only its owners may know, escaped, in the file's order; not what is below them.
    pub unknown: Vec<String>,
}

impl Config {
    /// Parses [`SEALROOT_TOML`].
    pub fn from_sealroot_toml(text: &str) -> Result<Self, Refusal> {
        parse(&OUR_FILE, text)
    }

    /// Parses [`SETUP_ROOT_CONF_TOML`].
    pub fn from_setup_root_conf(text: &str) -> Result<Self, Refusal> {
        parse(&THEIR_FILE, text)
    }

    /// The start of [`Self::unknown`] in a line for people; `None` where all is known.
    pub fn describe_unknown(&self) -> Option<String> {
        const SHOWN: usize = 4;
        let shown: Vec<_> = self.unknown.iter().take(SHOWN).map(|name| format!("'{name}'")).collect();
        let more = match self.unknown.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!shown.is_empty())
            .then(|| format!("'{SETUP_ROOT_CONF_TOML}': not known to sealroot: {}{more}", shown.join(", ")))
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
        // What only they know is no error, whatever of TOML they need for it.
        for (text, unknown) in [
            ("", &[][..]),
            ("[policy]\nkarg = \"optional\"\n[root]\nnew.x = 1\nnew.y = 2\n", &["policy", "root.new"]),
            // Only the file that a builder of sealroot writes says what is kept.
            ("[etc]\nkeep = []\n", &["etc.keep"]),
            ("[[disk]]\nname = 1\n[[disk]]\n[disk.part]\n[a.b]\n", &["disk", "a"]),
            ("a = { b = [{ c = 1.5 }, [1979-05-27, [{}]]] }\n\"x\\n\".y.z = {}\n", &["a", "x\\n"]),
            ("var = { other = 1 }\netc = { other.than = 2 }\n", &["var.other", "etc.other"]),
        ] {
            let config = Config::from_setup_root_conf(text).unwrap();
            assert_eq!(config.unknown, unknown, "{text:?}");
            assert!(config.policy.karg.is_none() && config.etc.keep.is_none());
        }
        let config = Config::from_setup_root_conf("d=1\nb=1\nc=1\na=1\n").unwrap();
        let shown = format!("'{SETUP_ROOT_CONF_TOML}': not known to sealroot: 'd', 'b', 'c', 'a'");
        assert_eq!(config.describe_unknown().unwrap(), shown);
        let config = Config::from_setup_root_conf("\"\\u001b\"=1\nb=1\nc=1\na=1\ne=1\nf.g=1\n").unwrap();
        let shown = format!("'{SETUP_ROOT_CONF_TOML}': not known to sealroot: '\\u{{1b}}', 'b', 'c', 'a' and 2 more");
        assert_eq!(config.describe_unknown().unwrap(), shown);
        let inline = "etc = { transient = true }\nroot = { transient = false, x = 1 }\nvar.mount = \"bind\"\n";
        let config = Config::from_setup_root_conf(inline).unwrap();
        assert_eq!((config.etc.transient, config.root.transient), (Some(true), Some(false)));
        assert_eq!(config.var.mount, Some(StateMount::Bind));
        // What they know as well is read as strictly as ours.
        for (text, message) in [
            ("[etc]\ntransient = 1\n", "2: etc.transient: expected true or false, found 1"),
            ("[etc]\nx = 1\n[etc.mount]\nx = 1\n", "3: etc.mount: expected one of 'overlay', "),
            ("etc = \"bind\"\n", "1: etc: expected a table, found 'bind'"),
            ("[[etc]]\nmount = \"bind\"\n", "1: etc: expected a table, found an array of tables"),
            ("[etc]\n[var]\n[etc]\n", "3: table 'etc' is defined twice"),
            ("x = \n", "1: "),
        ] {
            let found = Config::from_setup_root_conf(text).unwrap_err().to_string();
            assert!(found.starts_with(&format!("{SETUP_ROOT_CONF_TOML}:{message}")), "{text:?}: {found}");
        }
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
            ("[policy.karg]\n", "1: policy.karg: expected one of 'require', 'optional', found a table"),
            ("policy.karg.x = 1\n", "1: policy.karg: expected one of 'require', 'optional', found a table"),
            ("policy = \"require\"\n", "1: policy: expected a table, found 'require'"),
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
            ("etc = { mount = \"bind\" }\n[etc]\n", "2: table 'etc' is defined twice"),
            ("etc = { mount = \"bind\" }\netc.flags = []\n", "2: table 'etc' is defined twice"),
            ("etc = { mount = \"bind\", mount = \"bind\" }\n", "1: etc.mount: set twice"),
            ("etc = { extra = 1 }\n", "1: unknown key 'etc.extra', expected one of 'keep', 'mount', "),
            ("policy = { check = { x = 1 } }\n", "1: policy.check: expected one of 'digest', "),
            ("extra = { karg = 1 }\n", "1: unknown table 'extra', expected one of "),
            ("[[etc]]\nmount = \"bind\"\n", "1: etc: expected a table, found an array of tables"),
            ("[[extra]]\n", "1: unknown key 'extra', expected one of 'layout'"),
            (
                "[var]\nflags = [[\"nosuid\"]]\n",
                "2: var.flags: expected one of 'nosuid', 'nodev', 'noexec', found an array",
            ),
            ("[var]\nflags = [{}]\n", "2: var.flags: expected one of 'nosuid', 'nodev', 'noexec', found a table"),
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
            ("", "x = [{ policy.on-failure = \"halt\" }]\nx = { policy = { on-failure = \"halt\" } }\n"),
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
            ("policy = { on-failure = \"reboot\", failure-delay = 7.5 }\n", action),
            ("policy = { on-failure = \"reboot\", failure-delay = [] ,\n", action),
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
