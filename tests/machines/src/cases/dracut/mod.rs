//! The dracut module and the units against the dracut and systemd of two releases of Debian: an initramfs that is asked
//! for has each part of sealroot, or none is made.

mod change;
mod image;
mod root;
mod table;

use anyhow::{Context, Result, anyhow, bail, ensure};

use self::change::Change;
use self::image::Image;
use self::root::{Root, Run};
use self::table::{Ask, Case, Expect, Releases};
use crate::trial::{Need, Tier, Trial};

const PROGRAM: &str = "/usr/lib/sealroot/sealroot-initrd";
const CONFIG: &str = "/usr/lib/sealroot/sealroot.toml";
const COMPOSEFS_CONFIG: &str = "/usr/lib/composefs/setup-root-conf.toml";
const UNITS: &str = "/usr/lib/systemd/system";
/// What an initramfs must not lack.
const FILES: [&str; 8] = [
    PROGRAM,
    "/usr/lib/systemd/system/sealroot.service",
    "/usr/lib/systemd/system/sealroot-guard.service",
    "/usr/lib/systemd/system/sealroot-refused.service",
    "/usr/lib/systemd/system/initrd-switch-root.service.d/50-sealroot.conf",
    "/usr/lib/systemd/system/sysroot.mount.d/50-sealroot.conf",
    "/usr/lib/systemd/system/systemd-fsck-root.service.d/50-sealroot.conf",
    "/usr/lib/systemd/system/systemd-growfs@sysroot.service.d/50-sealroot.conf",
];

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    /// dracut 059, systemd 252.
    Bookworm,
    /// dracut 106, systemd 257.
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

type Test = Box<dyn FnOnce(&Root) -> Result<String> + Send>;

/// All tests of both releases.
pub fn trials() -> Vec<Trial> {
    [Suite::Trixie, Suite::Bookworm].into_iter().flat_map(trials_of).collect()
}

fn trials_of(suite: Suite) -> Vec<Trial> {
    let trial = |name: &str, releases: Releases, test: Test| {
        let with_each_push = suite == Suite::Trixie || releases == Releases::Each;
        Trial::new(format!("dracut::{}::{name}", suite.name()), move || root::with(suite, test))
            .tier(if with_each_push { Tier::Push } else { Tier::All })
            .needs(&[Need::Root])
    };
    let of_case = |case: Case| trial(&case.name.clone(), case.releases, Box::new(|root| try_case(root, case)));
    let units = trial("systemd_analyze_verify_finds_nothing_to_say", Releases::Each, Box::new(units_are_clean));
    table::cases().map(of_case).chain([units]).collect()
}

fn try_case(root: &Root, case: Case) -> Result<String> {
    for change in &case.before {
        change.make(root)?;
    }
    let (run, image) = match &case.ask {
        Ask::Default => root.dracut(&[]),
        Ask::With(options) => root.dracut_without_drivers(options),
    }?;
    judge(root, &case.expect, &run, image.as_ref()).map_err(|error| {
        let lines: Vec<_> = run.said.lines().collect();
        let end = lines[lines.len().saturating_sub(12)..].join("\n");
        anyhow!("{error:#}\ndracut {}, its last words:\n{end}", if run.succeeded { "succeeded" } else { "failed" })
    })?;
    Ok(match case.expect {
        Expect::Refused(words) => words,
        Expect::Warned(words) => words.to_owned(),
        Expect::Absent | Expect::Complete { .. } => String::new(),
    })
}

fn judge(root: &Root, expect: &Expect, run: &Run, image: Option<&Image>) -> Result<()> {
    match (expect, image) {
        (Expect::Refused(words), image) => {
            ensure!(!run.succeeded, "dracut: expected a failure, found success");
            ensure!(image.is_none(), "dracut: expected no initramfs, found one");
            ensure!(run.said.contains(words), "dracut: expected the words \"{words}\", found others");
            Ok(())
        }
        (_, None) => bail!("dracut: expected an initramfs, found none"),
        (_, Some(_)) if !run.succeeded => bail!("dracut: expected success, found a failure"),
        (Expect::Warned(words), Some(image)) => {
            ensure!(run.said.contains(words), "dracut: expected the words \"{words}\", found others");
            expect_parts(root, image, &[])
        }
        (Expect::Absent, Some(image)) => expect_no_part(image),
        (Expect::Complete { files, modules }, Some(image)) => {
            expect_parts(root, image, files)?;
            modules.iter().try_for_each(|module| expect_module(root, image, module))
        }
    }
}

fn expect_no_part(image: &Image) -> Result<()> {
    let systemd = "usr/lib/systemd/systemd";
    ensure!(image.paths().any(|path| path == systemd), "initramfs: expected '{systemd}', found none");
    match image.paths().find(|path| path.contains("sealroot")) {
        Some(part) => bail!("initramfs: expected no part of sealroot, found '{part}'"),
        None => Ok(()),
    }
}

fn expect_parts(root: &Root, image: &Image, more: &[&str]) -> Result<()> {
    for file in FILES.iter().chain(more) {
        let outside = std::fs::read(root.path(file)).with_context(|| (*file).to_owned())?;
        ensure!(
            image.content(file)? == outside,
            "initramfs: '{file}': expected what it is outside, found another content"
        );
    }
    image.expect_executable(PROGRAM)?;
    for link in ["initrd-root-fs.target.requires/sealroot.service", "initrd.target.wants/sealroot-guard.service"] {
        let unit = link.rsplit('/').next().unwrap_or(link);
        image.expect_link(&format!("{UNITS}/{link}"), &format!("../{unit}"))?;
    }
    image.expect_link("/usr/lib/systemd/system-generators/sealroot-generator", PROGRAM)?;
    for unit in [
        "systemd-sysext",
        "systemd-confext",
        "systemd-sysext-sysroot",
        "systemd-confext-sysroot",
        "bootc-root-setup",
        "composefs-setup-root",
        "ostree-prepare-root",
        "systemd-cryptenroll-firstboot",
    ] {
        image.expect_link(&format!("/etc/systemd/system/{unit}.service"), "/dev/null")?;
    }
    Ok(())
}

fn expect_module(root: &Root, image: &Image, module: &str) -> Result<()> {
    let built_in = root.built_in()?;
    let found = image.paths().chain(built_in.lines()).any(|path| change::is_module(path, module));
    ensure!(found, "initramfs: expected the kernel module '{module}' there or in the kernel, found neither");
    Ok(())
}

fn units_are_clean(root: &Root) -> Result<String> {
    // As systemd-fstab-generator writes it for root=.
    let sysroot =
        "[Unit]\nDefaultDependencies=no\nBefore=initrd-root-fs.target\n[Mount]\nWhat=/dev/vda2\nWhere=/sysroot\n";
    Change::Write("/etc/systemd/system/sysroot.mount", sysroot).make(root)?;
    let run = root.run(&[
        "systemd-analyze",
        "verify",
        "--man=no",
        "sealroot.service",
        "sealroot-guard.service",
        "sealroot-refused.service",
        "initrd-switch-root.service",
    ])?;
    ensure!(run.said.is_empty(), "systemd-analyze: expected nothing to say, found:\n{}", run.said);
    ensure!(run.succeeded, "systemd-analyze: expected success");
    Ok(String::new())
}
