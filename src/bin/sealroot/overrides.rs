//! What in an initramfs changes or masks the units that the seal depends on.
//!
//! Source: systemd.unit(5) for directories, drop-ins, aliases and masks, systemd.generator(7).

use std::collections::BTreeSet;

use sealroot::formats::uki::initramfs::{Content, Initramfs};

use crate::output::printable;
use crate::shipped::{ENABLED, GENERATOR, RIVALS, SHIPPED, UNITS};

/// Where systemd looks for units, what counts most first, without a `/` in front.
const DIRECTORIES: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    UNITS,
    "lib/systemd/system",
    "run/systemd/generator.late",
];
/// Where systemd looks for generators, likewise.
const GENERATORS: [&str; 5] = [
    "run/systemd/system-generators",
    "etc/systemd/system-generators",
    "usr/local/lib/systemd/system-generators",
    "usr/lib/systemd/system-generators",
    "lib/systemd/system-generators",
];
/// Ours.
const OURS: [&str; 3] = ["sealroot.service", "sealroot-guard.service", "sealroot-refused.service"];
/// Those of systemd that ours hang on.
const SYSTEMDS: [&str; 4] =
    ["initrd-root-fs.target", "initrd-switch-root.service", "initrd-switch-root.target", "initrd.target"];
/// The one that is made of the command line at each boot.
const GENERATED: &str = "sysroot.mount";
/// So long is a chain of links at most, as for the kernel.
const MAX_LINKS: usize = 40;
/// So many problems of one kind are told.
const MAX_TOLD: usize = 20;

/// Whether a file's content counts here: an empty one is a mask.
pub fn is_read(path: &str) -> bool {
    in_directory(path).is_some_and(|(_, rest)| is_guarded(rest) || RIVALS.contains(&rest))
}

/// The file that systemd takes for a unit, of those in all its directories.
pub fn in_effect<'a>(initramfs: &'a Initramfs, unit: &str) -> Option<(String, &'a Content)> {
    DIRECTORIES.iter().find_map(|directory| {
        let path = format!("{directory}/{unit}");
        let content = initramfs.get(&path)?;
        Some((path, content))
    })
}

/// What keeps the units from being what they are to be, and nothing else.
pub fn problems(initramfs: &Initramfs) -> Vec<String> {
    let drop_ins = drop_in_directories(initramfs);
    let missing = SYSTEMDS
        .iter()
        .filter(|unit| initramfs.get(&format!("{UNITS}/{unit}")).is_none())
        .map(|unit| format!("initramfs: expected a unit '{unit}', found none"));
    let mut problems: Vec<_> = missing.collect();
    let mut found = initramfs.paths().filter_map(|path| problem(path, initramfs.get(path)?, &drop_ins));
    problems.extend(found.by_ref().take(MAX_TOLD));
    match found.count() {
        0 => {}
        more => problems.push(format!("initramfs: expected nothing to override units of sealroot, found {more} more")),
    }
    problems
}

/// What is wrong with a file, if it is one that counts.
fn problem(path: &str, content: &Content, drop_ins: &BTreeSet<String>) -> Option<String> {
    let shown = printable(path.as_bytes());
    let overriding = || Some(format!("initramfs: expected nothing to override units of sealroot, found '/{shown}'"));
    let masked =
        |unit| Some(format!("initramfs: unit '{unit}': expected it to be used, found it masked by '/{shown}'"));
    let is_link = matches!(content, Content::Link(_));
    if is_other_generator(path)
        || is_link && DIRECTORIES.iter().chain(&GENERATORS).any(|directory| leads_to(path, directory))
    {
        return overriding();
    }
    let (directory, rest) = in_directory(path)?;
    let Some((folder, name)) = rest.split_once('/') else {
        let in_place = directory == UNITS;
        return match content {
            _ if !is_guarded(rest) => match content {
                // Another name for one of ours, which brings drop-ins of its own; or a link in the place of a directory, and
                // what is behind it is not looked at.
                Content::Link(target) if OURS.contains(&last(target)) || is_folder(rest, drop_ins) => overriding(),
                _ => None,
            },
            _ if is_mask(content) => masked(rest),
            // Whether ours are those of this release, others ask.
            _ if in_place && OURS.contains(&rest) => None,
            Content::Bytes(_) | Content::Unread if in_place && SYSTEMDS.contains(&rest) => None,
            _ => overriding(),
        };
    };
    if ENABLED.contains(&rest) {
        return if leads_to_unit(path, content, name) { None } else { masked(name) };
    }
    let is_shipped = directory == UNITS && SHIPPED.iter().any(|(unit, _)| *unit == rest);
    if drop_ins.contains(folder) && name.ends_with(".conf") && !is_shipped { overriding() } else { None }
}

/// The directory of units that a path is in, and the rest of the path.
fn in_directory(path: &str) -> Option<(&'static str, &str)> {
    DIRECTORIES.iter().find_map(|directory| Some((*directory, path.strip_prefix(directory)?.strip_prefix('/')?)))
}

fn is_guarded(unit: &str) -> bool {
    guarded().any(|guarded| guarded == unit)
}

fn guarded() -> impl Iterator<Item = &'static str> {
    OURS.into_iter().chain(SYSTEMDS).chain([GENERATED])
}

/// The last part of a link's target.
fn last(target: &[u8]) -> &str {
    target.rsplit(|byte| *byte == b'/').next().and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
}

/// Whether systemd takes a file for a mask: it is empty, a device, or a link to `/dev/null`.
pub fn is_mask(content: &Content) -> bool {
    match content {
        Content::Bytes(bytes) => bytes.is_empty(),
        Content::Link(target) => target.ends_with(b"dev/null"),
        Content::Unread => false,
        Content::Other => true,
    }
}

/// Whether what enables a unit is a link to it. systemd takes a link to `/dev/null` for a mask, and any file that is no link
/// for nothing.
fn leads_to_unit(path: &str, content: &Content, unit: &str) -> bool {
    let Content::Link(target) = content else { return false };
    let Ok(target) = str::from_utf8(target) else { return false };
    let mut parts: Vec<_> = if target.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let resolved = parts.join("/");
    [UNITS, "lib/systemd/system"].iter().any(|directory| resolved == format!("{directory}/{unit}"))
}

/// Whether `path` is `directory` or, as far as that is systemd's own, on the way to it.
fn leads_to(path: &str, directory: &str) -> bool {
    directory.strip_prefix(path).is_some_and(|rest| matches!(rest, "" | "/system") && path.contains("systemd"))
}

/// Whether a name is that of a directory with drop-ins or dependencies of units that count.
fn is_folder(name: &str, drop_ins: &BTreeSet<String>) -> bool {
    let of = |suffix| name.strip_suffix(suffix).is_some_and(is_guarded);
    drop_ins.contains(name) || of(".wants") || of(".requires")
}

/// Whether a generator has the name of ours and another place: the first one counts.
fn is_other_generator(path: &str) -> bool {
    let name = GENERATOR.rsplit('/').next();
    let (folder, file) = path.rsplit_once('/').unwrap_or_default();
    Some(file) == name && folder.ends_with("systemd/system-generators") && path != GENERATOR
}

/// The names of directories whose drop-ins change units that count: `UNIT.d`; `PREFIX-.TYPE.d` for each dash in a unit's name;
/// `TYPE.d`; the same for each other name that a link gives to a unit.
fn drop_in_directories(initramfs: &Initramfs) -> BTreeSet<String> {
    let mut names: BTreeSet<&str> = guarded().collect();
    let link = |path| match (in_directory(path), initramfs.get(path)) {
        (Some((_, name)), Some(Content::Link(target))) if !name.contains('/') => Some((name, last(target))),
        _ => None,
    };
    let links: Vec<_> = initramfs.paths().filter_map(link).collect();
    // A link to a link is another name, too.
    for _ in 0..MAX_LINKS {
        let known = names.len();
        let more: Vec<_> = links.iter().filter(|(_, target)| names.contains(target)).map(|(name, _)| *name).collect();
        names.extend(more);
        if names.len() == known {
            break;
        }
    }
    names.into_iter().flat_map(drop_ins).collect()
}

fn drop_ins(unit: &str) -> Vec<String> {
    let Some((stem, kind)) = unit.rsplit_once('.') else { return Vec::new() };
    let dashes = stem.match_indices('-').filter_map(|(at, _)| Some(format!("{}.{kind}.d", stem.get(..=at)?)));
    dashes.chain([format!("{unit}.d"), format!("{kind}.d")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complete::archive::{LINK, REGULAR, entry, unpacked};

    const OVERRIDE: &str = "initramfs: expected nothing to override units of sealroot, found";

    /// What is said of an initramfs as dracut makes it, with one more file.
    fn said(path: &str, mode: u32, content: &str) -> Vec<String> {
        let directory = |name: &str| format!("{UNITS}/{name}");
        let mut archive = Vec::new();
        for unit in OURS.iter().chain(&SYSTEMDS) {
            archive.extend(entry(&directory(unit), REGULAR, "[Unit]"));
        }
        for (unit, content) in SHIPPED {
            archive.extend(entry(&directory(unit), REGULAR, content));
        }
        for link in ENABLED {
            archive.extend(entry(&directory(link), LINK, &format!("../{}", last(link.as_bytes()))));
        }
        for (link, target) in [
            ("usr/lib/systemd/system/default.target", "initrd.target"),
            (
                "usr/lib/systemd/system/initrd-root-device.target.wants/remote-cryptsetup.target",
                "../remote-cryptsetup.target",
            ),
            (
                "etc/systemd/system/initrd.target.wants/dracut-mount.service",
                "/usr/lib/systemd/system/dracut-mount.service",
            ),
            ("etc/systemd/system/systemd-sysext.service", "/dev/null"),
            ("usr/lib/systemd/system-generators/sealroot-generator", "/usr/lib/sealroot/sealroot-initrd"),
            ("lib", "usr/lib"),
        ] {
            archive.extend(entry(link, LINK, target));
        }
        archive.extend(entry("usr/lib/systemd/system/systemd-udevd.service.d/more.conf", REGULAR, "[Service]"));
        archive.extend(entry(path, mode, content));
        problems(&unpacked(&archive))
    }

    #[test]
    fn what_dracut_puts_there_is_no_problem() {
        for path in [
            "usr/lib/systemd/system/initrd-switch-root.service.d/readme",
            "usr/lib/systemd/system/other.service.d/50-more.conf",
            "usr/lib/systemd/system/initrd-fs.target.d/50-more.conf",
            "usr/lib/sealroot/sealroot.toml",
        ] {
            assert_eq!(said(path, REGULAR, "x"), [""; 0], "{path}");
        }
        let enabled = "etc/systemd/system/initrd-root-fs.target.requires/sealroot.service";
        for target in ["/usr/lib/systemd/system/sealroot.service", "/lib/systemd/system/sealroot.service"] {
            assert_eq!(said(enabled, LINK, target), [""; 0], "{target}");
        }
    }

    #[test]
    fn overriding() {
        for path in [
            "etc/systemd/system/sealroot.service",
            "usr/local/lib/systemd/system/sealroot-refused.service",
            "lib/systemd/system/sealroot-guard.service",
            "etc/systemd/system/initrd-switch-root.service",
            "run/systemd/system/initrd-switch-root.target",
            "etc/systemd/system.control/initrd.target",
            "run/systemd/transient/initrd-root-fs.target",
            "etc/systemd/system/sysroot.mount",
            "usr/lib/systemd/system/sysroot.mount",
            "usr/lib/systemd/system/initrd-switch-root.service.d/60-more.conf",
            "etc/systemd/system/initrd-switch-root.service.d/50-sealroot.conf",
            "run/systemd/system/sealroot-guard.service.d/x.conf",
            "usr/lib/systemd/system/sysroot.mount.d/60-more.conf",
            "usr/lib/systemd/system/initrd.target.d/x.conf",
            "etc/systemd/system/service.d/x.conf",
            "etc/systemd/system/mount.d/x.conf",
            "etc/systemd/system/target.d/x.conf",
            "usr/lib/systemd/system/sealroot-.service.d/x.conf",
            "usr/lib/systemd/system/initrd-.service.d/x.conf",
            "usr/lib/systemd/system/initrd-switch-.service.d/x.conf",
            "usr/lib/systemd/system/initrd-root-.target.d/x.conf",
            // A name of initrd.target.
            "etc/systemd/system/default.target.d/x.conf",
            "etc/systemd/system-generators/sealroot-generator",
        ] {
            assert_eq!(said(path, REGULAR, "x"), [format!("{OVERRIDE} '/{path}'")]);
        }
        for (path, target) in [
            ("etc/systemd/system/sealroot.service", "/etc/other.service"),
            ("usr/lib/systemd/system/initrd.target", "other.target"),
            ("etc/systemd/system/alias.service", "/usr/lib/systemd/system/sealroot.service"),
            ("etc/systemd/system/sealroot.service.d", "../elsewhere"),
            ("etc/systemd/system/initrd.target.wants", "../elsewhere"),
            ("etc/systemd/system", "../elsewhere"),
            ("etc/systemd", "elsewhere"),
        ] {
            assert_eq!(said(path, LINK, target), [format!("{OVERRIDE} '/{path}'")]);
        }
    }

    #[test]
    fn masked() {
        for (path, unit) in [
            ("etc/systemd/system/sealroot.service", "sealroot.service"),
            ("usr/lib/systemd/system/sealroot-guard.service", "sealroot-guard.service"),
            ("usr/lib/systemd/system/initrd-switch-root.service", "initrd-switch-root.service"),
            ("run/systemd/system/initrd.target", "initrd.target"),
            ("etc/systemd/system/initrd-root-fs.target.requires/sealroot.service", "sealroot.service"),
            ("usr/lib/systemd/system/initrd.target.wants/sealroot-guard.service", "sealroot-guard.service"),
        ] {
            let expected = format!("initramfs: unit '{unit}': expected it to be used, found it masked by '/{path}'");
            assert_eq!(said(path, LINK, "/dev/null"), [&*expected]);
            assert_eq!(said(path, LINK, "../../../../../dev/null"), [&*expected]);
            assert_eq!(said(path, REGULAR, ""), [&*expected]);
        }
    }

    #[test]
    fn many_are_counted() {
        let many: Vec<u8> =
            (0..30).flat_map(|number| entry(&format!("{UNITS}/service.d/{number}.conf"), REGULAR, "x")).collect();
        let told = problems(&unpacked(&many));
        assert_eq!(told.len(), SYSTEMDS.len() + MAX_TOLD + 1);
        assert_eq!(told.first().unwrap(), "initramfs: expected a unit 'initrd-root-fs.target', found none");
        assert_eq!(*told.last().unwrap(), format!("{OVERRIDE} 10 more"));
    }
}
