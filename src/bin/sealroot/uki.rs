//! `sealroot uki`: what a unified kernel image would boot, and whether it would be sealed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::ptr;

use miniserde::Serialize;
use miniserde::json::{self, Value};
use sealroot::boot::chain;
use sealroot::cmdline::CommandLine;
use sealroot::config::{Config, SEALROOT_TOML, SETUP_ROOT_CONF_TOML};
use sealroot::firmware::{Lockdown, SecureBoot};
use sealroot::openings::{self, Opening};
use sealroot::policy::{self, Decision, Policy, Settings, Verification};
use sealroot::uki::initramfs::{Budget, Content, Initramfs};
use sealroot::uki::pe::{self, MAX_SIZE, PeError, Sections, Signature, Uki, required};
use sealroot::{assemble, image};

use crate::arguments::UkiArguments;
use crate::image_file;
use crate::measure;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// The boot program, in the initramfs.
const PROGRAM: &str = "usr/lib/sealroot/sealroot-initrd";
const UNITS: &str = "usr/lib/systemd/system";

/// The units that hold it all together, as they are installed.
const SHIPPED: [(&str, &str); 5] = [
    ("sealroot.service", include_str!("../../../systemd-units/sealroot.service")),
    ("sealroot-guard.service", include_str!("../../../systemd-units/sealroot-guard.service")),
    ("sealroot-refused.service", include_str!("../../../systemd-units/sealroot-refused.service")),
    (
        "initrd-switch-root.service.d/50-sealroot.conf",
        include_str!("../../../systemd-units/initrd-switch-root.service.d/50-sealroot.conf"),
    ),
    ("sysroot.mount.d/50-sealroot.conf", include_str!("../../../systemd-units/sysroot.mount.d/50-sealroot.conf")),
];
/// What enables them.
const ENABLED: [&str; 2] =
    ["initrd-root-fs.target.requires/sealroot.service", "initrd.target.wants/sealroot-guard.service"];
/// What has systemd call the boot program before it starts any unit, and where it must lead.
const GENERATOR: &str = "usr/lib/systemd/system-generators/sealroot-generator";
/// The units that others could override.
const GUARDED: [&str; 4] =
    ["sealroot.service", "sealroot-guard.service", "sealroot-refused.service", "initrd-switch-root.service"];
/// What the kernel must be able to do.
const MODULES: [&str; 2] = ["erofs", "overlay"];

/// What was found in a UKI.
#[derive(Debug, Serialize)]
pub struct UkiVerdict {
    machine: String,
    signed: bool,
    profiles: Vec<ProfileVerdict>,
    /// Whether openings count against it.
    strict: bool,
}

/// What one profile of it would do.
#[derive(Debug, Serialize)]
struct ProfileVerdict {
    command_line: String,
    kernel: Option<String>,
    system: Option<String>,
    /// What may be mounted: format and digest of each image.
    images: Vec<String>,
    policy: Option<Settings>,
    openings: Vec<Opening>,
    /// What keeps it from booting a sealed root.
    problems: Vec<String>,
    /// The image that a repository was found to have for it.
    image: Option<String>,
}

pub fn run(arguments: &UkiArguments) -> Result<UkiVerdict, Failure> {
    let name = printable(arguments.file.as_os_str().as_encoded_bytes());
    let failed = |error: PeError| Failure::Reason(format!("'{name}': {}", chain(&error)));
    let content = read(&arguments.file).map_err(failed)?;
    let uki = Uki::parse(&content).map_err(failed)?;
    let mut unpacked = Unpacked { budget: Budget::for_input(content.len()), read: Vec::new() };
    let mut profiles = Vec::new();
    for sections in &uki.profiles {
        let initrd = required(sections, ".initrd").map_err(failed)?;
        required(sections, ".linux").map_err(failed)?;
        profiles.push(judge(sections, unpacked.get(initrd), arguments.repository.as_deref()).map_err(failed)?);
    }
    Ok(UkiVerdict {
        machine: uki.machine,
        signed: uki.signature == Signature::Present,
        profiles,
        strict: arguments.strict,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, PeError> {
    let file = measure::open(path).map_err(PeError::Read)?;
    let size = file.metadata().map_err(PeError::Read)?.len();
    if size > MAX_SIZE {
        return Err(PeError::TooLong(size));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content).map_err(PeError::Read)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(PeError::TooLong(content.len() as u64));
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
                let read = Initramfs::read(initrd, &mut self.budget, &is_read).map_err(|error| chain(&error));
                self.read.push((initrd, read));
                self.read.len() - 1
            }
        };
        match self.read.get(index) {
            Some((_, Ok(initramfs))) => Ok(initramfs),
            Some((_, Err(error))) => Err(error),
            None => Err(""),
        }
    }
}

fn judge(
    sections: &Sections<'_>,
    initramfs: Result<&Initramfs, &str>,
    repository: Option<&Path>,
) -> Result<ProfileVerdict, PeError> {
    let command_line = pe::text(sections, ".cmdline")?.ok_or(PeError::NoSection(".cmdline"))?;
    let mut verdict = ProfileVerdict {
        command_line: printable(command_line),
        kernel: pe::text(sections, ".uname")?.map(printable),
        system: pe::text(sections, ".osrel")?.and_then(pretty_name),
        images: Vec::new(),
        policy: None,
        openings: Vec::new(),
        problems: Vec::new(),
        image: None,
    };
    let initramfs = match initramfs {
        Ok(initramfs) => initramfs,
        Err(error) => {
            verdict.problems.push(error.into());
            return Ok(verdict);
        }
    };
    verdict.problems.append(&mut missing_parts(initramfs));
    let command_line = CommandLine::split(command_line);
    match decide(initramfs, &command_line, &mut verdict) {
        Ok(policy) => {
            verdict.images = policy.images().iter().map(ToString::to_string).collect();
            if let Some(repository) = repository {
                match find_image(repository, &policy) {
                    Ok(image) => verdict.image = Some(image),
                    Err(Failure::Reason(reason) | Failure::Misuse(reason)) => verdict.problems.push(reason),
                }
            }
        }
        Err(problem) => verdict.problems.push(problem),
    }
    Ok(verdict)
}

/// The files of an initramfs whose content counts.
fn is_read(path: &str) -> bool {
    path.ends_with("/modules.builtin")
        || [SEALROOT_TOML, SETUP_ROOT_CONF_TOML].iter().any(|config| config.strip_prefix('/') == Some(path))
        || SHIPPED
            .iter()
            .any(|(unit, _)| path.strip_prefix(UNITS).and_then(|rest| rest.strip_prefix('/')) == Some(*unit))
}

/// What the boot program would decide on a machine that enforces Secure Boot.
fn decide(initramfs: &Initramfs, command_line: &CommandLine, verdict: &mut ProfileVerdict) -> Result<Policy, String> {
    let ours = Config::from_sealroot_toml(config(initramfs, SEALROOT_TOML)?).map_err(|error| error.to_string())?;
    let theirs =
        Config::from_setup_root_conf(config(initramfs, SETUP_ROOT_CONF_TOML)?).map_err(|error| error.to_string())?;
    let settings = Settings::resolve(ours, theirs, command_line);
    verdict.openings = openings::find(command_line, *settings.etc.value(), Lockdown::None);
    verdict.policy = Some(settings.clone());
    match policy::decide(command_line, settings, SecureBoot::Enforced, &[]).map_err(|error| chain(&error))? {
        Decision::Seal(policy) if policy.verification() == Verification::Required => Ok(policy),
        Decision::Seal(_) => Err("kernel command line: expected verification to be required, found '?'".into()),
        Decision::NothingToDo(_) => {
            Err("kernel command line: no composefs karg, and policy.karg = \"optional\"".into())
        }
    }
}

/// A configuration file of the initramfs; an absent one is empty.
fn config<'a>(initramfs: &'a Initramfs, path: &str) -> Result<&'a str, String> {
    match initramfs.get(path.trim_start_matches('/')) {
        None => Ok(""),
        Some(Content::Bytes(bytes)) => str::from_utf8(bytes).map_err(|_| format!("'{path}': expected UTF-8")),
        Some(_) => Err(format!("'{path}': expected a small regular file")),
    }
}

/// What the initramfs lacks for a sealed boot.
fn missing_parts(initramfs: &Initramfs) -> Vec<String> {
    let mut problems = Vec::new();
    if !matches!(initramfs.get(PROGRAM), Some(Content::Bytes(_) | Content::Unread)) {
        problems.push(format!("initramfs: expected the boot program '/{PROGRAM}', found none"));
    }
    for (unit, shipped) in SHIPPED {
        match initramfs.get(&format!("{UNITS}/{unit}")) {
            Some(Content::Bytes(found)) if found == shipped.as_bytes() => {}
            Some(_) => problems.push(format!("initramfs: unit '{unit}': expected the one of this release")),
            None => problems.push(format!("initramfs: expected a unit '{unit}', found none")),
        }
    }
    for link in ENABLED {
        if initramfs.get(&format!("{UNITS}/{link}")).is_none() {
            problems.push(format!("initramfs: expected '{link}', found none: the unit is not enabled"));
        }
    }
    match initramfs.get(GENERATOR) {
        Some(Content::Link(target)) if target.strip_prefix(b"/") == Some(PROGRAM.as_bytes()) => {}
        Some(_) => problems.push(format!("initramfs: '/{GENERATOR}': expected a link to '/{PROGRAM}'")),
        None => problems.push(format!("initramfs: expected '/{GENERATOR}', found none")),
    }
    problems.extend(initramfs.paths().filter(|path| overrides(path)).map(|path| {
        format!("initramfs: expected nothing to override units of sealroot, found '/{}'", printable(path.as_bytes()))
    }));
    for module in MODULES {
        if !has_module(initramfs, module) {
            problems
                .push(format!("initramfs: expected the kernel module '{module}', or it in the kernel, found neither"));
        }
    }
    problems
}

/// Whether a path is that of a unit, or of a drop-in, that takes the place of ours or adds to one.
fn overrides(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let (name, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !path.contains("systemd/") || SHIPPED.iter().any(|(unit, _)| path == format!("{UNITS}/{unit}")) {
        return false;
    }
    GUARDED.iter().any(|unit| {
        let is_drop_in = folder == format!("{unit}.d") && name.ends_with(".conf");
        // systemd's own is at the one place; links in `.wants` and `.requires` are no units.
        let is_unit = name == *unit && folder == "system" && path != format!("{UNITS}/initrd-switch-root.service");
        is_drop_in || is_unit
    })
}

/// Whether a module is there, or is in the kernel by the word of the list that comes with the modules.
fn has_module(initramfs: &Initramfs, module: &str) -> bool {
    let is_it = |path: &str| {
        path.rsplit('/')
            .next()
            .is_some_and(|file| file.strip_prefix(module).is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko.")))
    };
    initramfs.paths().filter(|path| path.starts_with("usr/lib/modules/") || path.starts_with("lib/modules/")).any(
        |path| match initramfs.get(path) {
            Some(Content::Bytes(list)) if path.ends_with("/modules.builtin") => {
                str::from_utf8(list).is_ok_and(|list| list.lines().any(is_it))
            }
            _ => is_it(path),
        },
    )
}

/// The image that a repository has for a policy, if it can be booted.
fn find_image(repository: &Path, policy: &Policy) -> Result<String, Failure> {
    let repository = image_file::open_repository(repository)?;
    let found = repository.find(policy.images())?;
    let image = image_file::open_in(&repository, found.requested().digest())?;
    if image.format != found.requested().format() {
        return Err(format!(
            "image '{}': expected composefs format {}, found {}",
            image.name,
            found.requested().format().name(),
            image.format.name()
        )
        .into());
    }
    image::check_mount_points(&image.name, &image.file, &assemble::mount_points(policy.settings()))?;
    Ok(format!("{}: {}", image.name, image.measured.by()))
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
        let closed = !self.strict || self.profiles.iter().all(|profile| profile.openings.is_empty());
        Answer::if_so(self.signed && closed && self.profiles.iter().all(|profile| profile.problems.is_empty()))
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        writeln!(text, "machine:      {}", self.machine)?;
        let signed = if self.signed { "yes (by whom, the firmware decides)".into() } else { paint.bad("no") };
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
        for (name, value) in [("system", &self.system), ("kernel", &self.kernel)] {
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
        for opening in &self.openings {
            writeln!(text, "{}         {}, missing: {}", paint.bad("open:"), opening.name(), opening.remedy())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overriding_units() {
        for path in [
            "etc/systemd/system/sealroot.service",
            "etc/systemd/system/initrd-switch-root.service",
            "usr/lib/systemd/system/initrd-switch-root.service.d/60-more.conf",
            "etc/systemd/system/initrd-switch-root.service.d/50-sealroot.conf",
            "run/systemd/system/sealroot-guard.service.d/x.conf",
            "usr/local/lib/systemd/system/sealroot-refused.service",
        ] {
            assert!(overrides(path), "{path}");
        }
        for path in [
            "usr/lib/systemd/system/sealroot.service",
            "usr/lib/systemd/system/initrd-switch-root.service",
            "usr/lib/systemd/system/initrd-switch-root.service.d/50-sealroot.conf",
            "usr/lib/systemd/system/initrd.target.wants/sealroot-guard.service",
            "usr/lib/systemd/system/initrd-switch-root.service.d",
            "usr/lib/sealroot/sealroot.toml",
        ] {
            assert!(!overrides(path), "{path}");
        }
    }

    #[test]
    fn modules() {
        let has = |path: &str| {
            let mut archive = Vec::new();
            let header = [1, 0o100_644, 0, 0, 1, 0, 0, 0, 0, 0, 0, path.len() as u32 + 1, 0];
            archive.extend(b"070701");
            archive.extend(header.map(|field| format!("{field:08x}")).concat().bytes());
            archive.extend(path.bytes());
            archive.push(0);
            archive.resize(archive.len().next_multiple_of(4), 0);
            has_module(&Initramfs::read(&archive, &mut Budget::for_input(archive.len()), &is_read).unwrap(), "erofs")
        };
        assert!(has("usr/lib/modules/6.12/kernel/fs/erofs/erofs.ko.xz") && has("lib/modules/6.12/erofs.ko"));
        assert!(
            !has("usr/lib/modules/6.12/erofs-more.ko") && !has("usr/lib/erofs.ko") && !has("usr/lib/modules/erofs.kox")
        );
    }
}
