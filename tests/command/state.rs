//! What `sealroot uki --repo` says of the state beside a repository: what a boot would refuse, in its words, and nothing is written.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::golden::GOLDEN;
use crate::made::{Disk, Made, Uki};

const OVERLAY: &str = "";
const BIND: &str = "layout = \"bootc\"\n";

fn disk(made: &Made) -> Disk {
    made.disk("sha512", GOLDEN.value("SHA512_V1"))
}

/// What is said with this configuration of a disk that was made so. Nothing on it is changed.
fn asked(config: &str, change: impl FnOnce(&Disk)) -> (Uki, String) {
    let made = Made::new().config(config);
    let disk = disk(&made);
    change(&disk);
    let before = listed(&disk.state(""));
    let found = made.asked(&["--repo", &disk.repository()]);
    assert_eq!(listed(&disk.state("")), before);
    (found, disk.deployment)
}

/// Everything below a folder, with its mode and when it was changed.
fn listed(folder: &Path) -> Vec<(String, u32, i64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let about = fs::symlink_metadata(entry.path()).unwrap();
        found.push((entry.path().to_str().unwrap().into(), about.mode(), about.ctime_nsec()));
        if about.is_dir() {
            found.extend(listed(&entry.path()));
        }
    }
    found.sort();
    found
}

/// Directories with this mode.
fn make(disk: &Disk, names: &[(&str, u32)]) {
    for (name, mode) in names {
        fs::create_dir_all(disk.state(name)).unwrap();
        fs::set_permissions(disk.state(name), fs::Permissions::from_mode(*mode)).unwrap();
    }
}

/// Who made the images, and so owns what is in them.
fn owner() -> String {
    let about = fs::metadata(GOLDEN.repository("sha512")).unwrap();
    format!("{}:{}", about.uid(), about.gid())
}

#[test]
fn state_that_a_boot_takes() {
    let shared = |disk: &Disk| {
        fs::create_dir_all(disk.state("../../os/default/var/lib")).unwrap();
        fs::remove_dir(disk.state("var")).unwrap();
        symlink("../../os/default/var", disk.state("var")).unwrap();
    };
    for (config, names) in [
        // None yet; what sealroot makes; what composefs-rs of today makes, and of before.
        (OVERLAY, &[][..]),
        (OVERLAY, &[("etc/upper", 0o755), ("etc/work", 0o700)]),
        (OVERLAY, &[("etc/upper", 0o755), ("etc/work", 0o755)]),
        (OVERLAY, &[("etc/upper", 0o700), ("etc/work", 0o700)]),
        (OVERLAY, &[("etc/upper", 0o755), ("etc/of-another-time", 0o755)]),
        (OVERLAY, &[("etc/upper.new", 0o755), ("etc/work.new", 0o700)]),
        ("[var]\nmount = \"overlay\"\n", &[("var/upper", 0o755)]),
        (BIND, &[("etc/systemd", 0o755)]),
        (BIND, &[("etc/upper", 0o755), ("etc/work", 0o755), ("etc/systemd", 0o755)]),
    ] {
        let (found, _) = asked(config, |disk| make(disk, names));
        assert_eq!((found.problems(), found.warnings()), (vec![], vec![]), "{config} {names:?}");
    }
    let (found, _) = asked(OVERLAY, shared);
    assert_eq!(found.problems(), [""; 0]);
    // Where nothing stays, nothing need be there.
    let nothing = "[etc]\nmount = \"transient\"\n[var]\nmount = \"none\"\n";
    let (found, _) = asked(nothing, |disk| fs::remove_dir_all(disk.state("")).unwrap());
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![]));
}

#[test]
fn state_that_is_missing() {
    let gone = "No such file or directory (os error 2)";
    let (found, deployment) = asked(OVERLAY, |disk| fs::remove_dir_all(disk.state("")).unwrap());
    let missing = |name: &str| {
        format!("state directory '{deployment}/{name}': expected a directory, or {name}.mount = \"transient\": {gone}")
    };
    assert_eq!(found.problems(), [missing("etc"), missing("var")]);
    let (found, deployment) = asked(BIND, |disk| {
        make(disk, &[("etc/systemd", 0o755)]);
        fs::remove_dir(disk.state("var")).unwrap();
        // Out of the disk, and to nothing.
        symlink("/var", disk.state("var")).unwrap();
    });
    let expected = "Invalid cross-device link (os error 18)";
    assert_eq!(found.problems(), [format!("state directory '{deployment}/var': {expected}")]);
    let (found, deployment) = asked(OVERLAY, |disk| {
        fs::remove_dir(disk.state("etc")).unwrap();
        fs::write(disk.state("etc"), "").unwrap();
    });
    let expected = "expected a directory, found a regular file";
    assert_eq!(found.problems(), [format!("state directory '{deployment}/etc': {expected}")]);
    // A repository that is on no disk yet.
    let made = Made::new();
    let found = made.asked(&["--repo", &GOLDEN.repository("sha512")]);
    let expected = format!("'state/deploy/{}' beside 'composefs'", GOLDEN.value("SHA512_V1"));
    let warning = format!("physical root: expected {expected}, found no state of any deployment");
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![warning]));
}

#[test]
fn layers_that_a_boot_refuses() {
    let owner = owner();
    for (config, name, mode, expected) in [
        (OVERLAY, "etc/upper", 0o777, "0755"),
        (OVERLAY, "etc/upper", 0o1755, "0755"),
        (OVERLAY, "etc/work", 0o770, "0700"),
        ("[var]\nmount = \"overlay\"\n", "var/upper", 0o775, "0755"),
    ] {
        let (found, deployment) = asked(config, |disk| make(disk, &[(name, mode)]));
        let modes = format!("expected owner and mode {owner} {expected}, found {owner} {mode:04o}");
        assert_eq!(found.problems(), [format!("state directory '{deployment}/{name}': {modes}")]);
        assert_eq!(found.status, 1);
    }
    // Of what is kept of an /etc in memory.
    let keep = "[etc]\nkeep = []\n";
    let (found, deployment) = asked(keep, |disk| make(disk, &[("etc/upper", 0o777), ("etc/work", 0o777)]));
    let modes = format!("expected owner and mode {owner} 0755, found {owner} 0777");
    assert_eq!(found.problems(), [format!("state directory '{deployment}/etc/upper': {modes}")]);
    // Of an overlay that another tool mounted before a crash.
    let (found, deployment) =
        asked(OVERLAY, |disk| make(disk, &[("etc/upper", 0o755), ("etc/work/work/incompat", 0o755)]));
    let lost = "expected nothing that forbids the mount, found 'work/incompat': changes may have been lost";
    assert_eq!(found.problems(), [format!("state directory '{deployment}/etc/work': {lost}")]);
    // Links lead an overlay nowhere.
    let (found, deployment) = asked(OVERLAY, |disk| symlink("work", disk.state("etc/upper")).unwrap());
    let upper = format!("state directory '{deployment}/etc/upper'");
    assert_eq!(found.problems(), [format!("{upper}: Too many levels of symbolic links (os error 40)")]);
}

#[test]
fn state_of_another_layout() {
    // bootc's whole copy of /etc.
    let copy = |disk: &Disk| {
        fs::write(disk.state("etc/passwd"), "").unwrap();
    };
    let (found, deployment) = asked(OVERLAY, copy);
    let expected = "expected the layers of an overlay (etc.mount = \"overlay\"), found 'passwd'";
    assert_eq!(found.problems(), [format!("state directory '{deployment}/etc': {expected}")]);
    let (found, _) = asked(BIND, copy);
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![]));
    // And the reverse.
    for (config, place, names) in [
        (BIND, "etc", &[("etc/upper", 0o755), ("etc/work", 0o755)][..]),
        ("[etc]\nmount = \"bind\"\n", "etc", &[("etc/work", 0o700)]),
        (OVERLAY, "var", &[("var/upper", 0o755)]),
    ] {
        let (found, deployment) = asked(config, |disk| make(disk, names));
        let expected = format!(
            "expected files of /{place} ({place}.mount = \"bind\"), found nothing but the layers of an overlay"
        );
        assert_eq!(found.problems(), [format!("state directory '{deployment}/{place}': {expected}")], "{config}");
    }
    // A boot would take this, too, and nothing would be in /etc.
    let (found, deployment) = asked(BIND, |_| {});
    let expected = "expected files of /etc (etc.mount = \"bind\"), found none";
    assert_eq!(found.problems(), [""; 0]);
    assert_eq!(found.warnings(), [format!("state directory '{deployment}/etc': {expected}")]);
}

#[test]
fn names_on_a_disk_are_escaped() {
    let (found, deployment) = asked(OVERLAY, |disk| fs::write(disk.state("etc/a\u{1b}[2J\n\u{fc}"), "").unwrap());
    let expected = r#"expected the layers of an overlay (etc.mount = "overlay"), found 'a\x1b[2J\n\xc3\xbc'"#;
    assert_eq!(found.problems(), [format!("state directory '{deployment}/etc': {expected}")]);
}

/// The repository may be named by a link, as bootc makes one.
#[test]
fn a_link_to_the_repository() {
    let made = Made::new();
    let disk = disk(&made);
    fs::remove_dir(disk.state("etc")).unwrap();
    fs::create_dir(made.path("disk/ostree")).unwrap();
    symlink("../composefs", made.path("disk/ostree/bootc")).unwrap();
    let found = made.asked(&["--repo", &made.name("disk/ostree/bootc")]);
    let expected = "expected a directory, or etc.mount = \"transient\": No such file or directory (os error 2)";
    assert_eq!(found.problems(), [format!("state directory '{}/etc': {expected}", disk.deployment)]);
}
