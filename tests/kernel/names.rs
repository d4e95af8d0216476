//! An image whose tree has what readers of filesystems stumble over: names that are no text, long ones, deep and crowded directories,
//! and the layers of a container.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::command::{COMMAND, ask};
use crate::disk::Disk;
use crate::kernel::{Kernel, Release, Running};
use crate::lab::{self, Lab};

const SHARE: &str = "/sysroot/usr/share";

const AWKWARD: [&[u8]; 7] = [
    b"\xff\xfe",
    b"line\nbreak",
    b"quote\"and\\backslash",
    b" ",
    b"\xc3\xa9",
    // The same letter in two characters: another name.
    b"e\xcc\x81",
    &[0xe9; 255],
];

fn boot(kernel: &mut dyn Kernel, image: &str, lab: &Lab) {
    lab.config("[policy]\ncheck = \"data\"\n");
    let format = if image == "AWKWARD" { "v1" } else { "v2" };
    lab.command_line(&format!("composefs.digest={format}-sha512-12:{}", lab.value(image)));
    lab.expect_sealed(&lab.boot_on(kernel), lab.value(image));
}

fn names(folder: &str) -> BTreeSet<OsString> {
    fs::read_dir(Path::new(SHARE).join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn expect_all(lab: &Lab) {
    let awkward: BTreeSet<_> = AWKWARD.map(|name| OsString::from_vec(name.into())).into();
    assert_eq!(names("names"), awkward);
    for name in &awkward {
        let text = fs::read_to_string(Path::new(SHARE).join("names").join(name)).unwrap();
        assert!(text.starts_with("content of an awkward name"), "{name:?}");
    }
    let long = (100..200).map(|number| OsString::from(format!("{}-{number}", "x".repeat(251))));
    assert_eq!(names("long"), long.collect());
    assert_eq!(fs::read_to_string(format!("{SHARE}/deep{}/file", "/down".repeat(300))).unwrap(), "bottom\n");
    let crowded = names("crowded");
    assert_eq!(crowded.len(), 100_000);
    for number in [1, 4097, 65_536, 99_999, 100_000] {
        let name = OsString::from(format!("entry-{number:06}"));
        assert!(crowded.contains(&name), "{number}");
        assert_eq!(fs::metadata(Path::new(SHARE).join("crowded").join(name)).unwrap().size(), 0);
    }
    let gate = lab.run(&["gate"]);
    assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
}

/// What is in the layers when they are mounted over each other, as a container's are.
fn layers_mounted() -> BTreeSet<OsString> {
    let layers = format!("lowerdir={SHARE}/layers/upper:{SHARE}/layers/lower");
    fs::create_dir_all("/run/lab/container").unwrap();
    mount(Some("container"), "/run/lab/container", Some("overlay"), MsFlags::MS_RDONLY, Some(layers.as_str())).unwrap();
    fs::read_dir("/run/lab/container").unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// In v1 a whiteout is escaped: in the sealed root it is a file that deletes where its folder is a layer.
#[test]
fn of_format_v1() {
    lab::with_disk(Disk::Names, "sha512", |lab| {
        boot(&mut Running, "AWKWARD", lab);
        expect_all(lab);
        assert_eq!(names("layers/upper"), ["deleted".into()].into());
        assert!(fs::symlink_metadata(format!("{SHARE}/layers/upper/deleted")).unwrap().is_file());
        assert_eq!(layers_mounted(), ["kept".into()].into());
    });
}

#[test]
fn of_format_v1_as_linux_6_11() {
    lab::with_disk(Disk::Names, "sha512", |lab| {
        boot(&mut Release(6, 11), "AWKWARD", lab);
        assert_eq!(lab.report()["kernel"]["erofs"], "loop");
        assert_eq!(names("crowded").len(), 100_000);
    });
}

/// In v2 a whiteout stands for itself, and the overlay that the sealed root is takes it for its own: there is no file, and it deletes
/// nothing where its folder is a layer.
#[test]
fn of_format_v2() {
    lab::with_disk(Disk::Names, "sha512", |lab| {
        boot(&mut Running, "AWKWARD_V2", lab);
        expect_all(lab);
        let found = fs::symlink_metadata(format!("{SHARE}/layers/upper/deleted"));
        assert_eq!(found.map_err(|error| error.kind()).unwrap_err(), ErrorKind::NotFound);
        assert_eq!(layers_mounted(), ["deleted".into(), "kept".into()].into());
    });
}

/// The command finds each file, and names it in one line of text.
#[test]
fn the_command_about_them() {
    lab::with_disk(Disk::Names, "sha512", |lab| {
        let repository = lab.path("composefs");
        let repository = repository.to_str().unwrap();
        let (status, result) = ask(&["verify", "--repo", repository, "--all", "--data"]);
        assert_eq!((status, &result["objects"]["broken"]), (0, &serde_json::json!([])), "{result}");
        let long = r"\xe9".repeat(255);
        let shown = [r"\xff\xfe", r"line\nbreak", r#"quote"and\backslash"#, " ", "\u{e9}", r"e\u{301}", &long];
        for (name, shown) in AWKWARD.into_iter().zip(shown) {
            let path = OsString::from_vec([b"/usr/share/names/", name].concat());
            let mut command = Command::new(COMMAND);
            command.args(["inspect", "--repo", repository, lab.value("AWKWARD")]).arg(path);
            let output = command.output().expect("the command `sealroot`");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && text.contains(&format!(" /usr/share/names/{shown}\n")), "{text}");
        }
    });
}
