//! `sealroot uki`: what a unified kernel image would boot, and whether it would be sealed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::ptr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use miniserde::Serialize;
use miniserde::json::{self, Value};
use sealroot::ask::bypasses::{self, Boot, Bypass, PhysicalFilesystem};
use sealroot::ask::cmdline::CommandLine;
use sealroot::ask::config::{Config, SEALROOT_TOML, SETUP_ROOT_CONF_TOML, StateMount};
use sealroot::ask::firmware::{Lockdown, SecureBoot};
use sealroot::ask::policy::{self, Decision, Policy, Resolved, Settings};
use sealroot::ask::read::{MAX_INPUT, too_long};
use sealroot::ask::stub::Stub;
use sealroot::formats::composefs;
use sealroot::formats::uki::authenticode;
use sealroot::formats::uki::initramfs::{Budget, Content, Initramfs};
use sealroot::formats::uki::pe::{self, MAX_SIZE, Sections, Signature, Uki, required};
use sealroot::refusal::{Refusal, chain};
use sealroot::steps::assemble;
use sealroot::steps::find::find_in;
use sealroot::steps::look_inside;
use sealroot::steps::prove;
use sealroot::verity::Verification;
use sealroot_stub_rules::Payload;
use sealroot_stub_rules::payload::Layout;

use crate::arguments::UkiArguments;
use crate::contents::Contents;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};
use crate::signature::{self, SignatureVerdict};
use crate::{complete, contents, deployment, image_file, manifest, measure};

/// `COMMAND_LINE_SIZE` of x86-64 and arm64, without the zero at its end.
const MAX_COMMAND_LINE: usize = 2047;

/// What was found in a UKI.
#[derive(Debug, Serialize)]
pub struct UkiVerdict {
    machine: String,
    signed: bool,
    /// What a certificate says of the signature, if there is one to ask.
    signature: Option<SignatureVerdict>,
    profiles: Vec<ProfileVerdict>,
    /// Whether bypasses count against it.
    strict: bool,
    /// Those that do not.
    accepted: Vec<Bypass>,
}

/// What one profile of it would do.
#[derive(Debug, Serialize)]
struct ProfileVerdict {
    command_line: String,
    kernel: Option<String>,
    system: Option<String>,
    /// The boot stub, by its own word.
    stub: Option<String>,
    /// What may be mounted: format and digest of each image.
    images: Vec<String>,
    policy: Option<Settings>,
    bypasses: Vec<Bypass>,
    /// What keeps it from booting a sealed root.
    problems: Vec<String>,
    /// What a boot would take, though hardly anybody means it.
    warnings: Vec<String>,
    /// The image that a repository was found to have for it.
    image: Option<String>,
}

pub fn run(arguments: &UkiArguments) -> Result<UkiVerdict, Failure> {
    let name = printable(arguments.file.as_os_str().as_encoded_bytes());
    let failed = |error: Refusal| Failure::Reason(format!("'{name}': {}", chain(&error)));
    let file = measure::open(&arguments.file).map_err(unread).map_err(failed)?;
    let content = read(&file).map_err(failed)?;
    let uki = Uki::parse(&content).map_err(failed)?;
    let mut unpacked = Unpacked { budget: Budget::for_input(content.len()), read: Vec::new() };
    let mut profiles = Vec::new();
    for sections in &uki.profiles {
        let initrd = required(sections, ".initrd").map_err(failed)?;
        let kernel = required(sections, ".linux").map_err(failed)?;
        let more = sections.get(".ucode").and_then(|microcode| match unpacked.get(microcode) {
            Ok(files) => complete::beside_microcode(files),
            Err(error) => Some(format!("'.ucode': {error}")),
        });
        let mut verdict = judge(sections, unpacked.get(initrd), arguments.repository.as_deref()).map_err(failed)?;
        verdict.problems.extend(more);
        if stub_of(sections) == Stub::Sealroot
            && let Err(problem) = Payload::read(&content, Layout::File)
        {
            verdict.problems.push(format!("boot stub: {problem}"));
        }
        if let Ok(files) = unpacked.get(initrd) {
            let line = CommandLine::split(pe::text(sections, ".cmdline").ok().flatten().unwrap_or_default());
            // The stub puts microcode in front.
            let microcode = sections.get(".ucode").copied().unwrap_or_default();
            verdict.problems.extend(manifest::problems(microcode, initrd, files, &line));
        }
        let certificate = arguments.certificate.as_deref();
        judge_kernel(kernel, certificate, &mut verdict)?;
        profiles.push(verdict);
    }
    let certificate = arguments.certificate.as_deref();
    let signature = certificate.map(|certificate| signature::judge(&file, uki.signature, certificate)).transpose()?;
    Ok(UkiVerdict {
        machine: uki.machine,
        signed: uki.signature == Signature::Present,
        signature,
        profiles,
        strict: arguments.strict,
        accepted: arguments.accepted.clone(),
    })
}

/// What forbids a program to start.
#[derive(Debug, Serialize)]
pub struct Forbidden {
    /// Its SHA-256 digest, as the firmware computes it.
    digest: String,
    /// The list for dbx, in base64.
    dbx: String,
}

/// The entry of dbx for a program, which need not be a UKI.
pub fn forbid(arguments: &UkiArguments) -> Result<Forbidden, Failure> {
    let name = printable(arguments.file.as_os_str().as_encoded_bytes());
    let failed = |error: Refusal| Failure::Reason(format!("'{name}': {}", chain(&error)));
    let file = measure::open(&arguments.file).map_err(unread).map_err(failed)?;
    let digest = authenticode::digest(&read(&file).map_err(failed)?).map_err(failed)?;
    Ok(Forbidden {
        digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        dbx: BASE64_STANDARD.encode(authenticode::forbidding(digest)),
    })
}

impl Finding for Forbidden {
    fn answer(&self) -> Answer {
        Answer::Yes
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        writeln!(text, "{}", self.dbx)
    }
}

/// Whether the kernel could be started without the rest of the image, by a boot loader that somebody signed: with any initramfs and
/// any command line.
fn judge_kernel(kernel: &[u8], certificate: Option<&Path>, verdict: &mut ProfileVerdict) -> Result<(), Failure> {
    const EXPECTED: &str =
        "kernel: expected no signature of its own, since a boot loader could start it without the rest";
    if !sealroot_stub_rules::pe::is_signed(kernel) {
        return Ok(());
    }
    let Some(certificate) = certificate else {
        verdict.warnings.push(format!("{EXPECTED}, found one (--cert tells whether the machine takes it)"));
        return Ok(());
    };
    let signature = signature::judge_part(kernel, certificate)?;
    if signature.is_right() {
        verdict.problems.push(format!("{EXPECTED}, found one that '{}' vouches for", signature.certificate()));
    } else {
        verdict
            .warnings
            .push(format!("{EXPECTED}, found one by a key that '{}' does not vouch for", signature.certificate()));
    }
    Ok(())
}

fn unread(reason: std::io::Error) -> Refusal {
    Refusal::of("cannot be read").because(reason)
}

fn read(file: &File) -> Result<Vec<u8>, Refusal> {
    let size = file.metadata().map_err(unread)?.len();
    if size > MAX_SIZE {
        return Err(pe::too_long(size));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content).map_err(unread)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(pe::too_long(content.len() as u64));
    }
    Ok(content)
}

/// Each initramfs of a file, read once: as a rule all profiles have the same.
struct Unpacked<'a> {
    budget: Budget,
    read: Vec<(&'a [u8], Result<Initramfs, String>)>,
}

impl<'a> Unpacked<'a> {
    fn get(&mut self, initrd: &'a [u8]) -> Result<&Initramfs, &str> {
        let index = match self.read.iter().position(|(known, _)| ptr::eq(*known, initrd)) {
            Some(index) => index,
            None => {
                let read = Initramfs::read(initrd, &mut self.budget, &complete::is_read).map_err(|error| chain(&error));
                self.read.push((initrd, read));
                self.read.len() - 1
            }
        };
        match self.read.get(index) {
            Some((_, Ok(initramfs))) => Ok(initramfs),
            Some((_, Err(error))) => Err(error),
            None => Err("initramfs: expected to have been read, found none"),
        }
    }
}

fn judge(
    sections: &Sections<'_>,
    initramfs: Result<&Initramfs, &str>,
    repository: Option<&Path>,
) -> Result<ProfileVerdict, Refusal> {
    let command_line = pe::text(sections, ".cmdline")?.ok_or_else(|| pe::no_section(".cmdline"))?;
    let mut verdict = ProfileVerdict {
        command_line: printable(command_line),
        kernel: pe::text(sections, ".uname")?.map(printable),
        system: pe::text(sections, ".osrel")?.and_then(pretty_name),
        stub: None,
        images: Vec::new(),
        policy: None,
        bypasses: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        image: None,
    };
    let initramfs = match initramfs {
        Ok(initramfs) => initramfs,
        Err(error) => {
            verdict.problems.push(error.into());
            return Ok(verdict);
        }
    };
    verdict.problems.append(&mut complete::problems(initramfs));
    if command_line.len() > MAX_COMMAND_LINE {
        let expected = format!("at most {MAX_COMMAND_LINE} bytes (the kernel cuts off the rest)");
        let refusal = Refusal::of("kernel command line").expected(expected).found(command_line.len());
        verdict.problems.push(refusal.to_string());
    }
    let command_line = CommandLine::split(command_line);
    match decide(sections, initramfs, &command_line, &mut verdict) {
        Ok(policy) => {
            if let Err(refusal) = prove::init_karg(&command_line) {
                verdict.problems.push(chain(&refusal));
            }
            verdict.images = policy.images().iter().map(ToString::to_string).collect();
            let found = repository.map(|repository| find_image(repository, &policy, &command_line, &mut verdict));
            if let Some(Err(Failure::Reason(reason) | Failure::Misuse(reason))) = found {
                verdict.problems.push(reason);
            }
        }
        Err(problem) => verdict.problems.push(problem),
    }
    Ok(verdict)
}

/// What the boot program would decide on a machine that enforces Secure Boot.
fn decide(
    sections: &Sections<'_>,
    initramfs: &Initramfs,
    command_line: &CommandLine,
    verdict: &mut ProfileVerdict,
) -> Result<Policy, String> {
    let ours = Config::from_sealroot_toml(config(initramfs, SEALROOT_TOML)?).map_err(|error| error.to_string())?;
    let theirs =
        Config::from_setup_root_conf(config(initramfs, SETUP_ROOT_CONF_TOML)?).map_err(|error| error.to_string())?;
    verdict.warnings.extend(theirs.describe_unknown());
    let resolved = Resolved::new(command_line.clone(), ours, theirs);
    let stub = stub_of(sections);
    verdict.stub = Some(match stub {
        Stub::Systemd(release) => format!("systemd-stub {release}"),
        Stub::Sealroot => "sealroot-stub, which adds nothing".into(),
        Stub::Unknown => "unknown".into(),
    });
    // A builder can overwrite the name that the stub looks for, before the image is signed.
    let takes_smbios = stub == Stub::Unknown || has_smbios_name(sections);
    verdict.bypasses = bypasses::find(&Boot {
        resolved: &resolved,
        lockdown: Lockdown::None,
        secure_boot: SecureBoot::Enforced,
        stub: Some(stub),
        filesystem: PhysicalFilesystem::MayBeExt4,
    });
    if !takes_smbios {
        verdict.bypasses.retain(|bypass| *bypass != Bypass::StubCommandLine);
    }
    verdict.policy = Some(resolved.settings().clone());
    match policy::decide(&resolved, SecureBoot::Enforced, &[]).map_err(|error| chain(&error))? {
        Decision::Seal(policy) if policy.verification() == Verification::Required => Ok(policy),
        Decision::Seal(_) => Err("kernel command line: expected verification to be required, found '?'".into()),
        Decision::NothingToDo(_) => {
            Err("kernel command line: no composefs karg, and policy.karg = \"optional\"".into())
        }
    }
}

/// The stub, by its own word.
fn stub_of(sections: &Sections<'_>) -> Stub {
    match (sections.get(".sdmagic"), sections.get(".sbat")) {
        (Some(content), _) => Stub::of_section(content),
        (None, Some(content)) => Stub::of_sbat(content),
        (None, None) => Stub::Unknown,
    }
}

/// Whether the stub has the name of the SMBIOS string that adds to the command line: what it consists of are the sections
/// that no builder adds.
fn has_smbios_name(sections: &Sections<'_>) -> bool {
    const NAME: &[u8] = b"io.systemd.stub.kernel-cmdline-extra";
    let added = [".linux", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto", ".hwids", ".efifw"];
    // No stub is near that large, in bytes: what is, has the name.
    const MAX_STUB: usize = 1 << 20;
    let own = sections.iter().filter(|(name, _)| !added.contains(&name.as_str()));
    own.into_iter()
        .any(|(_, content)| content.len() > MAX_STUB || content.windows(NAME.len()).any(|window| window == NAME))
}

/// A configuration file of the initramfs; an absent one is empty.
fn config<'a>(initramfs: &'a Initramfs, path: &str) -> Result<&'a str, String> {
    match initramfs.get(path.trim_start_matches('/')) {
        None => Ok(""),
        Some(Content::Bytes(bytes)) if bytes.len() as u64 > MAX_INPUT => Err(too_long(path, MAX_INPUT).to_string()),
        Some(Content::Bytes(bytes)) => str::from_utf8(bytes).map_err(|_| format!("'{path}': expected UTF-8")),
        Some(_) => Err(format!("'{path}': expected a small regular file")),
    }
}

/// Looks at the image that a repository has for a policy: whether it can be booted, what it lacks, and what lies beside it.
fn find_image(
    repository: &Path,
    policy: &Policy,
    line: &CommandLine,
    verdict: &mut ProfileVerdict,
) -> Result<(), Failure> {
    let repository = image_file::open_repository(repository)?;
    let found = find_in(&repository, policy.images())?;
    let image = image_file::open_in(&repository, found.requested().digest())?;
    if let Some(expected) = found.requested().format().filter(|expected| *expected != image.format) {
        return Err(format!(
            "image '{}': expected composefs format {}, found {}",
            image.name,
            expected.name(),
            image.format.name()
        )
        .into());
    }
    let digest = found.requested().digest();
    let mount_points = assemble::mount_points(policy.settings());
    composefs::check_mount_points(&image.name, &image.file, &mount_points)?;
    let settings = &look_inside::settle(policy.settings(), &image.name, &image.file)?;
    verdict.policy = Some(settings.clone());
    verdict.image = Some(format!("{}: {}", image.name, image.measured.by()));
    let contents = Contents::new(&image.name, &image.file, &mount_points)?;
    verdict.problems.extend(contents.missing(&repository, Some(line))?.iter().map(|refusal| chain(refusal)));
    let read_only = *settings.etc.value() == StateMount::None && !*settings.transient_root.value();
    if read_only && contents.lacks_machine_id()? {
        verdict.warnings.push(contents::no_machine_id(&image.name));
    }
    if settings.etc_keep.value().is_some() && contents.lacks_keeper()? {
        verdict.warnings.push(contents::no_keeper(&image.name));
    }
    let found = deployment::look(&repository, digest, settings, &contents);
    verdict.problems.extend(found.problems);
    verdict.warnings.extend(found.warnings);
    Ok(())
}

/// What `os-release` calls the system.
fn pretty_name(os_release: &[u8]) -> Option<String> {
    let fields: BTreeMap<_, _> =
        str::from_utf8(os_release).ok()?.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key| fields.get(key).map(|value| printable(value.trim_matches(['"', '\'']).as_bytes()));
    match (value("PRETTY_NAME"), value("IMAGE_VERSION")) {
        (Some(name), Some(version)) => Some(format!("{name} ({version})")),
        (name, version) => name.or(version),
    }
}

impl Finding for UkiVerdict {
    fn answer(&self) -> Answer {
        let counts = |bypass: &Bypass| self.strict && !self.accepted.contains(bypass);
        let closed = !self.profiles.iter().flat_map(|profile| &profile.bypasses).any(counts);
        let signed = self.signed && self.signature.as_ref().is_none_or(SignatureVerdict::is_right);
        Answer::if_so(signed && closed && self.profiles.iter().all(|profile| profile.problems.is_empty()))
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        writeln!(text, "machine:      {}", self.machine)?;
        let signed = match &self.signature {
            Some(verdict) if !verdict.is_right() => paint.bad(verdict),
            Some(verdict) => verdict.to_string(),
            None if self.signed => "yes (by whom, the firmware decides)".into(),
            None => paint.bad("no"),
        };
        writeln!(text, "signed:       {signed}")?;
        for (number, profile) in self.profiles.iter().enumerate() {
            if self.profiles.len() > 1 {
                writeln!(text, "profile {number}")?;
            }
            profile.write_text(text, paint)?;
        }
        match self.answer() {
            Answer::Yes => writeln!(text, "=> {}", paint.good("boots a sealed root")),
            Answer::No => writeln!(text, "=> {}", paint.bad("does not boot a sealed root")),
        }
    }
}

impl ProfileVerdict {
    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        for (name, value) in [("system", &self.system), ("kernel", &self.kernel), ("stub", &self.stub)] {
            writeln!(text, "{:13} {}", format!("{name}:"), value.as_deref().unwrap_or("not said"))?;
        }
        writeln!(text, "command line: {}", self.command_line)?;
        for image in &self.images {
            writeln!(text, "image:        {image}")?;
        }
        if let Some(settings) = &self.policy {
            writeln!(text, "policy:       {}", printable(settings_text(settings).as_bytes()))?;
        }
        if let Some(image) = &self.image {
            writeln!(text, "repository:   {image}")?;
        }
        for bypass in &self.bypasses {
            writeln!(text, "{}         {}, closed by: {}", paint.bad("open:"), bypass.name(), bypass.remedy())?;
        }
        for warning in &self.warnings {
            writeln!(text, "warning:      {}", printable(warning.as_bytes()))?;
        }
        self.problems
            .iter()
            .try_for_each(|problem| writeln!(text, "{}      {}", paint.bad("problem:"), printable(problem.as_bytes())))
    }
}

/// The settings that a configuration changes, as `key = value`.
fn settings_text(settings: &Settings) -> String {
    let json: Value = match json::from_str(&json::to_string(settings)) {
        Ok(value) => value,
        Err(_) => return String::new(),
    };
    let Value::Object(fields) = json else { return String::new() };
    let changed = fields.iter().filter_map(|(key, setting)| match setting {
        Value::Object(setting) => match (setting.get("value")?, setting.get("from")?) {
            (_, Value::String(from)) if from == "default" => None,
            (value, _) => Some(format!("{key} = {}", json::to_string(value))),
        },
        _ => None,
    });
    let changed: Vec<_> = changed.collect();
    if changed.is_empty() { "the defaults".into() } else { changed.join(", ") }
}
