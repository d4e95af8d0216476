//! `sealroot-initrd --check-config`: what a boot would refuse in the configuration of an initramfs, said at the desk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::run::{Said, said};

const OURS: &str = "usr/lib/sealroot/sealroot.toml";
const THEIRS: &str = "usr/lib/composefs/setup-root-conf.toml";

fn checked(root: &Path) -> Said {
    said(Command::new(env!("CARGO_BIN_EXE_sealroot-initrd")).args(["--check-config", "--root"]).arg(root))
}

/// A root with both files; an empty text is no file.
fn root_with(ours: &str, theirs: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [(OURS, ours), (THEIRS, theirs)] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !text.is_empty() {
            fs::write(path, text).unwrap();
        }
    }
    root
}

#[test]
fn both_files_and_what_they_say_together() {
    let long = format!("#{}\n", "x".repeat(65_536));
    for (ours, theirs, status, message) in [
        ("", "", 0, ""),
        ("[etc]\nkeep = [\"machine-id\"]\n", "", 0, ""),
        ("", "a = 1\n", 0, "warning: '/usr/lib/composefs/setup-root-conf.toml': not known to sealroot: 'a'\n"),
        ("[extra]\n", "", 1, "/usr/lib/sealroot/sealroot.toml:1: unknown table 'extra', expected one of "),
        ("", "etc.mount = 7\n", 1, "/usr/lib/composefs/setup-root-conf.toml:1: etc.mount: expected one of "),
        (
            "[etc]\nkeep = []\n",
            "[etc]\nmount = \"bind\"\n",
            1,
            "configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"bind\"\n",
        ),
        (&long, "", 1, "'/usr/lib/sealroot/sealroot.toml': expected at most 65536 bytes, found more\n"),
    ] {
        let found = checked(root_with(ours, theirs).path());
        assert_eq!((found.status, found.out.as_str()), (Some(status), ""), "{found:?}");
        let message = if message.is_empty() { String::new() } else { format!("sealroot-initrd: {message}") };
        assert!(found.err.starts_with(&message) && found.err.is_empty() == message.is_empty(), "{found:?}");
    }
}

#[test]
fn other_kinds_of_files() {
    let failed = |root: &Path, message: &str| {
        let expected = Said { status: Some(1), out: String::new(), err: format!("sealroot-initrd: {message}\n") };
        assert_eq!(checked(root), expected);
    };
    let root = root_with("", "");
    let ours = root.path().join(OURS);
    // A link leads to what it leads to in there.
    symlink("/usr/lib/other.toml", &ours).unwrap();
    fs::write(root.path().join("usr/lib/other.toml"), "layout = 1\n").unwrap();
    failed(root.path(), "/usr/lib/sealroot/sealroot.toml:1: layout: expected one of 'composefs', 'bootc', found 1");
    fs::remove_file(&ours).unwrap();
    fs::write(&ours, b"layout = \"\xff\"\n").unwrap();
    failed(
        root.path(),
        "'/usr/lib/sealroot/sealroot.toml': expected UTF-8: invalid utf-8 sequence of 1 bytes from index 10",
    );
    fs::remove_file(&ours).unwrap();
    fs::create_dir(&ours).unwrap();
    failed(root.path(), "'/usr/lib/sealroot/sealroot.toml': Is a directory (os error 21)");
    failed(
        &root.path().join("a\u{1b}"),
        &format!("'{}/a\\x1b': No such file or directory (os error 2)", root.path().display()),
    );
}
