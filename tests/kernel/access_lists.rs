//! Access lists on directories of the disk: what is made in them must not have these, too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::keep::{access_list, set_attribute};
use crate::lab::{self, Lab};

const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

fn has_list(path: &Path) -> bool {
    LISTS.iter().any(|name| rustix::fs::lgetxattr(path, *name, &mut [0; 256]).is_ok())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// /etc as it should be: what is made there is root's alone to write.
fn expect_usual(lab: &Lab) {
    let etc = Path::new("/sysroot/etc");
    assert_eq!(mode(etc), 0o755);
    fs::create_dir(etc.join("directory")).unwrap();
    fs::write(etc.join("directory/file"), "").unwrap();
    for path in [etc, &etc.join("directory"), &etc.join("directory/file"), &lab.state_path("etc/upper")] {
        assert!(!has_list(path), "{}", path.display());
    }
    assert_eq!((mode(&etc.join("directory")), mode(&etc.join("directory/file"))), (0o755, 0o644));
}

#[test]
fn of_the_state_directory_and_of_the_layers() {
    for config in ["", "[etc]\nkeep = [\"kept/**\"]\n"] {
        for place in ["", "upper", "work"] {
            lab::with("sha512", move |lab| {
                let etc = lab.state_path("etc");
                if place.is_empty() {
                    fs::remove_dir(etc.join("upper")).unwrap();
                    fs::remove_dir_all(etc.join("work")).unwrap();
                } else {
                    fs::create_dir(etc.join("upper/kept")).unwrap();
                }
                for list in LISTS {
                    set_attribute(&etc.join(place), list, &access_list());
                }
                for _ in 0..2 {
                    lab.config(config);
                    lab.expect_sealed(&lab.boot(), lab.digest());
                    expect_usual(lab);
                    if place.is_empty() {
                        assert!(!["upper", "work"].map(|name| etc.join(name)).iter().any(|path| has_list(path)));
                    }
                    lab.forget();
                    if config.is_empty() {
                        fs::remove_dir_all(etc.join("upper/directory")).unwrap();
                    }
                }
            });
        }
    }
}
