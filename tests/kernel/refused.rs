//! What must not boot: the wrong image, the wrong command line, the wrong configuration.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use crate::lab::{self, Lab, mount_at, write};
use crate::raw::enable_verity;

const OTHER_HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Puts a file with this content, and with fs-verity where an algorithm is given, in the place of the booted image.
fn replace_image(lab: &Lab, content: &[u8], verity: Option<u32>) {
    fs::remove_file(lab.image_path()).unwrap();
    write(&lab.image_path(), content);
    if let Some(hash_algorithm) = verity {
        enable_verity(&File::open(lab.image_path()).unwrap(), hash_algorithm);
    }
}

#[test]
fn image_missing() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn both_images_missing() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} {}", lab.karg("V2"), lab.karg("V1")));
        lab.config(lab::ALTERNATIVES);
        for image in ["V1", "V2"] {
            fs::remove_file(lab.path("composefs/images").join(lab.value(image))).unwrap();
        }
        let (v1, v2) = (lab.value("V1"), lab.value("V2"));
        let message =
            format!("find: image 'images/{v2}' or 'images/{v1}': expected in the repository 'composefs': <errno 2>");
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn digest_that_no_image_has() {
    lab::with("sha256", |lab| {
        lab.command_line(&format!("composefs.digest=v1-sha256-12:{OTHER_HEX}"));
        let message = format!("find: image 'images/{OTHER_HEX}': expected in the repository 'composefs': <errno 2>");
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn entry_of_the_same_name_elsewhere() {
    lab::with("sha512", |lab| {
        let folder = lab.path("composefs/images/refs");
        fs::create_dir(&folder).unwrap();
        fs::rename(lab.image_path(), folder.join(lab.digest())).unwrap();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn image_swapped_for_another_good_one() {
    lab::with("sha512", |lab| {
        let other = fs::read_link(lab.path("composefs/images").join(lab.value("OTHER"))).unwrap();
        fs::remove_file(lab.image_path()).unwrap();
        symlink(other, lab.image_path()).unwrap();
        let message = format!(
            "measure: {}: expected sha512:{}, measured sha512:{}",
            lab.image(),
            lab.digest(),
            lab.value("OTHER")
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// The image that is present decides, not the one that would be right.
#[test]
fn a_wrong_image_is_not_skipped() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} {}", lab.karg("V2"), lab.karg("V1")));
        lab.config(lab::ALTERNATIVES);
        let wrong = lab.path("composefs/images").join(lab.value("V2"));
        fs::remove_file(&wrong).unwrap();
        symlink(fs::read_link(lab.image_path()).unwrap(), wrong).unwrap();
        let (v1, v2) = (lab.value("V1"), lab.value("V2"));
        let message = format!("measure: image 'images/{v2}': expected sha512:{v2}, measured sha512:{v1}");
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// A link that leads nowhere is present and wrong: the next karg is not tried.
#[test]
fn a_dangling_link_is_not_skipped() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} {}", lab.karg("V2"), lab.karg("V1")));
        lab.config(lab::ALTERNATIVES);
        let dangling = lab.path("composefs/images").join(lab.value("V2"));
        fs::remove_file(&dangling).unwrap();
        symlink("../objects/nowhere", dangling).unwrap();
        lab.expect_refused(&lab.boot(), &format!("find: image 'images/{}': <errno 2>", lab.value("V2")));
    });
}

#[test]
fn image_without_verity() {
    lab::with("sha512", |lab| {
        let content = fs::read(lab.image_path()).unwrap();
        replace_image(lab, &content, None);
        let message = format!(
            "measure: {}: expected sha512:{}, found a file without fs-verity: <errno 61>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn image_with_the_other_algorithm() {
    lab::with("sha512", |lab| {
        let content = fs::read(lab.image_path()).unwrap();
        replace_image(lab, &content, Some(1));
        let run = lab.boot();
        let expected = format!("measure: {}: expected sha512:{}, measured sha256:", lab.image(), lab.digest());
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with(&expected) && reason.len() == expected.len() + 64, "{reason}");
        lab.expect_refused(&run, &reason);
    });
}

#[test]
fn image_truncated() {
    lab::with("sha512", |lab| {
        let content = fs::read(lab.image_path()).unwrap();
        replace_image(lab, &content[..content.len() - 4096], Some(2));
        let run = lab.boot();
        let expected = format!("measure: {}: expected sha512:{}, measured sha512:", lab.image(), lab.digest());
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with(&expected) && reason.len() == expected.len() + 128, "{reason}");
        lab.expect_refused(&run, &reason);
    });
}

#[test]
fn image_on_a_filesystem_without_verity() {
    lab::with("sha512", |lab| {
        let content = fs::read(lab.image_path()).unwrap();
        nix::mount::mount(Some("lab"), lab::SYSROOT, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .unwrap();
        fs::create_dir_all("/sysroot/composefs/images").unwrap();
        fs::write(format!("/sysroot/composefs/images/{}", lab.digest()), content).unwrap();
        let message = format!(
            "measure: {}: expected sha512:{}, found a filesystem without fs-verity, tmpfs: ext4 with the feature \
             'verity', btrfs and f2fs have it: <errno 25>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&lab.run(&[]), &message);
    });
}

#[test]
fn links_that_lead_out_of_the_repository() {
    for (target, reason) in [
        ("../../../../etc/passwd", "<errno 18>"),
        ("/etc/passwd", "<errno 18>"),
        ("/proc/self/exe", "<errno 18>"),
        ("../state", "<errno 18>"),
    ] {
        let target = if target == "../state" { "../../state" } else { target };
        lab::with("sha512", move |lab| {
            fs::remove_file(lab.image_path()).unwrap();
            symlink(target, lab.image_path()).unwrap();
            lab.expect_refused(&lab.boot(), &format!("find: {}: {reason}", lab.image()));
        });
    }
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        symlink(lab.digest(), lab.image_path()).unwrap();
        let message = format!("find: {}: <errno 40>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn repository_that_is_a_link_out() {
    lab::with("sha512", |lab| {
        fs::rename(lab.path("composefs"), lab.path("../moved")).unwrap();
        symlink("../moved", lab.path("composefs")).unwrap();
        lab.expect_refused(&lab.boot(), "find: repository 'composefs': <errno 18>");
    });
    lab::with("sha512", |lab| {
        fs::rename(lab.path("composefs"), lab.path("moved")).unwrap();
        lab.expect_refused(&lab.boot(), "find: repository 'composefs': <errno 2>");
    });
}

#[test]
fn something_else_than_a_file() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        fs::create_dir(lab.image_path()).unwrap();
        let message = format!("find: {}: expected a regular file, found a directory", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        nix::unistd::mkfifo(&lab.image_path(), Mode::from_bits_truncate(0o644)).unwrap();
        let message = format!("find: {}: expected a regular file, found a FIFO", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, Mode::from_bits_truncate(0o666));
        nix::sys::stat::mknod(&lab.image_path(), kind, mode, nix::sys::stat::makedev(1, 5)).unwrap();
        let message = format!("find: {}: expected a regular file, found a character device", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn a_file_with_the_right_digest_that_is_no_image() {
    lab::with("sha256", |lab| {
        // A file of zeros has this fs-verity digest, so a signed command line could name it.
        let path = lab.path("composefs/images/zeros");
        write(&path, &[0; 8192]);
        enable_verity(&File::open(&path).unwrap(), 1);
        lab.command_line(&format!("composefs.digest=v1-sha256-12:{OTHER_HEX}"));
        fs::rename(&path, lab.path("composefs/images").join(OTHER_HEX)).unwrap();
        let run = lab.boot();
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        lab.expect_refused(&run, &reason);
        let measured = reason.rsplit("measured sha256:").next().unwrap().to_owned();
        assert_eq!(measured.len(), 64, "{reason}");
        // Now with the digest that it has.
        let name = lab.path("composefs/images").join(&measured);
        fs::rename(lab.path("composefs/images").join(OTHER_HEX), name).unwrap();
        lab.command_line(&format!("composefs.digest=v1-sha256-12:{measured}"));
        fs::remove_file("/run/sealroot/report.json").unwrap();
        let message = format!(
            "look-inside: image 'images/{measured}': expected composefs magic 0xd078629a version 1, found \
             0x00000000 version 0"
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// Boots with the command line that names an image with this change, and expects this to be said of it.
fn changed_image(change: fn(&mut [u8]), expected: &'static str) {
    lab::with("sha512", move |lab| {
        let mut content = fs::read(lab.image_path()).unwrap();
        change(&mut content);
        replace_image(lab, &content, Some(2));
        lab.boot();
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        let measured = reason.rsplit("measured sha512:").next().unwrap().to_owned();
        assert_eq!(measured.len(), 128, "{reason}");
        // Now with the digest that it has.
        fs::rename(lab.image_path(), lab.path("composefs/images").join(&measured)).unwrap();
        lab.command_line(&format!("composefs.digest=v1-sha512-12:{measured}"));
        fs::remove_file("/run/sealroot/report.json").unwrap();
        lab.expect_refused(&lab.boot(), &format!("look-inside: image 'images/{measured}': {expected}"));
    });
}

fn position(image: &[u8], text: &[u8]) -> usize {
    image.windows(text.len()).position(|window| window == text).unwrap()
}

/// Where the entry for `name` in the root directory of an image in the format v1 begins.
fn root_entry(image: &[u8], name: &[u8]) -> usize {
    // Entries of 12 bytes, inode (64 bits), offset of the name (16 bits), …, and then the names, sorted and side by
    // side: `.`, `..`, and the whiteouts `00` to `ff` that the format has.
    let names = position(image, b"...000102");
    let number = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let start = (1..400).map(|count| names - 12 * count).find(|start| number(start + 8) == names - start).unwrap();
    (start..names).step_by(12).find(|entry| image[start + number(entry + 8)..].starts_with(name)).unwrap()
}

#[test]
fn image_without_a_mount_point() {
    changed_image(
        |image| {
            let name = position(image, b"sysroottmp");
            image[name..name + 7].copy_from_slice(b"sysrooz");
        },
        "expected a directory '/sysroot', found nothing",
    );
    changed_image(
        |image| {
            // `bin` is a link.
            let (link, sysroot) = (root_entry(image, b"bin"), root_entry(image, b"sysroot"));
            image.copy_within(link..link + 8, sysroot);
        },
        "expected a directory '/sysroot', found something else",
    );
}

#[test]
fn image_of_the_other_format() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("composefs.digest=v2-sha512-12:{}", lab.digest()));
        let message = format!("look-inside: {}: expected composefs format v2, found composefs version 1", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn command_lines() {
    let with_karg = |line: fn(&Lab) -> String, message: fn(&Lab) -> String| {
        lab::with("sha512", move |lab| {
            lab.command_line(&line(lab));
            lab.expect_refused(&lab.boot(), &message(lab));
        });
    };
    with_karg(
        |_| "quiet root=LABEL=x".into(),
        |_| "ask: kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither".into(),
    );
    with_karg(
        |lab| format!("{} systemd.volatile=overlay", lab.karg("V1")),
        |_| {
            "ask: kernel command line: expected no 'systemd.volatile' but 'state' (root.transient = true does the same), found \
             'overlay'"
                .into()
        },
    );
    // Two digests under one key.
    with_karg(
        |lab| format!("{} {}", lab.karg("V1"), lab.karg("OTHER")),
        |lab| {
            let (first, second) = (lab.value("V1"), lab.value("OTHER"));
            format!(
                "ask: kernel command line: karg 'composefs.digest': expected one image, found v1 sha512:{first} and v1 \
                 sha512:{second}"
            )
        },
    );
    // And under two.
    with_karg(
        |lab| format!("{} {}", lab.karg("V1"), lab.karg("V2")),
        |lab| {
            let (first, second) = (lab.value("V1"), lab.value("V2"));
            format!(
                "ask: kernel command line: expected one image (policy.alternatives = \"refuse\"), found v1 sha512:{first} \
                 and sha512:{second}"
            )
        },
    );
    with_karg(
        |lab| lab.karg("V1").replace('=', "=?"),
        |_| {
            "ask: kernel command line: expected verification to be required (policy.unverified = \"refuse\"), found \
             '?' in karg 'composefs.digest'"
                .into()
        },
    );
    with_karg(
        |lab| format!("{} composefs=?{}", lab.karg("V1"), lab.value("V2")),
        |_| {
            "ask: kernel command line: karg 'composefs': expected '?' with every composefs karg or with none, found \
             both"
                .into()
        },
    );
    with_karg(
        |_| "composefs=nonsense".into(),
        |_| "ask: kernel command line: karg 'composefs': expected 64 or 128 hexadecimal digits, found 8".into(),
    );
}

#[test]
fn config_with_an_unknown_key() {
    lab::with("sha512", |lab| {
        lab.config("[policy]\nchek = \"image\"\n");
        let run = lab.boot();
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("ask: /usr/lib/sealroot/sealroot.toml:2: "), "{reason}");
        assert!(reason.contains("chek"), "{reason}");
        lab.expect_refused(&run, &reason);
    });
}

#[test]
fn config_that_cannot_be_read() {
    const FILE: &str = "/usr/lib/sealroot/sealroot.toml";
    for (change, message) in [
        ((|| fs::create_dir(FILE).unwrap()) as fn(), format!("ask: '{FILE}': <errno 21>")),
        (|| symlink(FILE, FILE).unwrap(), format!("ask: '{FILE}': <errno 40>")),
        (
            || fs::write(FILE, "#".repeat(65537)).unwrap(),
            format!("ask: '{FILE}': expected at most 65536 bytes, found more"),
        ),
        (
            || fs::write(FILE, b"# \xff\n").unwrap(),
            format!("ask: '{FILE}': expected UTF-8: invalid utf-8 sequence of 1 bytes from index 2"),
        ),
    ] {
        lab::with("sha512", move |lab| {
            change();
            lab.expect_refused(&lab.boot(), &message);
        });
    }
    // The longest one that is read.
    lab::with("sha512", |lab| {
        lab.config(&"#".repeat(65536));
        lab.expect_sealed(&lab.boot(), lab.digest());
    });
}

#[test]
fn secure_boot_required_without_firmware() {
    lab::with("sha512", |lab| {
        lab.config("[policy]\nsecure-boot = \"require\"\n");
        let message = "ask: Secure Boot: expected 'enforced' (policy.secure-boot = \"require\"), found 'unsupported'";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn smbios_table_that_is_hidden() {
    lab::with("sha512", |lab| {
        // As on a PC with UEFI.
        mount_at("firmware", "/sys/firmware", Some("tmpfs"), MsFlags::empty());
        fs::create_dir("/sys/firmware/efi").unwrap();
        let hidden =
            "ask: '/sys/firmware/dmi/tables/DMI': expected the SMBIOS table of a PC with UEFI, found none".to_owned();
        lab.expect_refused(&lab.boot(), &hidden);
    });
}

/// As the kernel shows it.
fn show_smbios_table(content: &[u8]) {
    mount_at("firmware", "/sys/firmware", Some("tmpfs"), MsFlags::empty());
    fs::create_dir_all("/sys/firmware/dmi/tables").unwrap();
    fs::write("/sys/firmware/dmi/tables/DMI", content).unwrap();
}

#[test]
fn smbios_table_that_breaks_off() {
    lab::with("sha512", |lab| {
        // What a kernel shows of a table whose second structure is shorter than its own header.
        show_smbios_table(b"\xc9\x04\x06\0A\0\0");
        let message = "ask: '/sys/firmware/dmi/tables/DMI': expected an SMBIOS table with an end, found one that breaks off \
                       after 7 bytes";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
fn string_in_an_smbios_table() {
    lab::with("sha512", |lab| {
        show_smbios_table(b"\x0b\x05\0\0\x01io.systemd.boot-entries.extra:a=b\0\0");
        let message = "ask: machine set-up: expected no string that adds a boot entry (policy.firmware-strings = \"refuse\"), \
                       found 'io.systemd.boot-entries.extra:a=b'";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
fn repository_of_a_later_version() {
    for (content, message) in [
        (r#"{"version":2}"#, "find: repository 'composefs': 'meta.json': expected version 1 or lower, found 2"),
        (
            r#"{"version":1,"features":{"incompatible":["unheard-of"]}}"#,
            "find: repository 'composefs': 'meta.json': expected no incompatible features, found [\"unheard-of\"]",
        ),
    ] {
        lab::with("sha512", move |lab| {
            let path = lab.path("composefs/meta.json");
            fs::remove_file(&path).unwrap();
            write(&path, content.as_bytes());
            lab.expect_refused(&lab.boot(), message);
        });
    }
}

#[test]
fn nothing_mounted_at_sysroot() {
    lab::with("sha512", |lab| {
        let message = "find: '/sysroot': expected the physical root to be mounted, found no mount";
        lab.expect_refused(&lab.run(&[]), message);
    });
}

#[test]
fn refused_once_is_refused_again() {
    lab::with("sha512", |lab| {
        let moved = lab.path("composefs/images/moved");
        fs::rename(lab.image_path(), &moved).unwrap();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
        let report = lab.report();
        // Even if the disk is right now, and mounted again.
        fs::rename(moved, lab.image_path()).unwrap();
        lab.expect_refused_again(&lab.boot(), &format!("earlier-run: refused before: {message}"));
        assert_eq!(lab.report(), report);
        lab.mount_sysroot();
        lab.expect_refused_again(&lab.run(&["gate"]), &format!("gate: refused before: {message}"));
        lab.mount_sysroot();
        lab.expect_refused_again(&lab.run(&["refused"]), &format!("earlier-run: refused before: {message}"));
        assert_eq!(lab.report(), report);
    });
}

#[test]
fn stacked_physical_roots_are_all_detached() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        lab.mount_sysroot();
        lab.mount_sysroot();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn a_missing_capability_is_named() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_MKNOD).unwrap();
        lab.expect_refused(
            &lab.run(&[]),
            "privileges: capabilities: expected CAP_MKNOD to be permitted, found it missing",
        );
    });
}

#[test]
fn used_wrongly() {
    lab::with("sha512", |lab| {
        for arguments in [
            &["mount", "gate"][..],
            &["--force"],
            &["--sysroot"],
            &["--sysroot", "relative"],
            &["unmount"],
            &["--root", "/"],
            &["--check-config", "gate"],
            &["gate", "--check-config"],
            &["--check-config", "--root"],
            &["--check-config", "--version"],
            &["--check-config", "--sysroot", "/"],
        ] {
            let run = lab.run(arguments);
            assert_eq!(run.status, Some(2), "{arguments:?}");
            assert!(run.stderr.starts_with("usage: sealroot-initrd "), "{run:?}");
            assert_eq!(run.log, [""; 0]);
        }
    });
}
