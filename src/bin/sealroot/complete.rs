//! Whether an initramfs has all parts of sealroot, and they may do their work.

use sealroot::ask::config::{SEALROOT_TOML, SETUP_ROOT_CONF_TOML};
use sealroot::ask::manifest::{CMDLINE, MANIFEST};
use sealroot::formats::uki::initramfs::{Content, Initramfs};

use crate::output::printable;
use crate::overrides;
use crate::shipped::{ENABLED, GENERATOR, RIVALS, SHIPPED, UNITS};

/// The boot program, in the initramfs.
const PROGRAM: &str = "usr/lib/sealroot/sealroot-initrd";
/// What the kernel must be able to do.
const MODULES: [&str; 2] = ["erofs", "overlay"];

/// The files of an initramfs whose content counts.
pub fn is_read(path: &str) -> bool {
    path.ends_with("/modules.builtin")
        || [MANIFEST, CMDLINE].iter().any(|list| list.strip_prefix('/') == Some(path))
        || [SEALROOT_TOML, SETUP_ROOT_CONF_TOML].iter().any(|config| config.strip_prefix('/') == Some(path))
        || overrides::is_read(path)
        || SHIPPED
            .iter()
            .any(|(unit, _)| path.strip_prefix(UNITS).and_then(|rest| rest.strip_prefix('/')) == Some(*unit))
}

/// What the initramfs lacks for a sealed boot, and what would keep its parts from their work.
pub fn problems(initramfs: &Initramfs) -> Vec<String> {
    let mut problems = Vec::new();
    if !matches!(initramfs.get(PROGRAM), Some(Content::Bytes(_) | Content::Unread)) {
        problems.push(format!("initramfs: expected the boot program '/{PROGRAM}', found none"));
    }
    for (unit, shipped) in SHIPPED {
        match initramfs.get(&format!("{UNITS}/{unit}")) {
            Some(Content::Bytes(found)) if found == shipped.as_bytes() => {}
            // Of what is masked that is said.
            Some(content) if overrides::is_mask(content) && !unit.contains('/') => {}
            Some(_) => problems.push(format!("initramfs: unit '{unit}': expected the one of this release")),
            None => problems.push(format!("initramfs: expected a unit '{unit}', found none")),
        }
    }
    problems.extend(RIVALS.iter().filter_map(|rival| rival_problem(initramfs, rival)));
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
    problems.append(&mut overrides::problems(initramfs));
    for module in MODULES {
        if !has_module(initramfs, module) {
            problems
                .push(format!("initramfs: expected the kernel module '{module}', or it in the kernel, found neither"));
        }
    }
    problems
}

/// What is wrong with a unit that puts another root in place: it is there, and the file that systemd takes is no mask.
fn rival_problem(initramfs: &Initramfs, rival: &str) -> Option<String> {
    let (path, content) = overrides::in_effect(initramfs, rival)?;
    if overrides::is_mask(content) {
        return None;
    }
    let found = if path.starts_with(UNITS) {
        "found that it mounts a root of its own".into()
    } else {
        format!("found '/{path}', and that it mounts a root of its own")
    };
    Some(format!("initramfs: unit '{rival}': expected it to be masked, {found}"))
}

/// What a section `.ucode` holds beside microcode. The stub puts it in front of the initramfs, where it would add files to that.
pub fn beside_microcode(files: &Initramfs) -> Option<String> {
    const PLACE: &str = "kernel/x86/microcode";
    let is_microcode = |path: &str| {
        path.strip_prefix(PLACE)
            .or(PLACE.strip_prefix(path))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let other = files.paths().find(|path| !path.is_empty() && !is_microcode(path))?;
    Some(format!("'.ucode': expected microcode alone, found '/{}'", printable(other.as_bytes())))
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

/// Archives for tests.
#[cfg(test)]
pub mod archive {
    use sealroot::formats::uki::initramfs::{Budget, Initramfs};

    pub const REGULAR: u32 = 0o100_644;
    pub const LINK: u32 = 0o120_777;

    /// One file.
    pub fn entry(path: &str, mode: u32, content: &str) -> Vec<u8> {
        let header = [1, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        let mut bytes = [b"070701", header.map(|field| format!("{field:08x}")).concat().as_bytes()].concat();
        bytes.extend(path.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// All files.
    pub fn unpacked(archive: &[u8]) -> Initramfs {
        Initramfs::read(archive, &mut Budget::for_input(archive.len()), &super::is_read).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::archive::{LINK, REGULAR, entry, unpacked};
    use super::*;

    #[test]
    fn what_comes_with_microcode() {
        let found = |path: &str| super::beside_microcode(&unpacked(&entry(path, REGULAR, "x")));
        for path in ["kernel", "kernel/x86/microcode", "kernel/x86/microcode/GenuineIntel.bin"] {
            assert_eq!(found(path), None, "{path}");
        }
        for path in ["etc/systemd/system/sealroot.service", "kernel/x86/microcode2", "kern", "kernel/x86/micro"] {
            assert_eq!(found(path).unwrap(), format!("'.ucode': expected microcode alone, found '/{path}'"));
        }
    }

    #[test]
    fn modules() {
        let has = |path: &str| has_module(&unpacked(&entry(path, REGULAR, "")), "erofs");
        assert!(has("usr/lib/modules/6.12/kernel/fs/erofs/erofs.ko.xz") && has("lib/modules/6.12/erofs.ko"));
        assert!(
            !has("usr/lib/modules/6.12/erofs-more.ko") && !has("usr/lib/erofs.ko") && !has("usr/lib/modules/erofs.kox")
        );
    }

    #[test]
    fn parts() {
        let nothing = problems(&unpacked(&[]));
        let mut archive = [entry(PROGRAM, REGULAR, "x"), entry(GENERATOR, LINK, &format!("/{PROGRAM}"))].concat();
        for module in MODULES {
            archive.extend(entry(&format!("usr/lib/modules/6.12/{module}.ko"), REGULAR, "x"));
        }
        for (unit, content) in SHIPPED {
            archive.extend(entry(&format!("{UNITS}/{unit}"), REGULAR, content));
        }
        for link in ENABLED {
            let unit = link.rsplit('/').next().unwrap();
            archive.extend(entry(&format!("{UNITS}/{link}"), LINK, &format!("../{unit}")));
        }
        for unit in
            ["initrd-root-fs.target", "initrd-switch-root.service", "initrd-switch-root.target", "initrd.target"]
        {
            archive.extend(entry(&format!("{UNITS}/{unit}"), REGULAR, "x"));
        }
        assert_eq!(problems(&unpacked(&archive)), [""; 0]);
        assert_eq!(nothing.len(), 2 + SHIPPED.len() + ENABLED.len() + 4 + MODULES.len());
        let changed = [archive.clone(), entry(&format!("{UNITS}/sealroot.service"), REGULAR, "x")].concat();
        let expected = "initramfs: unit 'sealroot.service': expected the one of this release";
        assert_eq!(problems(&unpacked(&changed)), [expected]);
        let rival = [archive.clone(), entry(&format!("{UNITS}/bootc-root-setup.service"), REGULAR, "x")].concat();
        let expected = "initramfs: unit 'bootc-root-setup.service': expected it to be masked, found that it mounts a root of its own";
        assert_eq!(problems(&unpacked(&rival)), [expected]);
        let mask = entry("etc/systemd/system/bootc-root-setup.service", LINK, "/dev/null");
        assert_eq!(problems(&unpacked(&[rival, mask].concat())), [""; 0]);
        let masked = [archive, entry(&format!("{UNITS}/sealroot.service"), LINK, "/dev/null")].concat();
        assert_eq!(problems(&unpacked(&masked)).len(), 1);
    }
}
