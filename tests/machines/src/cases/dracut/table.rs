//! What is asked of dracut, and what must come of it.

use super::change::Change::{self, *};
use super::change::TARGET;
use super::{COMPOSEFS_CONFIG, CONFIG, FILES, PROGRAM, UNITS};

/// The kernel modules that are needed on any disk.
const NEEDED: [&str; 3] = ["erofs", "overlay", "loop"];
const MODULES: &[&str] = &["erofs", "overlay", "loop", "ext4", "btrfs"];

/// What dracut is asked for.
pub enum Ask {
    /// What it makes by itself.
    Default,
    /// That without most drivers and other kinds of disks, and with these options.
    With(Vec<&'static str>),
}

fn with(options: &[&'static str]) -> Ask {
    Ask::With(options.into())
}

/// What an initramfs with sealroot is asked for with, where there is no config.
const SEALROOT: &[&str] = &["--add", "sealroot"];

/// What must come of it.
pub enum Expect {
    /// An initramfs without any part of sealroot.
    Absent,
    /// One with each part, and these files, with the content that they have outside; and these kernel modules, there or
    /// in the kernel.
    Complete { files: &'static [&'static str], modules: &'static [&'static str] },
    /// A complete one, and these words of warning.
    Warned(&'static str),
    /// No initramfs, and these words.
    Refused(String),
}

use Expect::{Absent, Complete, Warned};

fn refused(words: impl Into<String>) -> Expect {
    Expect::Refused(words.into())
}

/// With which releases of dracut and systemd a test runs before anything is merged. Before a release of ours, it is both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Releases {
    /// Each: the answer is as much theirs as ours.
    Each,
    /// One, the newest: a check of our own module refuses, which is the same whatever runs it.
    OneWithEachPush,
}

/// One run of dracut.
pub struct Case {
    pub name: String,
    pub before: Vec<Change>,
    pub ask: Ask,
    pub expect: Expect,
    pub releases: Releases,
}

fn case(name: impl Into<String>, before: Vec<Change>, ask: Ask, expect: Expect) -> Case {
    Case { name: name.into(), before, ask, expect, releases: Releases::OneWithEachPush }
}

impl Case {
    fn on_each_release(mut self) -> Self {
        self.releases = Releases::Each;
        self
    }
}

/// All cases, in the order of what they are about.
pub fn cases() -> impl Iterator<Item = Case> {
    [inclusion(), missing_files(), unusable_files(), configuration(), other_modules(), kernel_modules()]
        .into_iter()
        .flatten()
}

/// When sealroot comes into an initramfs, and with what.
fn inclusion() -> Vec<Case> {
    vec![
        case("leaves_it_out_of_an_image_without_config", vec![], with(&[]), Absent).on_each_release(),
        case("includes_it_when_asked_to", vec![], with(SEALROOT), Complete { files: &[], modules: MODULES })
            .on_each_release(),
        case(
            "includes_it_and_efivarfs_in_an_image_with_config",
            vec![Write(CONFIG, "layout = \"composefs\"\n"), Write(COMPOSEFS_CONFIG, "[etc]\n")],
            Ask::Default,
            Complete { files: &[CONFIG, COMPOSEFS_CONFIG], modules: &["efivarfs"] },
        )
        .on_each_release(),
        case(
            "includes_the_kernel_modules_whatever_the_host_has",
            vec![Write(CONFIG, "[policy]\n")],
            with(&["--hostonly", "--hostonly-mode", "strict"]),
            Complete { files: &[], modules: MODULES },
        )
        .on_each_release(),
        case(
            "works_without_kernel_modules",
            vec![Write(CONFIG, "[policy]\n")],
            with(&["--no-kernel"]),
            Complete { files: &[CONFIG], modules: &[] },
        )
        .on_each_release(),
        // The image that is built is not the root that dracut runs in.
        case(
            "sysroot_leaves_it_out_of_an_image_without_config",
            vec![Empty(CONFIG), Target],
            with(&["--sysroot", TARGET]),
            Absent,
        )
        .on_each_release(),
        case(
            "sysroot_includes_it_in_an_image_with_config",
            vec![Target, EmptyInTarget(CONFIG)],
            with(&["--sysroot", TARGET]),
            Complete { files: &[], modules: &[] },
        )
        .on_each_release(),
    ]
}

/// The end of a path, for the name of a test: with the folder where that says whose file it is.
fn short(path: &str) -> String {
    path.strip_prefix(UNITS).or_else(|| path.strip_prefix("/usr/lib/sealroot")).unwrap_or(path)[1..].replace('/', "_")
}

fn missing_files() -> Vec<Case> {
    let without = |path: &'static str| {
        case(
            format!("fails_without_{}", short(path)),
            vec![Remove(path)],
            with(SEALROOT),
            refused(format!("'{path}' is missing")),
        )
    };
    let mut cases: Vec<_> = FILES.map(without).into();
    cases.push(case(
        "fails_without_initrd-switch-root.service",
        vec![Remove("/usr/lib/systemd/system/initrd-switch-root.service")],
        with(SEALROOT),
        refused("initrd-switch-root.service' is missing"),
    ));
    cases
}

fn unusable_files() -> Vec<Case> {
    let mut cases = vec![case(
        "fails_when_the_program_is_not_executable",
        vec![Mode(PROGRAM, 0o644)],
        with(SEALROOT),
        refused(format!("'{PROGRAM}' is not executable")),
    )];
    for (file, name) in [(CONFIG, "sealroot.toml"), (COMPOSEFS_CONFIG, "setup-root-conf.toml")] {
        let expected = || refused(format!("'{file}' is missing or not a regular file"));
        let other_is_there = || Vec::from_iter((file != CONFIG).then_some(Empty(CONFIG)));
        for (what, change) in [("is_a_directory", Folder(file)), ("leads_nowhere", DanglingLink(file))] {
            let before = other_is_there().into_iter().chain([change]).collect();
            cases.push(case(format!("fails_when_{name}_{what}"), before, with(&[]), expected()));
        }
    }
    cases
}

/// What the boot program says to the configuration.
fn configuration() -> Vec<Case> {
    let fails = |name: &str, config: &'static str, words: &str| {
        case(format!("fails_when_{name}"), vec![Write(CONFIG, config)], with(&[]), refused(words))
    };
    let theirs = |content| vec![Empty(CONFIG), Write(COMPOSEFS_CONFIG, content)];
    vec![
        fails(
            "a_key_is_misspelt",
            "[policy]\nkrag = \"require\"\n",
            "sealroot: /usr/lib/sealroot/sealroot.toml:2: unknown key 'policy.krag'",
        )
        .on_each_release(),
        fails("it_is_no_toml", "[policy\n", "sealroot: /usr/lib/sealroot/sealroot.toml:1: "),
        fails(
            "two_keys_contradict_each_other",
            "[etc]\nmount = \"transient\"\nkeep = []\n",
            "sealroot: configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"transient\"",
        ),
        case(
            "fails_when_the_composefs_tools_file_is_wrong",
            theirs("[etc]\ntransient = 1\n"),
            with(&[]),
            refused(
                "sealroot: /usr/lib/composefs/setup-root-conf.toml:2: etc.transient: expected true or false, found 1",
            ),
        ),
        case(
            "names_what_only_the_composefs_tools_know",
            theirs("[etc]\nx = { y = [{}] }\n[[z]]\n"),
            with(&[]),
            Warned("sealroot: warning: '/usr/lib/composefs/setup-root-conf.toml': not known to sealroot: 'etc.x', 'z'"),
        )
        .on_each_release(),
        case(
            "says_that_a_program_for_another_machine_checks_nothing",
            vec![Write(PROGRAM, "\x7fELF for another machine"), Mode(PROGRAM, 0o755), Write(CONFIG, "[policy\n")],
            with(&[]),
            Warned("sealroot: the configuration is not checked: "),
        ),
    ]
}

/// What another of dracut's modules does or does not.
fn other_modules() -> Vec<Case> {
    // It comes first and installs another file under the name of the config.
    const OTHER: &str = r#"install() {
      mkdir -p "$initdir/usr/lib/sealroot"
      echo '[policy]' >"$initdir/usr/lib/sealroot/sealroot.toml"
    }
    "#;
    let omitted = with(&["--omit", "systemd-initrd"]);
    let other = vec![Empty(CONFIG), Write("/usr/lib/dracut/modules.d/49other/module-setup.sh", OTHER)];
    vec![
        case(
            "fails_when_systemd-initrd_is_omitted",
            vec![Empty(CONFIG)],
            omitted,
            refused("'systemd-initrd' is omitted"),
        )
        .on_each_release(),
        case(
            "fails_when_another_module_brings_another_config",
            other,
            with(&[]),
            refused("another file in the initramfs"),
        )
        .on_each_release(),
    ]
}

fn kernel_modules() -> Vec<Case> {
    let mut cases = Vec::new();
    for module in NEEDED {
        let expected = || refused(format!("kernel module '{module}' is missing"));
        let lost = vec![LoseModules(vec![module])];
        cases.push(case(format!("fails_without_the_kernel_module_{module}"), lost, with(SEALROOT), expected()));
        let omitted = with(&["--add", "sealroot", "--omit-drivers", module]);
        cases.push(
            case(format!("fails_when_omit_drivers_names_{module}"), vec![], omitted, expected()).on_each_release(),
        );
    }
    cases.push(case(
        "accepts_erofs_overlay_and_loop_in_the_kernel",
        vec![LoseModules(NEEDED.into()), BuiltIn(&NEEDED)],
        with(SEALROOT),
        Complete { files: &[], modules: &[] },
    ));
    cases.push(case(
        "fails_without_a_filesystem_that_has_fs-verity",
        vec![LoseModules(vec!["ext4", "btrfs", "f2fs"])],
        with(SEALROOT),
        refused("kernel module 'ext4', 'btrfs' or 'f2fs' is missing"),
    ));
    cases
}
