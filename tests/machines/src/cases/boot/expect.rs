//! What must have come of a boot.

use anyhow::Result;
use regex::Regex;

use super::play;
use super::scenario::{Initramfs, On, Scenario};
use super::world::World;
use crate::console::{Console, Event, numbered, shortened};
use crate::disk::Disk;
use crate::process::Ended;

/// What must come of a boot.
#[derive(Clone, Debug)]
pub enum Expected {
    /// The system runs, sealed, and every file of it has the right content.
    Sealed,
    /// The same with another image than the usual one: the name of its digest.
    SealedWith(&'static str),
    /// Sealed, and the file that was damaged gives this error when it is read.
    Unreadable(&'static str),
    /// Refused for exactly this reason, with this action, and nothing from the disk was started.
    Refused {
        /// The reason, filled by [`World::fill`].
        reason: String,
        /// `halt`, `reboot` or `poweroff`.
        action: &'static str,
    },
    /// Refused for a reason like this pattern.
    RefusedLike(String),
    /// The same, with this action.
    RefusedLikeAnd(&'static str, &'static str),
    /// Sealed, or refused for a reason like this pattern: which of the two is not the test's to say.
    SealedOrRefusedLike(&'static str),
    /// The firmware does not start the image.
    RefusedByFirmware,
    /// What the command line leaves open is reported and warned of: name and remedy of each.
    Open(&'static [(&'static str, &'static str)]),
    /// A shell in the initramfs, and nothing started from the disk.
    Shell(&'static str),
    /// Something else was started, and says these words: what stays open.
    Bypassed(&'static str),
    /// The kernel panics with these words, and nothing was started from the disk.
    Panic(&'static str),
    /// Whatever else: what is wrong, or nothing.
    Events(fn(&World) -> Result<Vec<Event>>),
}

/// An answer of the booted system.
#[derive(Clone, Debug)]
pub struct Must {
    pub(super) on: Option<&'static str>,
    pub(super) key: String,
    pub(super) answer: Answer,
}

/// What an answer must be, filled by [`World::fill`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// This text; [`NUMBER`] in it is any large number.
    Exactly(String),
    /// As a whole like this pattern.
    Like(String),
}

/// A number of at least four digits in an [`Answer::Exactly`].
pub const NUMBER: &str = "@number@";

/// Signs that something was started from the disk.
const STARTED: &str = "^sealroot-probe:|decoy:|Switching root|Stopped initrd-switch-root|initrd-switch-root.service: \
                       Deactivated|multi-user.target|Welcome to Debian GNU/Linux 13 .trixie.!$";
/// What looks like a prompt.
const PROMPT: &str = r"[Ll]ogin:|Press Enter|maintenance|[Pp]assword:|^[a-z0-9@:~/.-]*[#$] ?$|sh-[0-9.]+[#$]";

/// Everything that is not as it must be.
///
/// # Errors
/// The expectation names something that there is not.
pub fn problems(scenario: &Scenario, world: &World, on: On, console: &Console, disk: &Disk) -> Result<Vec<String>> {
    let mut judge = Judge { scenario, world, on, console, found: Vec::new() };
    judge.unless(console.ended == Ended::Stopped, || {
        format!("expected an end that is known, found {:?}", console.ended)
    });
    if !matches!(scenario.expected, Expected::RefusedByFirmware) {
        let release = play::release(scenario, on)?;
        let started = format!("Linux version {release} ");
        judge.unless(console.text.contains(&started), || format!("expected '{started}' on the console"));
    }
    // Nothing that anyone writes to a disk may make a program panic.
    judge.never("RUST_BACKTRACE|panicked at", "a program panicked");
    match &scenario.expected {
        Expected::Sealed => judge.sealed("SHA512_V1", "{CANARY_SHA256SUM}")?,
        Expected::SealedWith(name) => judge.sealed(name, "{CANARY_SHA256SUM}")?,
        Expected::Unreadable(error) => judge.sealed("SHA512_V1", error)?,
        Expected::Refused { reason, action } => {
            let reason = world.fill(reason)?;
            let found = console.reason().unwrap_or_default();
            judge.unless(found == reason, || {
                format!("expected the refusal '{reason}'\n               found      '{found}'")
            });
            judge.refused(action);
        }
        Expected::RefusedLike(reason) => judge.refused_like(&world.fill(reason)?, "halt"),
        Expected::RefusedLikeAnd(reason, action) => judge.refused_like(&world.fill(reason)?, action),
        Expected::SealedOrRefusedLike(reason) if console.reason().is_some() => {
            judge.refused_like(&world.fill(reason)?, "halt");
        }
        Expected::SealedOrRefusedLike(_) => judge.sealed("SHA512_V1", "{CANARY_SHA256SUM}")?,
        Expected::RefusedByFirmware => judge.refused_by_firmware(),
        Expected::Open(bypasses) => bypasses.iter().for_each(|(bypass, remedy)| judge.open(bypass, remedy)),
        Expected::Shell(prompt) => {
            judge.unless(console.find(prompt).is_some(), || "expected a shell in the initrd, found none".into());
            judge.never(STARTED, "sign of a pivot");
        }
        Expected::Bypassed(words) => {
            judge.unless(console.text.contains(words), || {
                format!("expected '{words}' on the console, found it nowhere")
            });
        }
        Expected::Panic(words) => {
            let words = format!("Kernel panic - not syncing: {words}");
            judge.unless(console.text.contains(&words), || format!("expected '{words}', found no such panic"));
            judge.never(STARTED, "sign of a pivot");
        }
        Expected::Events(expected) => {
            let (expected, found) = (expected(world)?, console.events());
            if expected.iter().any(|event| matches!(event, Event::Sealed(_))) {
                judge.sealed("SHA512_V1", "{CANARY_SHA256SUM}")?;
            } else {
                judge.never(STARTED, "sign of a pivot");
                judge.never(PROMPT, "sign of a prompt");
            }
            judge.unless(expected == found, || format!("expected the events {expected:#?}\nfound {found:#?}"));
            let starts = 1 + found.iter().filter(|event| **event == Event::Restart).count();
            let checked = console.text.matches("EFI stub: UEFI Secure Boot is enabled").count();
            judge.unless(starts == checked, || format!("expected Secure Boot at all {starts} starts, found {checked}"));
        }
    }
    for must in scenario.musts.iter().filter(|must| must.on.is_none_or(|machine| machine == on.label())) {
        match &must.answer {
            Answer::Like(answer) => judge.must(&must.key, answer)?,
            Answer::Exactly(answer) => {
                let answer = regex::escape(&world.fill(answer)?).replace(NUMBER, "[0-9]{4,}");
                judge.answers(&must.key, &answer);
            }
        }
    }
    judge.found.extend(scenario.judge.map(|judge| judge(console)).unwrap_or_default());
    for (texts, expected) in [(&scenario.said, true), (&scenario.unsaid, false)] {
        for text in texts {
            let text = world.fill(text)?;
            let problem = || format!("'{text}' on the console: expected {expected}, found {}", !expected);
            judge.unless(console.text.contains(&text) == expected, problem);
        }
    }
    if let Some(entries) = scenario.entries {
        let found = disk.esp_folder("EFI/Linux")?;
        judge.unless(found == entries, || format!("expected the boot entries {entries:?}, found {found:?}"));
    }
    if let Some(names) = scenario.partitions {
        let found: Vec<_> = disk.partitions()?.into_iter().map(|partition| partition.name).collect();
        judge.unless(found == names, || format!("expected the partitions {names:?}, found {found:?}"));
    }
    if scenario.grown {
        let (expected, found) = (disk.root_partition()?.size, disk.filesystem_size()?);
        judge.unless(found == expected, || format!("expected a filesystem of {expected} bytes, found {found}"));
    }
    for (path, expected) in &scenario.left {
        let found = disk.text_of(&world.fill(path)?)?;
        judge.unless(found == *expected, || format!("expected '{expected}' in '{path}' on the disk, found '{found}'"));
    }
    Ok(judge.found)
}

struct Judge<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    on: On,
    console: &'a Console,
    found: Vec<String>,
}

impl Judge<'_> {
    fn unless(&mut self, right: bool, problem: impl FnOnce() -> String) {
        if !right {
            self.found.push(problem());
        }
    }

    /// No line from the start of the initramfs on is like this.
    fn never(&mut self, pattern: &str, what: &str) {
        let wanted = Regex::new(pattern).expect("a pattern that was written here");
        let lines = self.console.since_init().lines().filter(|line| wanted.is_match(line));
        self.found.extend(lines.take(3).map(|line| format!("{what}: {line}")));
    }

    /// What the booted system says about this, as a pattern for the whole answer.
    fn must(&mut self, key: &str, answer: &str) -> Result<()> {
        self.answers(key, &self.world.fill(answer)?);
        Ok(())
    }

    fn answers(&mut self, key: &str, answer: &str) {
        let Some(found) = self.console.probe(key) else {
            self.found.push(format!("{key}: expected '{answer}', found no answer"));
            return;
        };
        self.unless(whole(answer, found), || format!("{key}: expected '{answer}'\n{key}: found    '{found}'"));
    }

    /// All that must be right in a system that was booted sealed.
    fn sealed(&mut self, image: &str, canary: &str) -> Result<()> {
        let digest = self.world.value(image)?;
        self.unless(self.console.find("^sealroot-probe: end").is_some(), || "the system did not come up".into());
        self.must("root", &format!("composefs:{digest} ro,(.*,)?verity=require(,.*)?"))?;
        self.must("report-verdict", "sealed")?;
        self.must("report-digest", digest)?;
        self.must("cmdline", &format!(".*[:=]{digest}( .*)?"))?;
        let filesystem = self.scenario.filesystem.replace("mirror", "btrfs").replace("prepared", "ext4");
        self.must("sysroot", &format!("{filesystem} ro,.*"))?;
        for key in ["root", "usr", "file", "sysroot"] {
            self.must(&format!("write-{key}"), "no: Read-only file system")?;
        }
        for key in ["etc", "var"] {
            self.must(key, "[a-z0-9]+ rw,(.*,)?nosuid,nodev(,.*)?")?;
            self.must(&format!("write-{key}"), "yes")?;
        }
        if self.scenario.initramfs == Initramfs::Dracut {
            self.must("multi-user", "active")?;
            self.must("failed-units", "")?;
        }
        if self.on == On::Firmware {
            self.must("secure-boot", "on")?;
        }
        self.must("canary", canary)?;
        let unreadable: Vec<_> =
            self.console.text.lines().filter_map(|line| line.strip_prefix("sealroot-probe: unreadable=")).collect();
        let expected = self.scenario.unreadable;
        let same = unreadable.len() == expected.len() && expected.iter().all(|file| unreadable.contains(file));
        self.unless(same, || format!("expected that these cannot be read: {expected:?}, found {unreadable:?}"));
        Ok(())
    }

    fn refused_like(&mut self, reason: &str, action: &str) {
        let found = self.console.reason().unwrap_or_default();
        self.unless(whole(reason, &found), || {
            format!("expected the refusal '{reason}'\n               found      '{found}'")
        });
        self.refused(action);
    }

    /// sealroot ended the boot itself, and nothing was started, nor could anybody start something.
    fn refused(&mut self, action: &str) {
        if self.on == On::Firmware {
            let expected =
                if self.scenario.secure_boot { "UEFI Secure Boot is enabled" } else { "Secure boot disabled" };
            self.unless(self.console.find(expected).is_some(), || format!("expected '{expected}' of the kernel"));
        }
        let refusal = self.console.refusal().unwrap_or_default();
        let urgent = format!("sealroot: boot refused: {refusal}; {action} in ");
        self.unless(self.console.text.contains(&urgent), || format!("expected an urgent '{urgent}…'"));
        let end = match action {
            "reboot" => Event::Restart,
            "poweroff" => Event::PowerOff,
            _ => Event::Halt,
        };
        let events = self.console.events();
        self.unless(events.contains(&end), || format!("expected that the refusal ends in {action}, found {events:?}"));
        // Only the gate has a sealed root before it.
        if !refusal.starts_with("gate:") {
            self.never("sealroot: .*root in place", "a root was in place");
        }
        self.never("^boot-init: .* ended with status", "the machine was not ended by the boot program");
        self.never(STARTED, "sign of a pivot");
        self.never(PROMPT, "sign of a prompt");
    }

    fn refused_by_firmware(&mut self) {
        self.unless(self.console.find("Access Denied").is_some(), || "the firmware did not refuse the image".into());
        for sign in ["EFI stub", "Linux version"] {
            self.unless(!self.console.text.contains(sign), || format!("a kernel was started: {sign}"));
        }
        self.never(STARTED, "sign of a pivot");
    }

    /// The report names a bypass, and the boot program warned of it.
    fn open(&mut self, bypass: &str, remedy: &str) {
        let warning = self.console.find(WARNING).unwrap_or_default().to_owned();
        self.unless(warning.contains(&format!(" {bypass} ({remedy})")), || {
            format!("expected a warning of '{bypass} ({remedy})', found '{warning}'")
        });
        let report = self.console.probe("report").unwrap_or_default();
        let named = whole(&format!(r#".*"bypasses":\[[^]]*"{bypass}".*"#), report);
        self.unless(named, || format!("expected the bypass {bypass} in the report"));
    }
}

const WARNING: &str = "sealroot: ways around the seal are open, with what closes each: .*";

fn whole(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).expect("a pattern of a test").is_match(text)
}

/// What came of a boot, in a line.
pub fn seen(scenario: &Scenario, console: &Console) -> String {
    let refused = |refusal: &str| format!("refused: {}", numbered(refusal));
    let seen = match &scenario.expected {
        Expected::Refused { .. } | Expected::RefusedLike(_) | Expected::RefusedLikeAnd(..) => {
            refused(console.refusal().unwrap_or_default())
        }
        Expected::RefusedByFirmware => "ignored by the firmware: Access Denied".into(),
        Expected::Unreadable(_) => format!("EIO: {}", console.probe("canary").unwrap_or_default()),
        Expected::Open(_) => format!("open: {}", console.find("closes each: .*").unwrap_or_default()),
        Expected::Shell(prompt) => format!("open: initrd-shell: {}", console.find(prompt).unwrap_or_default()),
        Expected::Panic(_) => format!("open: disk-errors: {}", console.find("Kernel panic.*").unwrap_or_default()),
        Expected::SealedOrRefusedLike(_) => console.refusal().map_or_else(|| "sealed".into(), refused),
        Expected::Sealed | Expected::SealedWith(_) => "sealed".into(),
        Expected::Bypassed(words) => format!("bypassed: {words}"),
        Expected::Events(_) => format!("{} events", console.events().len()),
    };
    shortened(&seen)
}
