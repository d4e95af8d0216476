//! `/run/sealroot/report.json`: what was decided, done and found, for the gate, the booted system and people.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str;

use miniserde::ser::{Fragment, Map};
use miniserde::{Deserialize, Serialize, json};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ask::added::AddedString;
use crate::ask::bypasses::Bypass;
use crate::ask::cmdline::RequestedImage;
use crate::ask::firmware::SecureBoot;
use crate::ask::keep::KeepList;
use crate::ask::policy::{Action, Settings};
use crate::boot::stage::Stage;
use crate::formats::composefs::FormatVersion;
use crate::kernel::forms::Forms;
use crate::refusal::Refusal;
use crate::steps::etc_entries::EtcEntries;
use crate::steps::gate::MountRecord;

use crate::verity::Verification;

/// The directory of everything that sealroot leaves in the running system.
pub const DIRECTORY: &str = "/run/sealroot";
const REPORT: &str = "/run/sealroot/report.json";
const NEW_REPORT: &str = "/run/sealroot/report.json.new";
/// Is there when the initramfs was compared with the list of its files, which it can be only once: units change it.
const COMPARED: &str = "/run/sealroot/compared";
/// Is there when the check of the physical root failed: systemd's word for how, such as `exit-code`.
const FSCK: &str = "/run/sealroot/fsck";
/// None of its words is longer, in bytes.
const MAX_RESULT: u64 = 64;
/// The version of the schema; it grows when a reader of an older one would be misled.
const SCHEMA: u32 = 2;
/// A report is a few kilobytes.
const MAX_REPORT: u64 = 1024 * 1024;

/// How a boot was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The sealed root is at /sysroot.
    #[serde(rename = "sealed")]
    Sealed,
    /// A root that the kernel does not verify is at /sysroot, by a `?` in the karg and the configuration's leave.
    #[serde(rename = "unverified")]
    Unverified,
    /// Nothing may boot.
    #[serde(rename = "refused")]
    Refused,
    /// No karg asked for a sealed root, and the configuration allows that.
    #[serde(rename = "not-requested")]
    NotRequested,
}

/// A check that was made, with the time that it took.
#[derive(Clone, Debug, Serialize)]
pub struct CheckRecord {
    name: Stage,
    microseconds: u64,
}

impl CheckRecord {
    /// A stage that was passed.
    pub fn new(name: Stage, microseconds: u64) -> Self {
        Self { name, microseconds }
    }
}

/// The report while it is written.
#[derive(Debug)]
pub struct Report {
    schema: u32,
    version: &'static str,
    verdict: Verdict,
    /// Why the boot was refused: the line in the log.
    reason: Option<String>,
    /// What follows the refusal.
    action: Option<Action>,
    image: Option<ImageRecord>,
    /// The program that systemd was found to start.
    init: Option<String>,
    secure_boot: Option<SecureBoot>,
    stub: Option<String>,
    firmware_strings: Vec<AddedString>,
    policy: Option<Settings>,
    bypasses: Vec<Bypass>,
    kernel: Option<Forms>,
    not_kept: Option<EtcEntries>,
    left_behind: Option<EtcEntries>,
    checks: Vec<CheckRecord>,
    mounts: Vec<MountRecord>,
}

/// The image that was mounted.
#[derive(Debug)]
struct ImageRecord {
    digest: String,
    algorithm: &'static str,
    /// Not known before the image is read, unless the karg names it.
    format: Option<&'static str>,
    karg: &'static str,
}

/// What a later run of the program needs of a report.
#[derive(Debug, Deserialize)]
pub struct EarlierReport {
    schema: u32,
    verdict: Verdict,
    reason: Option<String>,
    mounts: Option<Vec<MountRecord>>,
}

/// What the booted system needs of it.
#[derive(Debug, Deserialize)]
struct KeepReport {
    policy: Option<KeepPolicy>,
}

#[derive(Debug, Deserialize)]
struct KeepPolicy {
    #[serde(rename = "etc.keep")]
    keep: KeepSetting,
}

#[derive(Debug, Deserialize)]
struct KeepSetting {
    value: Option<Vec<String>>,
}

/// The list by which the booted system's /etc was made, if it was.
pub fn keep_list() -> Result<Option<KeepList>, Refusal> {
    let Some(text) = read_text()? else { return Ok(None) };
    // Of this schema.
    EarlierReport::parse(&text)?;
    let report: KeepReport = parse(&text)?;
    report.policy.and_then(|policy| policy.keep.value).map(KeepList::try_from).transpose()
}

fn parse<T: Deserialize>(text: &[u8]) -> Result<T, Refusal> {
    let no_report = || about().expected("a report").found("something else");
    let text = str::from_utf8(text).map_err(|_| no_report())?;
    json::from_str(text).map_err(|_| no_report())
}

/// A refusal of the report itself.
fn about() -> Refusal {
    Refusal::of(format!("'{REPORT}'"))
}

impl Default for Report {
    /// A boot that nothing speaks for yet.
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::Refused,
            reason: None,
            action: None,
            image: None,
            init: None,
            secure_boot: None,
            stub: None,
            firmware_strings: Vec::new(),
            policy: None,
            bypasses: Vec::new(),
            kernel: None,
            not_kept: None,
            left_behind: None,
            checks: Vec::new(),
            mounts: Vec::new(),
        }
    }
}

impl Report {
    /// Records what the firmware and the stub say, and what the machine's set-up adds to the signed image.
    pub fn asked(&mut self, secure_boot: SecureBoot, stub: Option<String>, added: Vec<AddedString>) {
        self.firmware_strings = added;
        self.secure_boot = Some(secure_boot);
        self.stub = stub;
    }

    /// Records what was decided.
    pub fn decided(&mut self, settings: Settings, bypasses: Vec<Bypass>) {
        self.policy = Some(settings);
        self.bypasses = bypasses;
    }

    /// Records the image that was found.
    pub fn found(&mut self, image: &RequestedImage) {
        self.image = Some(ImageRecord {
            digest: image.digest().to_hex(),
            algorithm: image.digest().algorithm().name(),
            format: image.format().map(FormatVersion::name),
            karg: image.karg(),
        });
    }

    /// Records the format that the image has, and the settings that hold for it.
    pub fn looked_inside(&mut self, format: FormatVersion, settings: Settings) {
        self.policy = Some(settings);
        if let Some(image) = &mut self.image {
            image.format = Some(format.name());
        }
    }

    /// The settings that were decided on, if it came to that.
    pub fn settings(&self) -> Option<&Settings> {
        self.policy.as_ref()
    }

    /// Records what was found out about the kernel.
    pub fn kernel(&mut self, forms: Forms) {
        self.kernel = Some(forms);
    }

    /// Records what did not come to /etc.
    pub fn not_kept(&mut self, not_kept: EtcEntries) {
        self.not_kept = Some(not_kept);
    }

    /// Records what of a persistent /etc cannot be read.
    pub fn left_behind(&mut self, left: EtcEntries) {
        self.left_behind = Some(left);
    }

    /// Records a stage that was passed.
    pub fn checked(&mut self, check: CheckRecord) {
        self.checks.push(check);
    }

    /// The root is in place.
    pub fn in_place(&mut self, verification: Verification, init: &str, mounts: Vec<MountRecord>) {
        self.verdict = match verification {
            Verification::Required => Verdict::Sealed,
            Verification::AllowUnverified => Verdict::Unverified,
        };
        self.init = Some(init.into());
        self.mounts = mounts;
    }

    /// There is nothing to do.
    pub fn not_requested(&mut self) {
        self.verdict = Verdict::NotRequested;
    }

    /// The boot is refused.
    pub fn refused(&mut self, reason: &str, action: Action) {
        self.verdict = Verdict::Refused;
        self.reason = Some(reason.into());
        self.action = Some(action);
        self.mounts = Vec::new();
    }

    /// Writes the report, whole or not at all.
    pub fn write(&self) -> Result<(), Refusal> {
        let text = json::to_string(self) + "\n";
        let written = create_new_report().and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            fs::rename(NEW_REPORT, REPORT)
        });
        written.map_err(|reason| about().because(reason))
    }
}

impl Serialize for Report {
    /// What is not known is left out.
    fn begin(&self) -> Fragment<'_> {
        let mut fields = Fields::default();
        fields.push("schema", &self.schema);
        fields.push("version", &self.version);
        fields.push("verdict", &self.verdict);
        fields.push_known("reason", self.reason.as_ref());
        fields.push_known("action", self.action.as_ref());
        if let Some(image) = &self.image {
            fields.push("digest", &image.digest);
            fields.push("algorithm", &image.algorithm);
            fields.push_known("format", image.format.as_ref());
            fields.push("karg", &image.karg);
        }
        fields.push_known("init", self.init.as_ref());
        fields.push_known("secure_boot", self.secure_boot.as_ref());
        fields.push_known("stub", self.stub.as_ref());
        fields.push("firmware_strings", &self.firmware_strings);
        fields.push_known("policy", self.policy.as_ref());
        fields.push("bypasses", &self.bypasses);
        fields.push_known("kernel", self.kernel.as_ref());
        fields.push_known("not_kept", self.not_kept.as_ref());
        fields.push_known("left_behind", self.left_behind.as_ref());
        fields.push("checks", &self.checks);
        fields.push("mounts", &self.mounts);
        Fragment::Map(Box::new(fields))
    }
}

/// The fields of an object, in the order in which they are written.
#[derive(Default)]
struct Fields<'a>(VecDeque<(&'static str, &'a dyn Serialize)>);

impl<'a> Fields<'a> {
    fn push(&mut self, name: &'static str, value: &'a dyn Serialize) {
        self.0.push_back((name, value));
    }

    fn push_known(&mut self, name: &'static str, value: Option<&'a impl Serialize>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }
}

impl Map for Fields<'_> {
    fn next(&mut self) -> Option<(Cow<'_, str>, &dyn Serialize)> {
        self.0.pop_front().map(|(name, value)| (Cow::Borrowed(name), value))
    }
}

fn create_new_report() -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let create = || rustix::fs::open(NEW_REPORT, flags, Mode::from_raw_mode(0o644));
    let created = match create() {
        Err(Errno::NOENT) => {
            make_directory()?;
            create()
        }
        result => result,
    };
    Ok(created?.into())
}

/// Remembers that the initramfs was compared with the list of its files.
pub fn note_comparison() -> Result<(), Refusal> {
    create_directory()?;
    File::create(COMPARED).map(drop).map_err(|reason| Refusal::of(format!("'{COMPARED}'")).because(reason))
}

/// Whether it was, in this boot.
pub fn was_compared() -> bool {
    Path::new(COMPARED).exists()
}

/// Remembers how the check of the physical root failed.
pub fn note_fsck(result: &str) -> Result<(), Refusal> {
    create_directory()?;
    fs::write(FSCK, result).map_err(|reason| Refusal::of(format!("'{FSCK}'")).because(reason))
}

/// How it failed; `None` if it did not.
pub fn failed_fsck() -> Option<String> {
    let mut result = String::new();
    File::open(FSCK).ok()?.take(MAX_RESULT).read_to_string(&mut result).ok()?;
    Some(result)
}

/// Makes [`DIRECTORY`] where it is missing.
pub fn create_directory() -> Result<(), Refusal> {
    make_directory().map_err(|reason| Refusal::of(format!("'{DIRECTORY}'")).because(reason))
}

fn make_directory() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY)
}

/// The report that a run in this boot left, if there was one.
pub fn read_text() -> Result<Option<Vec<u8>>, Refusal> {
    let file = match File::open(Path::new(REPORT)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about().because(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_REPORT + 1).read_to_end(&mut text).map_err(|reason| about().because(reason))?;
    if text.len() as u64 > MAX_REPORT {
        return Err(about().expected(format!("at most {MAX_REPORT} bytes")).found("more"));
    }
    Ok(Some(text))
}

impl EarlierReport {
    /// Reads what an earlier run in this boot left, if there was one.
    pub fn read() -> Result<Option<Self>, Refusal> {
        read_text()?.map(|text| Self::parse(&text)).transpose()
    }

    /// Parses a report.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let report: Self = parse(text)?;
        if report.schema != SCHEMA {
            return Err(about().expected(format!("schema {SCHEMA}")).found(report.schema));
        }
        Ok(report)
    }

    /// How the boot was judged.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why it was refused.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("no reason given")
    }

    /// The mount tree that was made, the root first.
    pub fn mounts(&self) -> &[MountRecord] {
        self.mounts.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut report = Report::default();
        report.refused("because", Action::Halt);
        let read = EarlierReport::parse(json::to_string(&report).as_bytes()).unwrap();
        assert_eq!((read.verdict(), read.reason()), (Verdict::Refused, "because"));
        let text = r#"{"schema":2,"verdict":"sealed","mounts":[{"point":"/","id":9,"parent":1,"type":"overlay",
            "source":"composefs:00","flags":["ro"],"options":["verity=require"]}]}"#;
        let read = EarlierReport::parse(text.as_bytes()).unwrap();
        assert_eq!(read.verdict(), Verdict::Sealed);
        assert_eq!(read.mounts()[0].id(), 9);
    }

    #[test]
    fn another_reader_understands_it() {
        let mut report = Report::default();
        report.refused("a \"b\"\\\n[c]\u{1b}", Action::Emergency);
        let value: serde_json::Value = serde_json::from_str(&json::to_string(&report)).unwrap();
        assert_eq!(value["reason"], "a \"b\"\\\n[c]\u{1b}");
    }

    #[test]
    fn everything_else_is_an_error() {
        for text in ["", "{}", "[]", r#"{"schema":1,"verdict":"sealed"}"#, r#"{"schema":2,"verdict":"fine"}"#] {
            assert!(EarlierReport::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
