//! Inputs to decisions: the only place that says what is allowed.
//!
//! Command line and configuration come from the signed UKI and may decide; nothing here ever looks at the disk.

mod settings;

pub use settings::{Origin, Resolved, Setting, Settings};

use crate::ask::added::AddedString;
use crate::ask::cmdline::{BootRequest, CommandLine, RequestedImage, RequestedVerification, is_false};
use crate::ask::config::{
    Alternatives, FirmwareStrings, KargPolicy, OnFailure, SecureBootPolicy, StateMount, UnverifiedPolicy,
};
use crate::ask::firmware::{SecureBoot, Tries};
use crate::ask::manifest::CMDLINE;
use crate::formats::names::names;
use crate::refusal::Refusal;
use crate::verity::Verification;

/// How often a boot entry without tries left is started before a restart is given up.
const MAX_EXHAUSTED_TRIES: u32 = 10;
/// No builder gives an entry more tries: whoever renames it could have the machine restart for ever.
const MAX_TRIES: u32 = 99;

/// Arguments with which the kernel has no SMBIOS table, or no EFI variables, to show.
const HIDING_KARGS: [&str; 2] = ["initcall_blacklist", "noefi"];

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
    verification: Verification,
    settings: Settings,
}

impl Policy {
    /// The acceptable images, the preferred one first; never empty.
    pub fn images(&self) -> &[RequestedImage] {
        &self.images
    }

    /// Whether the image may be one without fs-verity.
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// Every setting.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// What every refusal of the command line begins with.
const COMMAND_LINE: &str = "kernel command line";

/// Decides about what the machine's set-up adds to the signed image.
pub fn judge_added(resolved: &Resolved, added: &[AddedString]) -> Result<(), Refusal> {
    match (resolved.settings().firmware_strings.value, added.iter().min_by_key(|string| string.addition())) {
        (FirmwareStrings::Refuse, Some(string)) => {
            let expected =
                format!("no string that {} (policy.firmware-strings = \"refuse\")", string.addition().description());
            Err(Refusal::of("machine set-up").expected(expected).found(format_args!("'{string}'")))
        }
        (FirmwareStrings::Refuse, None) | (FirmwareStrings::Report, _) => Ok(()),
    }
}

/// Decides whether a command line is one of those that were signed. White space between arguments does not count.
pub fn judge_command_line(found: &CommandLine, signed: &[CommandLine]) -> Result<(), Refusal> {
    if signed.contains(found) {
        return Ok(());
    }
    // The one that has most in common with it.
    let common = |signed: &CommandLine| {
        signed.arguments().iter().zip(found.arguments()).take_while(|(signed, found)| signed == found).count()
    };
    let nearest = signed.iter().max_by_key(|signed| common(signed));
    let at = nearest.map_or(0, common);
    let shown = |line: Option<&CommandLine>| {
        let argument = line.and_then(|line| line.arguments().get(at));
        argument.map_or("its end".into(), |argument| format!("'{argument}'"))
    };
    let expected = format!("{} ('{CMDLINE}')", shown(nearest));
    Err(Refusal::of(COMMAND_LINE).expected(expected).found(shown(Some(found))))
}

/// Decides whether what the machine's set-up adds can be seen at all.
pub fn judge_hiding(resolved: &Resolved) -> Result<(), Refusal> {
    let hiding = HIDING_KARGS.into_iter().find(|key| resolved.command_line().values(key).next().is_some());
    match (resolved.settings().firmware_strings.value, hiding) {
        (FirmwareStrings::Refuse, Some(karg)) => {
            let expected = "nothing that hides the machine's set-up (policy.firmware-strings = \"refuse\")";
            Err(Refusal::of(COMMAND_LINE).expected(expected).found(format_args!("'{karg}'")))
        }
        (FirmwareStrings::Refuse, None) | (FirmwareStrings::Report, _) => Ok(()),
    }
}

/// Decides about `systemd.volatile=`: with `overlay` and `yes`, systemd mounts something over the sealed root.
fn judge_volatile(command_line: &CommandLine) -> Result<(), Refusal> {
    match command_line.values("systemd.volatile").next_back() {
        Some(value) if !value.is_some_and(|value| value == b"state" || is_false(value)) => {
            let expected = "no 'systemd.volatile' but 'state' (root.transient = true does the same)";
            let found = value.map_or("no value".into(), |value| format!("'{}'", value.escape_ascii()));
            Err(Refusal::of(COMMAND_LINE).expected(expected).found(found))
        }
        _ => Ok(()),
    }
}

/// Decides whether settings go together, whatever the machine is.
pub fn judge_settings(settings: &Settings) -> Result<(), Refusal> {
    if settings.etc_keep.value.is_some() && settings.etc.value != StateMount::Overlay {
        let found = format!("\"{}\"", settings.etc.value.name());
        return Err(Refusal::of("configuration").expected("etc.mount = \"overlay\" (etc.keep is set)").found(found));
    }
    Ok(())
}

/// Decides, from everything that was asked.
pub fn decide(resolved: &Resolved, secure_boot: SecureBoot, added: &[AddedString]) -> Result<Decision, Refusal> {
    judge_hiding(resolved)?;
    judge_added(resolved, added)?;
    let (command_line, settings) = (resolved.command_line(), resolved.settings());
    if settings.secure_boot.value == SecureBootPolicy::Require && secure_boot != SecureBoot::Enforced {
        let expected = "'enforced' (policy.secure-boot = \"require\")";
        return Err(Refusal::of("Secure Boot").expected(expected).found(format_args!("'{}'", secure_boot.name())));
    }
    judge_settings(settings)?;
    let request = BootRequest::try_from(command_line).map_err(|reason| Refusal::of(COMMAND_LINE).because(reason))?;
    let Some(first) = request.images().first() else {
        return match settings.karg.value {
            KargPolicy::Require => {
                Err(Refusal::of(COMMAND_LINE).expected("a karg 'composefs.digest' or 'composefs'").found("neither"))
            }
            KargPolicy::Optional => Ok(Decision::NothingToDo(settings.clone())),
        };
    };
    judge_volatile(command_line)?;
    if let (Alternatives::Refuse, Some(second)) = (settings.alternatives.value, request.images().get(1)) {
        let expected = "one image (policy.alternatives = \"refuse\")";
        return Err(Refusal::of(COMMAND_LINE).expected(expected).found(format_args!("{first} and {second}")));
    }
    let unverified = |reason: &str| {
        let expected = format!("verification to be required ({reason})");
        let found = format!("'?' in karg '{}'", first.karg());
        Err(Refusal::of(COMMAND_LINE).expected(expected).found(found))
    };
    let verification = match (request.verification(), settings.unverified.value, secure_boot) {
        (RequestedVerification::Required, ..) => Verification::Required,
        (_, UnverifiedPolicy::Refuse, _) => return unverified("policy.unverified = \"refuse\""),
        (_, UnverifiedPolicy::AllowWithoutSecureBoot, SecureBoot::Off | SecureBoot::Unsupported) => {
            Verification::AllowUnverified
        }
        (_, UnverifiedPolicy::AllowWithoutSecureBoot, SecureBoot::Enforced | SecureBoot::Unknown) => {
            return unverified(&format!("Secure Boot is {}", secure_boot.name()));
        }
    };
    Ok(Decision::Seal(Policy { images: request.images().to_vec(), verification, settings: settings.clone() }))
}

/// What follows a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// systemd takes over.
    Emergency,
    /// The machine is restarted.
    Reboot,
    /// The machine is switched off.
    Poweroff,
    /// The machine stops, with the reason on the screen.
    Halt,
}

names!(Action: Emergency = "emergency", Reboot = "reboot", Poweroff = "poweroff", Halt = "halt");

/// Decides what follows a refusal. `tries` are those of the boot entry, where the boot loader counts them.
///
/// With `auto`, a restart is worth something only where the boot loader then starts another entry, in the end: it counts
/// tries. Where there is no other entry systemd-boot starts an exhausted one again and again, so there is an end to that.
pub fn after_refusal(on_failure: OnFailure, tries: Option<Tries>) -> Action {
    match (on_failure, tries) {
        (OnFailure::Emergency, _) => Action::Emergency,
        (OnFailure::Reboot, _) => Action::Reboot,
        (OnFailure::Poweroff, _) => Action::Poweroff,
        (OnFailure::Halt, _) => Action::Halt,
        (OnFailure::Auto, Some(Tries { left: 0, done: MAX_EXHAUSTED_TRIES.. }) | None) => Action::Halt,
        (OnFailure::Auto, Some(Tries { left: 0..=MAX_TRIES, .. })) => Action::Reboot,
        (OnFailure::Auto, Some(_)) => Action::Halt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::config::{Check, Config, MountFlag, SysrootMount};

    const DIGEST: &str = "composefs=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn resolved(line: &str, ours: &str, theirs: &str) -> Resolved {
        Resolved::new(
            CommandLine::split(line.as_bytes()),
            Config::from_sealroot_toml(ours).unwrap(),
            Config::from_setup_root_conf(theirs).unwrap(),
        )
    }

    fn settings(line: &str, ours: &str, theirs: &str) -> Settings {
        resolved(line, ours, theirs).settings().clone()
    }

    fn decided(line: &str, ours: &str, secure_boot: SecureBoot) -> Result<Decision, String> {
        decide(&resolved(line, ours, ""), secure_boot, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn as_it_was_signed() {
        let line = |text: &str| CommandLine::split(text.as_bytes());
        let signed = [line("a=1 b"), line("a=1 \"c d\" e")];
        for same in ["a=1 b", " a=1\tb \n", "a=1 \"c d\" e"] {
            assert_eq!(judge_command_line(&line(same), &signed), Ok(()), "{same}");
        }
        let differs =
            |found: &str, signed: &[CommandLine]| judge_command_line(&line(found), signed).unwrap_err().to_string();
        for (found, expected, shown) in [
            ("a=1 b more", "its end", "'more'"),
            ("a=1", "'c d'", "its end"),
            ("a=2 b", "'a=1'", "'a=2'"),
            ("more a=1 b", "'a=1'", "'more'"),
            ("a=1 c d e", "'c d'", "'c'"),
            ("a=1 \"c d\" \x1b", "'e'", "'\\x1b'"),
            ("", "'a=1'", "its end"),
        ] {
            let message = format!("kernel command line: expected {expected} ('{CMDLINE}'), found {shown}");
            assert_eq!(differs(found, &signed), message, "{found}");
        }
        assert_eq!(differs("a", &[]), format!("kernel command line: expected its end ('{CMDLINE}'), found 'a'"));
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
        let found = settings("systemd.volatile=state", "[var]\nmount = \"transient\"\n", "");
        assert_eq!(found.var.value, StateMount::Transient);
        assert_eq!(settings("systemd.volatile=no", "", "").var.value, StateMount::Bind);
    }

    #[test]
    fn strings_of_the_set_up() {
        let added = crate::ask::added::find(
            b"\0io.systemd.credential:a=b\0io.systemd.stub.kernel-cmdline-extra=rd.break\0io.systemd.boot-entries.extra:c=d\0",
        );
        let decide = |ours, added: &[AddedString]| {
            decide(&resolved(DIGEST, ours, ""), SecureBoot::Enforced, added).map_err(|error| error.to_string())
        };
        // The worst of them is named.
        assert_eq!(
            decide("", &added).unwrap_err(),
            "machine set-up: expected no string that adds to the kernel command line (policy.firmware-strings = \"refuse\"), \
             found 'io.systemd.stub.kernel-cmdline-extra=rd.break'"
        );
        assert!(decide("", added.get(..1).unwrap()).unwrap_err().contains("that passes a credential to PID 1"));
        assert!(decide("", added.get(2..).unwrap()).unwrap_err().contains("that adds a boot entry"));
        assert!(decide("[policy]\nfirmware-strings = \"report\"\n", &added).is_ok());
        assert!(decide("", &[]).is_ok());
        for (karg, key) in [("initcall_blacklist=dmi_init", "initcall_blacklist"), ("noefi", "noefi")] {
            let line = format!("{DIGEST} {karg}");
            let expected = format!(
                "kernel command line: expected nothing that hides the machine's set-up (policy.firmware-strings = \
                 \"refuse\"), found '{key}'"
            );
            assert_eq!(decided(&line, "", SecureBoot::Enforced).unwrap_err(), expected);
            assert!(decided(&line, "[policy]\nfirmware-strings = \"report\"\n", SecureBoot::Enforced).is_ok());
        }
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
        ] {
            assert_eq!(decided(line, ours, SecureBoot::Off).unwrap_err(), message);
        }
    }

    #[test]
    fn a_list_of_kept_files() {
        assert_eq!(settings("", "", "").etc_keep.value, None);
        for (ours, mount) in [
            ("[etc]\nkeep = []\nmount = \"transient\"\n", "transient"),
            ("[etc]\nkeep = []\nmount = \"none\"\n", "none"),
            ("layout = \"bootc\"\n[etc]\nkeep = [\"a\"]\n", "bind"),
        ] {
            assert_eq!(
                decided(DIGEST, ours, SecureBoot::Off).unwrap_err(),
                format!("configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"{mount}\"")
            );
        }
        for list in ["[]", "[\"a\"]"] {
            let ours = format!("[etc]\nkeep = {list}\n");
            let Ok(Decision::Seal(policy)) = decided(DIGEST, &ours, SecureBoot::Off) else { panic!("{list}") };
            assert!(policy.settings().etc_keep.value.is_some());
            assert_eq!(policy.settings().etc_keep.from, Origin::SealrootToml);
        }
    }

    #[test]
    fn what_systemd_would_mount_over_the_root() {
        for fine in ["", "systemd.volatile=no", "systemd.volatile=state", "systemd.volatile systemd.volatile=off"] {
            decided(&format!("{DIGEST} {fine}"), "", SecureBoot::Off).unwrap();
        }
        for (karg, found) in
            [("=overlay", "'overlay'"), ("=yes", "'yes'"), ("=", "''"), ("", "no value"), ("=\x1b", "'\\x1b'")]
        {
            let message = decided(&format!("{DIGEST} systemd.volatile{karg}"), "", SecureBoot::Off).unwrap_err();
            let expected =
                "kernel command line: expected no 'systemd.volatile' but 'state' (root.transient = true does the same)";
            assert_eq!(message, format!("{expected}, found {found}"));
        }
    }

    #[test]
    fn several_images() {
        let other = "ab".repeat(32);
        let line = format!("{DIGEST} composefs.digest=v1-sha256-12:{other}");
        let (_, hex) = DIGEST.split_once('=').unwrap();
        assert_eq!(
            decided(&line, "", SecureBoot::Off).unwrap_err(),
            format!(
                "kernel command line: expected one image (policy.alternatives = \"refuse\"), found sha256:{hex} and v1 \
                 sha256:{other}"
            )
        );
        let allowed = "[policy]\nalternatives = \"first-existing\"\n";
        let Ok(Decision::Seal(policy)) = decided(&line, allowed, SecureBoot::Off) else { panic!("{line}") };
        assert_eq!(policy.images().iter().map(|image| image.digest().to_hex()).next().unwrap(), hex);
        assert_eq!(policy.images().len(), 2);
        // Two under one key are not two formats of one root.
        assert!(decided(&format!("{DIGEST} composefs={other}"), allowed, SecureBoot::Off).is_err());
        // The same image under both keys is one.
        let same = format!("{DIGEST} composefs.digest=v1-sha256-12:{hex}");
        assert!(matches!(decided(&same, "", SecureBoot::Off), Ok(Decision::Seal(_))));
    }

    #[test]
    fn a_question_mark() {
        let line = &DIGEST.replace('=', "=?");
        let allowed = "[policy]\nunverified = \"allow-without-secure-boot\"\n";
        for secure_boot in [SecureBoot::Off, SecureBoot::Unsupported] {
            let Ok(Decision::Seal(policy)) = decided(line, allowed, secure_boot) else { panic!("{secure_boot:?}") };
            assert_eq!(policy.verification(), Verification::AllowUnverified);
            // Without the mark nothing changes.
            let Ok(Decision::Seal(policy)) = decided(DIGEST, allowed, secure_boot) else { panic!("{secure_boot:?}") };
            assert_eq!(policy.verification(), Verification::Required);
        }
        for secure_boot in [SecureBoot::Enforced, SecureBoot::Unknown] {
            assert_eq!(
                decided(line, allowed, secure_boot).unwrap_err(),
                format!(
                    "kernel command line: expected verification to be required (Secure Boot is {}), found '?' in karg \
                     'composefs'",
                    secure_boot.name()
                )
            );
            assert!(decided(line, "", secure_boot).unwrap_err().contains("(policy.unverified = \"refuse\")"));
        }
    }

    #[test]
    fn what_follows_a_refusal() {
        let tries = |left, done| Some(Tries { left, done });
        for (on_failure, tries, action) in [
            (OnFailure::Emergency, tries(1, 1), Action::Emergency),
            (OnFailure::Reboot, None, Action::Reboot),
            (OnFailure::Reboot, tries(0, 99), Action::Reboot),
            (OnFailure::Poweroff, tries(1, 1), Action::Poweroff),
            (OnFailure::Halt, tries(1, 1), Action::Halt),
            (OnFailure::Auto, None, Action::Halt),
            (OnFailure::Auto, tries(2, 1), Action::Reboot),
            (OnFailure::Auto, tries(0, 3), Action::Reboot),
            (OnFailure::Auto, tries(0, 9), Action::Reboot),
            (OnFailure::Auto, tries(0, 10), Action::Halt),
            (OnFailure::Auto, tries(0, u32::MAX), Action::Halt),
            (OnFailure::Auto, tries(1, 10), Action::Reboot),
            (OnFailure::Auto, tries(99, 0), Action::Reboot),
            (OnFailure::Auto, tries(100, 0), Action::Halt),
        ] {
            assert_eq!(after_refusal(on_failure, tries), action, "{on_failure:?} {tries:?}");
        }
    }
}
