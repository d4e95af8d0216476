//! `sealroot status`: is the root of this system sealed, and with what?

use std::fmt;
use std::fs;
use std::path::Path;

use miniserde::Serialize;
use sealroot::ask::cmdline::BootRequest;
use sealroot::ask::read::{self, Firmware};
use sealroot::boot::report::EarlierReport;
use sealroot::kernel;
use sealroot::kernel::mount::Mount;
use sealroot::refusal::chain;
use sealroot::steps::keep::PLACE;
use sealroot::steps::mount::{check_options, source};
use sealroot::verity::Verification;
use sealroot::verity::digest::ImageDigest;

use crate::booted;
use crate::keep;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// What may be mounted beside the sealed root.
const BESIDE: [&str; 3] = ["/etc", "/var", "/sysroot"];
/// The state of each deployment, on the physical root.
const DEPLOYMENTS: &str = "/sysroot/state/deploy";
/// The registers of the machine's TPM.
const TPM: &str = "/sys/class/tpm/tpm0/pcr-sha256";

/// The state of this system.
#[derive(Debug, Serialize)]
pub struct Status {
    sealed: bool,
    /// The image that the root was mounted from, by the kernel's word.
    image: Option<String>,
    format: Option<String>,
    root: MountPoint,
    /// Whether the root can be changed, until the next boot.
    transient: bool,
    secure_boot: String,
    /// The boot stub, by its own word, which whoever was root before may have forged.
    stub: Option<String>,
    /// What the TPM has measured, if there is one.
    pcrs: Option<Pcrs>,
    /// How much was checked before the pivot, by the configuration.
    check: Option<String>,
    bypasses: Vec<String>,
    /// What `etc.keep` did not keep, if there was anything.
    not_kept: Option<booted::NotKept>,
    /// Whether sealroot-keep.service writes to the disk what changes in the files of `etc.keep`; `None` without that, and
    /// for who is not root.
    keeping: Option<bool>,
    /// What an overlay with other options left, and cannot be read, if there was anything.
    left_behind: Option<booted::NotKept>,
    /// What the digest does not vouch for.
    not_sealed: Vec<MountPoint>,
    deployments: Vec<Deployment>,
    /// What is not as it is in a sealed system.
    problems: Vec<String>,
}

/// The registers of a TPM that tell what was booted, in hexadecimal (SHA-256). With a quote of the TPM they are proof, for whoever
/// knows which image should have been booted.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pcrs {
    /// What the boot stub started, and how far the boot has come.
    pcr11: String,
    /// What was added to that: zeros if nothing was.
    pcr12: String,
}

/// A mount in the kernel's words.
#[derive(Debug, Serialize)]
struct MountPoint {
    point: String,
    filesystem: String,
    source: String,
    flags: Vec<String>,
    options: Vec<String>,
}

/// A system that has state on the physical root.
#[derive(Debug, Serialize)]
struct Deployment {
    digest: String,
    booted: bool,
}

pub fn run() -> Result<Status, Failure> {
    let mount = booted::mount_at("/")?;
    let image = booted::image(&mount);
    let transient = mount.source.starts_with(booted::TRANSIENT);
    let mut problems = Vec::new();
    match image {
        Some(digest) if !transient => {
            if let Err(error) = check_options(&mount, &source(digest), Verification::Required) {
                problems.push(chain(&error));
            }
        }
        // The kernel tells nothing of the sealed root below: its mount is in no tree.
        Some(_) => {}
        None => problems.push(format!("'/': expected a composefs root, found {} {}", mount.filesystem, mount.source)),
    }
    let report = booted::report()?;
    problems.extend(compare_report(report.as_ref(), &mount, image)?);
    match BootRequest::try_from(&read::command_line()?) {
        Ok(request) => {
            if !request.images().iter().any(|requested| Some(requested.digest()) == image) {
                problems.push("kernel command line: expected the digest of the root, found another or none".into());
            }
        }
        Err(error) => problems.push(format!("kernel command line: {error}")),
    }
    let told = |names: &[&str]| report.as_ref().and_then(|report| report.text(names)).map(str::to_owned);
    Ok(Status {
        sealed: problems.is_empty(),
        image: image.map(|digest| digest.to_string()),
        format: told(&["format"]),
        root: MountPoint::new("/", mount),
        transient,
        secure_boot: Firmware::open()
            .and_then(|firmware| firmware.secure_boot())
            .map_or_else(|error| chain(&error), |state| state.name().into()),
        stub: told(&["stub"]),
        pcrs: Pcrs::read(Path::new(TPM)),
        check: told(&["policy", "policy.check", "value"]),
        bypasses: report.as_ref().map(|report| report.texts("bypasses")).unwrap_or_default(),
        not_kept: report.as_ref().and_then(|report| report.entries_of_etc("not_kept")),
        keeping: kernel::is_mount_point(Path::new(PLACE)).unwrap_or_default().then(keep::is_running).flatten(),
        left_behind: report.as_ref().and_then(|report| report.entries_of_etc("left_behind")),
        not_sealed: beside(),
        deployments: deployments(image),
        problems,
    })
}

/// What in the boot program's report is not what the kernel says.
fn compare_report(
    report: Option<&booted::Report>,
    mount: &Mount,
    image: Option<ImageDigest>,
) -> Result<Vec<String>, Failure> {
    let Some(report) = report else {
        return Ok(vec!["report: expected one of the boot program, found none".into()]);
    };
    let mut problems = Vec::new();
    let mut expect = |what: &str, expected: &str, found: &str| {
        if expected != found {
            problems.push(format!("report: expected {what} '{expected}', found '{found}'"));
        }
    };
    expect("verdict", "sealed", report.text(&["verdict"]).unwrap_or("none"));
    let digest = image.map(|digest| digest.to_hex()).unwrap_or_default();
    expect("digest", &digest, report.text(&["digest"]).unwrap_or("none"));
    if let Some(earlier) = EarlierReport::read()?
        && let Some(root) = earlier.mounts().first()
        && mount.id != Some(root.id())
    {
        problems.push("report: expected the mount that the boot program made at '/', found another".into());
    }
    Ok(problems)
}

/// The mounts beside the root.
fn beside() -> Vec<MountPoint> {
    let mount = |point: &str| booted::mount_at(point).ok().filter(|mount| mount.point == Path::new(point));
    BESIDE.iter().filter_map(|point| Some(MountPoint::new(point, mount(point)?))).collect()
}

/// What has state on the physical root; nothing where that is not to be seen.
fn deployments(booted: Option<ImageDigest>) -> Vec<Deployment> {
    let Ok(entries) = fs::read_dir(DEPLOYMENTS) else { return Vec::new() };
    let digest = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<ImageDigest>().ok();
    let mut digests: Vec<_> = entries.flatten().filter_map(digest).collect();
    digests.sort_unstable();
    let deployment = |digest: ImageDigest| Deployment { digest: digest.to_string(), booted: Some(digest) == booted };
    digests.into_iter().map(deployment).collect()
}

impl Pcrs {
    /// `None` where there is no TPM.
    fn read(folder: &Path) -> Option<Self> {
        let read = |number: &str| {
            let value = fs::read_to_string(folder.join(number)).ok()?;
            Some(value.trim_end().to_ascii_lowercase())
        };
        Some(Self { pcr11: read("11")?, pcr12: read("12")? })
    }
}

impl MountPoint {
    fn new(point: &str, mount: Mount) -> Self {
        let Mount { filesystem, source, flags, options, .. } = mount;
        Self { point: point.into(), filesystem, source, flags, options }
    }
}

impl Finding for Status {
    fn answer(&self) -> Answer {
        Answer::if_so(self.sealed)
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        let sealed = if self.sealed { paint.good("yes") } else { paint.bad("no") };
        writeln!(text, "sealed:      {sealed}")?;
        for problem in &self.problems {
            writeln!(text, "             {}", printable(problem.as_bytes()))?;
        }
        let none = || "none".to_owned();
        writeln!(text, "image:       {}", self.image.clone().unwrap_or_else(none))?;
        writeln!(text, "format:      {}", self.format.clone().unwrap_or_else(none))?;
        if self.transient {
            writeln!(text, "root:        transient: changes are possible, and gone at the next boot")?;
        }
        writeln!(text, "checked:     {}", self.check.clone().unwrap_or_else(none))?;
        writeln!(text, "secure boot: {}", self.secure_boot)?;
        if let Some(stub) = &self.stub {
            writeln!(text, "boot stub:   {stub}, by its own word")?;
        }
        if let Some(Pcrs { pcr11, pcr12 }) = &self.pcrs {
            writeln!(text, "PCR 11:      {}", printable(pcr11.as_bytes()))?;
            let added = if pcr12.bytes().all(|digit| digit == b'0') { "nothing" } else { "something" };
            writeln!(text, "PCR 12:      {} ({added} was added to the image)", printable(pcr12.as_bytes()))?;
        }
        for bypass in &self.bypasses {
            writeln!(text, "open:        {}", paint.bad(printable(bypass.as_bytes())))?;
        }
        if self.keeping == Some(false) {
            let lost = "changes of /etc are lost at the next boot: sealroot-keep.service does not run";
            writeln!(text, "not kept:    {}", paint.bad(lost))?;
        }
        for (what, found) in [("not kept:", &self.not_kept), ("unreadable:", &self.left_behind)] {
            let Some(booted::NotKept { count, folder, entries }) = found else { continue };
            writeln!(text, "{what:12} {} of /etc, in '{folder}'", paint.bad(count))?;
            for booted::NotKeptEntry { path, reason } in entries {
                writeln!(text, "             {path} ({reason})")?;
            }
            if *count > entries.len() as u64 {
                writeln!(text, "             …")?;
            }
        }
        for MountPoint { point, filesystem, source, flags, .. } in &self.not_sealed {
            let source = printable(source.as_bytes());
            writeln!(text, "not sealed:  {point} ({filesystem} {source} {})", flags.join(","))?;
        }
        for Deployment { digest, booted } in &self.deployments {
            writeln!(text, "deployment:  {digest}{}", if *booted { " (booted)" } else { "" })?;
        }
        Ok(())
    }
}
