//! What `sealroot uki --repo` and `sealroot verify` say of images that lack what a boot needs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::golden::GOLDEN;
use crate::made::Made;
use crate::run::{answer, sealroot};

const NONE: &str = "No such file or directory (os error 2)";

/// What is said of an image, with these arguments and this configuration: problems and warnings.
fn said(name: &str, kargs: &str, config: &str) -> (Vec<String>, Vec<String>) {
    let digest = GOLDEN.value(name);
    let made = Made::new().line(&format!("composefs={digest} {kargs}")).config(config);
    let disk = made.disk("sha256", digest);
    let found = made.asked(&["--repo", &disk.repository()]);
    assert_eq!(found.status, 1);
    (found.problems(), found.warnings())
}

fn no_machine_id(name: &str) -> String {
    format!(
        "image 'images/{}': expected a file '/etc/machine-id', if only an empty one, found none: systemd cannot set a machine \
         id where /etc is read-only (etc.mount = \"none\")",
        GOLDEN.value(name)
    )
}

fn missing(path: &str) -> String {
    format!("new root: '{path}': {NONE}")
}

#[test]
fn an_image_that_has_it_all() {
    assert_eq!(said("SHA256_V1", "", ""), (vec![], vec![]));
    // By links that stay in what is sealed, and with an interpreter.
    for config in ["", "[etc]\nmount = \"none\"\n"] {
        assert_eq!(said("SHA256_LINKED", "", config), (vec![], vec![]));
    }
}

/// Who sets a list of files for /etc needs what writes them back.
#[test]
fn an_image_that_loses_what_changes() {
    let keep = "[etc]\nkeep = [\"machine-id\"]\n";
    assert_eq!(said("SHA256_LINKED", "", keep), (vec![], vec![]));
    let warning = format!(
        "image 'images/{}': expected '/usr/bin/sealroot' and sealroot-keep.service, wanted by sysinit.target (etc.keep is set), \
         found not both: changes of /etc are lost at the next boot",
        GOLDEN.value("SHA256_V1")
    );
    assert_eq!(said("SHA256_V1", "", keep), (vec![], vec![warning]));
}

#[test]
fn an_image_without_init_and_os_release() {
    let problems = vec![missing("/sbin/init"), missing("/usr/lib/os-release")];
    assert_eq!(said("SHA256_BARE", "", ""), (problems, vec![]));
}

#[test]
fn an_image_that_has_it_elsewhere() {
    let os_release = "new root: '/usr/lib/os-release': expected a sealed file, found one on another mount: Invalid cross-device \
                      link (os error 18)";
    assert_eq!(said("SHA256_ASTRAY", "", ""), (vec![missing("/lib64/ld.so"), os_release.into()], vec![]));
    // Without a mount on /etc it is sealed.
    let config = "[etc]\nmount = \"none\"\n";
    let warnings = vec![no_machine_id("SHA256_ASTRAY")];
    assert_eq!(said("SHA256_ASTRAY", "", config), (vec![missing("/lib64/ld.so")], warnings));
}

/// An object that is gone, and one in whose place something else stands.
#[test]
fn an_image_whose_objects_are_missing() {
    for (path, hostile) in
        [("/usr/lib/systemd/systemd", false), ("/usr/lib/systemd/systemd", true), ("/lib64/ld.so", false)]
    {
        let digest = GOLDEN.value("SHA256_LINKED");
        let made = Made::new().line(&format!("composefs={digest}"));
        let disk = made.disk("sha256", digest);
        let real = if path == "/lib64/ld.so" { "/usr/lib/ld-linked.so" } else { path };
        let entry = answer(0, &["inspect", "--repo", &disk.repository(), digest, real]);
        let object = entry["result"]["entry"]["object"].as_str().unwrap();
        let file = Path::new(&disk.repository()).join(object);
        fs::remove_file(&file).unwrap();
        if hostile {
            symlink("/bin/true", &file).unwrap();
        }
        let name = object.replace("objects", "").replace('/', "");
        let found = if hostile { "found a symbolic link" } else { "found none" };
        let [problem] = &made.asked(&["--repo", &disk.repository()]).problems()[..] else { panic!("{path}") };
        assert!(
            problem.starts_with(&format!("new root: '{path}': object '{object}': expected sha256:{name}, ")),
            "{problem}"
        );
        assert!(problem.ends_with(found), "{problem}");
    }
}

#[test]
fn init_that_the_command_line_names() {
    let found = |init: &str| said("SHA256_LINKED", &format!("init={init}"), "").0;
    assert_eq!(found("/usr/lib/../lib/systemd/systemd"), [""; 0]);
    assert_eq!(found("/usr/bin/none"), [missing("/usr/bin/none")]);
    assert_eq!(found("/usr/share/file-1/x"), ["new root: '/usr/share/file-1/x': Not a directory (os error 20)"]);
    assert_eq!(found("/usr/lib"), ["new root: '/usr/lib': expected a regular file, found a directory"]);
    let expected = "expected a sealed file, found one on another mount: Invalid cross-device link (os error 18)";
    assert_eq!(found("/etc/init"), [format!("new root: '/etc/init': {expected}")]);
    assert_eq!(found("init"), ["karg 'init': expected an absolute path, found 'init'"]);
}

#[test]
fn a_machine_id_for_a_read_only_etc() {
    let none = "[etc]\nmount = \"none\"\n";
    assert_eq!(said("SHA256_V1", "", none), (vec![], vec![no_machine_id("SHA256_V1")]));
    // There /etc takes changes.
    for config in ["", "[etc]\nmount = \"transient\"\n", "[etc]\nmount = \"none\"\n[root]\ntransient = true\n"] {
        assert_eq!(said("SHA256_V1", "", config).1, [""; 0], "{config}");
    }
}

/// Nobody waits for an image whose links have one directory read again and again.
#[test]
fn links_without_an_end() {
    let (name, expected) = (
        format!("image 'images/{}'", GOLDEN.value("SHA256_ENDLESS")),
        "expected few directory entries on the way to what a boot reads, found more than an image of its size has",
    );
    assert_eq!(said("SHA256_ENDLESS", "", ""), (vec![format!("{name}: {expected}")], vec![]));
    // Its objects are right all the same.
    let answer = answer(0, &["verify", "--repo", &GOLDEN.repository("sha256"), GOLDEN.value("SHA256_ENDLESS")]);
    assert_eq!(answer["result"]["images"][0]["warnings"][0], format!("{name}: {expected}"));
    assert!(answer["result"]["objects"]["checked"].as_u64().unwrap() > 0);
    // A loop is an answer sooner than that.
    assert_eq!(
        said("SHA256_LINKED", "init=/usr/lib/loop", "").0,
        ["new root: '/usr/lib/loop': Too many levels of symbolic links (os error 40)"]
    );
}

#[test]
fn verify_warns() {
    let repository = GOLDEN.repository("sha256");
    let warnings = |name: &str| {
        let answer = answer(0, &["verify", "--repo", &repository, GOLDEN.value(name)]);
        let warnings = answer["result"]["images"][0]["warnings"].as_array().unwrap().clone();
        warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let refused =
        |name: &str, reason: &str| format!("image 'images/{}': a boot would refuse: {reason}", GOLDEN.value(name));
    assert_eq!(warnings("SHA256_LINKED"), [""; 0]);
    assert_eq!(warnings("SHA256_V1"), [no_machine_id("SHA256_V1")]);
    let bare = |reason: &str| refused("SHA256_BARE", reason);
    let expected = [bare(&missing("/sbin/init")), bare(&missing("/usr/lib/os-release")), no_machine_id("SHA256_BARE")];
    assert_eq!(warnings("SHA256_BARE"), expected);
    assert_eq!(warnings("SHA256_ASTRAY").len(), 3);
    let text = sealroot(&["verify", "--repo", &repository, GOLDEN.value("SHA256_BARE")]).out;
    assert!(text.lines().any(|line| line == format!("warning {}", expected[1])), "{text}");
}
