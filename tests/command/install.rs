//! `make install`: what it puts where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::run::SEALROOT;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// All files below a folder, by their paths from there.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn everything_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let (built, root) = (folder.path().join("built"), folder.path().join("root"));
    // What `make` builds takes a minute: another program stands in for all of it.
    for program in [
        "any-target/release/sealroot-initrd",
        "any-target/cli/sealroot",
        "aarch64-unknown-uefi/release/sealroot-stub.efi",
    ] {
        let path = built.join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(SEALROOT, path).unwrap();
    }
    let mut make = Command::new("make");
    make.args(["-s", "-C", PROJECT, "install", "TARGET=any-target", "EFI_TARGET=aarch64-unknown-uefi"])
        .arg(format!("DESTDIR={}", root.display()));
    let output = make.env("CARGO_TARGET_DIR", &built).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let all = |from: &str, to: &str| {
        let names = files(&Path::new(PROJECT).join(from));
        names.into_iter().map(|name| format!("{to}/{name}")).collect::<Vec<_>>()
    };
    let mut expected: BTreeSet<String> =
        ["usr/bin/sealroot", "usr/lib/sealroot/sealroot-initrd", "usr/lib/sealroot/sealroot-stub-aa64.efi"]
            .map(String::from)
            .into();
    expected.extend(all("systemd-units", "usr/lib/systemd/system"));
    expected.insert("usr/lib/systemd/system/sysinit.target.wants/sealroot-keep.service".into());
    expected.extend(all("dracut-module", "usr/lib/dracut/modules.d"));
    expected.extend(all("docs", "usr/share/doc/sealroot"));
    for name in ["README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        expected.insert(format!("usr/share/doc/sealroot/{name}"));
    }
    for page in files(&Path::new(PROJECT).join("man")).iter().filter(|page| !page.contains('/')) {
        let section = page.rsplit('.').next().unwrap();
        expected.insert(format!("usr/share/man/man{section}/{page}"));
    }
    for (place, name) in [
        ("bash-completion/completions", "sealroot"),
        ("zsh/site-functions", "_sealroot"),
        ("fish/vendor_completions.d", "sealroot.fish"),
    ] {
        expected.insert(format!("usr/share/{place}/{name}"));
    }
    assert_eq!(files(&root), expected);
    for (path, mode) in [
        ("usr/bin/sealroot", 0o755),
        ("usr/lib/sealroot/sealroot-initrd", 0o755),
        ("usr/lib/sealroot/sealroot-stub-aa64.efi", 0o644),
        ("usr/lib/dracut/modules.d/50sealroot/module-setup.sh", 0o755),
        ("usr/lib/systemd/system/sealroot.service", 0o644),
        ("usr/share/man/man1/sealroot.1", 0o644),
    ] {
        assert_eq!(fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
}
