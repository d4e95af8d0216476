//! /etc, /var, /sysroot and the transient root: where they come from, with which flags, and what planted state does.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::expect::mounts;
use crate::kernel::Release;
use crate::lab::{self, Lab, write};

fn boot(lab: &Lab, config: &str) {
    lab.config(config);
    lab.expect_sealed(&lab.boot(), lab.digest());
}

fn expect_read_only(path: &str) {
    let error = File::create(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{path}: {error}");
}

#[test]
fn defaults() {
    lab::with("sha512", |lab| {
        // The kernel shows an option where it differs from its default.
        let _default = Defaults::turn_on(&["redirect_dir"]);
        boot(lab, "");
        lab.expect_flags("/sysroot", &["ro"]);
        lab.expect_flags("/sysroot/etc", &["rw", "nosuid", "nodev"]);
        lab.expect_flags("/sysroot/var", &["rw", "nosuid", "nodev"]);
        lab.expect_flags("/sysroot/sysroot", &["ro", "nosuid", "nodev", "noexec"]);
        for path in ["/sysroot/new", "/sysroot/usr/new", "/sysroot/usr/share/text", "/sysroot/sysroot/new"] {
            expect_read_only(path);
        }
        write(Path::new("/sysroot/etc/new"), b"a");
        assert_eq!(fs::read(lab.state_path("etc/upper/new")).unwrap(), b"a");
        write(Path::new("/sysroot/var/new"), b"b");
        assert_eq!(fs::read(lab.state_path("var/new")).unwrap(), b"b");
        assert_eq!(fs::metadata("/sysroot/etc").unwrap().permissions().mode() & 0o7777, 0o755);
        let options = lab.mount_of("/sysroot/etc").unwrap().options;
        assert!(options.iter().any(|option| option == "redirect_dir=nofollow"), "{options:?}");
        assert!(!options.iter().any(|option| option == "metacopy=on" || option == "index=on"), "{options:?}");
    });
}

/// Overlayfs works with the capabilities of whoever mounted it: a program that drops too many leaves a system in which
/// files of /etc cannot be given away.
#[test]
fn etc_can_be_used_as_root_would() {
    lab::with("sha512", |lab| {
        boot(lab, "");
        for path in ["/sysroot/etc/shadow", "/sysroot/etc/default/settings", "/sysroot/etc/secret"] {
            chown(path, Some(1000), Some(42)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o2600)).unwrap();
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1000, 42, 0o2600), "{path}");
        }
        // A device node and a file capability, which only a few tools make.
        let (kind, mode) = (SFlag::S_IFCHR, Mode::from_bits_truncate(0o600));
        mknod("/sysroot/etc/node", kind, mode, makedev(1, 3)).unwrap();
        // `struct vfs_cap_data` of revision 2: CAP_CHOWN permitted.
        let capability = [0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (path, flags) = ("/sysroot/etc/default/settings", rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(path, "security.capability", &capability, flags).unwrap();
        fs::remove_file("/sysroot/etc/hostname").unwrap();
        assert!(!Path::new("/sysroot/etc/hostname").exists());
        fs::rename("/sysroot/etc/passwd", "/sysroot/etc/passwd-").unwrap();
        fs::write("/sysroot/etc/secret", "changed").unwrap();
    });
}

#[test]
fn etc_bind_and_bootc() {
    for config in ["[etc]\nmount = \"bind\"\n", "layout = \"bootc\"\n"] {
        lab::with("sha512", move |lab| {
            write(&lab.state_path("etc/passwd"), b"bound");
            boot(lab, config);
            lab.expect_flags("/sysroot/etc", &["rw", "nosuid", "nodev"]);
            assert_eq!(lab.mount_of("/sysroot/etc").unwrap().filesystem, "ext4");
            assert_eq!(fs::read("/sysroot/etc/passwd").unwrap(), b"bound");
        });
    }
}

#[test]
fn etc_and_var_transient() {
    lab::with("sha512", |lab| {
        lab.setup_root_conf("[etc]\ntransient = true\n[var]\nmount = \"transient\"\n");
        lab.expect_sealed(&lab.boot(), lab.digest());
        for name in ["etc", "var"] {
            lab.expect_flags(&format!("/sysroot/{name}"), &["rw", "nosuid", "nodev"]);
            write(&Path::new("/sysroot").join(name).join("new"), b"a");
            assert!(!lab.state_path(name).join("upper/new").exists() && !lab.state_path(name).join("new").exists());
        }
        assert_eq!(fs::read_to_string("/sysroot/etc/hostname").unwrap(), "fixture\n");
        assert_eq!(fs::metadata("/sysroot/etc").unwrap().permissions().mode() & 0o7777, 0o755);
    });
}

/// The composefs tools' file may have what only they know.
#[test]
fn keys_of_others() {
    lab::with("sha512", |lab| {
        lab.setup_root_conf("var = { mount = \"transient\", other = [[{}]] }\n[[tool]]\nname = 1\n");
        let run = lab.boot();
        lab.expect_sealed(&run, lab.digest());
        let warning = "'/usr/lib/composefs/setup-root-conf.toml': not known to sealroot: 'var.other', 'tool', ignoring";
        assert_eq!(run.log.iter().filter(|line| line.contains(warning)).count(), 1, "{run:?}");
        assert_eq!(lab.mount_of("/sysroot/var").unwrap().filesystem, "overlay");
    });
}

#[test]
fn nothing_writable() {
    lab::with("sha512", |lab| {
        fs::remove_dir_all(lab.path("state")).unwrap();
        boot(lab, "[etc]\nmount = \"root\"\n[var]\nmount = \"none\"\n[sysroot]\nmount = \"none\"\n");
        for path in ["/sysroot/etc", "/sysroot/var", "/sysroot/sysroot"] {
            assert!(lab.mount_of(path).is_none(), "{path}");
        }
        expect_read_only("/sysroot/etc/new");
        expect_read_only("/sysroot/var/new");
    });
}

#[test]
fn flags_of_the_configuration() {
    lab::with("sha512", |lab| {
        boot(lab, "[etc]\nflags = [\"nosuid\", \"nodev\", \"noexec\"]\n[var]\nflags = []\n");
        lab.expect_flags("/sysroot/etc", &["rw", "nosuid", "nodev", "noexec"]);
        lab.expect_flags("/sysroot/var", &["rw"]);
    });
}

#[test]
fn volatile_leaves_var_alone() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} systemd.volatile=state", lab.karg("V1")));
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert!(lab.mount_of("/sysroot/var").is_none());
        assert_eq!(report["policy"]["var.mount"]["from"], "command line");
    });
}

#[test]
fn sysroot_writable() {
    lab::with("sha512", |lab| {
        lab.make_read_only();
        boot(lab, "[sysroot]\nmount = \"writable\"\n[etc]\nmount = \"none\"\n[var]\nmount = \"none\"\n");
        lab.expect_flags("/sysroot/sysroot", &["rw", "nosuid", "nodev", "noexec"]);
        write(Path::new("/sysroot/sysroot/new"), b"a");
    });
}

#[test]
fn physical_root_mounted_read_only() {
    lab::with("sha512", |lab| {
        lab.make_read_only();
        boot(lab, "");
        write(Path::new("/sysroot/etc/new"), b"a");
        write(Path::new("/sysroot/var/new"), b"b");
        expect_read_only("/sysroot/sysroot/new");
    });
    // Left alone where nothing is to be written.
    lab::with("sha512", |lab| {
        lab.make_read_only();
        boot(lab, "[etc]\nmount = \"transient\"\n[var]\nmount = \"transient\"\n");
        let physical = lab.mount_of("/sysroot/sysroot").unwrap();
        assert!(physical.options.iter().any(|option| option == "ro"), "{:?}", physical.options);
    });
}

#[test]
fn physical_root_that_cannot_be_written() {
    lab::with("sha512", |lab| {
        lab.protect();
        let message = "assemble: physical root: expected to be writable for the configured state: physical root: \
                       reconfigure: <errno 13>";
        lab.expect_refused(&lab.boot(), message);
    });
    lab::with("sha512", |lab| {
        lab.protect();
        boot(lab, "[etc]\nmount = \"transient\"\n[var]\nmount = \"none\"\n");
    });
}

#[test]
fn transient_root() {
    lab::with("sha512", |lab| {
        lab.config("[root]\ntransient = true\n");
        let run = lab.boot();
        assert_eq!(run.status, Some(0), "{run:?}");
        let source = format!("transient:composefs={}", lab.digest());
        assert!(run.log.contains(&format!("5 sealroot: sealed root in place at '/sysroot': {source}")), "{run:?}");
        let root = lab.mount_of("/sysroot").unwrap();
        assert_eq!((root.filesystem.as_str(), root.source), ("overlay", source));
        assert_eq!(fs::metadata("/sysroot").unwrap().permissions().mode() & 0o7777, 0o755);
        write(Path::new("/sysroot/usr/share/text"), b"changed");
        write(Path::new("/sysroot/etc/new"), b"a");
        assert_eq!(fs::read(lab.state_path("etc/upper/new")).unwrap(), b"a");
        assert_eq!(lab.report()["verdict"], "sealed");
        assert_eq!(lab.run(&["gate"]).status, Some(0));
    });
}

#[test]
fn var_that_deployments_share() {
    lab::with("sha512", |lab| {
        fs::remove_dir_all(lab.state_path("var")).unwrap();
        fs::create_dir_all(lab.path("state/os/default/var/shared")).unwrap();
        symlink("../../os/default/var", lab.state_path("var")).unwrap();
        boot(lab, "");
        assert!(Path::new("/sysroot/var/shared").is_dir());
    });
}

/// systemd shares its mounts, and what is mounted on a shared mount appears on its copies.
#[test]
fn what_is_mounted_elsewhere_stays_there() {
    lab::with("sha512", |lab| {
        fs::create_dir(lab.state_path("var/cache")).unwrap();
        boot(lab, "");
        let points = [lab.state_path("var/lib"), lab.path("composefs/images"), "/sysroot/var/cache".into()];
        for point in &points {
            mount(Some("planted"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        let found: Vec<_> =
            mounts().into_iter().filter(|mount| mount.source == "planted").map(|mount| mount.point).collect();
        assert_eq!(found, points);
    });
}

/// What somebody mounted in the physical root would be gone in silence.
#[test]
fn what_is_mounted_there_already() {
    // By statmount and by mountinfo.
    for release in [None, Some(Release(6, 6))] {
        lab::with("sha512", move |lab| {
            lab.mount_sysroot();
            let point = Path::new("/sysroot").join("state");
            mount(Some("of the machine"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            fs::create_dir_all(point.join(format!("deploy/{}/etc", lab.digest()))).unwrap();
            fs::create_dir_all(point.join(format!("deploy/{}/var", lab.digest()))).unwrap();
            let message = "replace: mount '/sysroot/state': expected no mount in the physical root (var.mount = \"none\" leaves /var to a unit of the image), found tmpfs of the machine";
            let run = match release {
                Some(mut release) => lab.run_on(&mut release, &[]),
                None => lab.run(&[]),
            };
            lab.expect_refused(&run, message);
        });
    }
}

fn refused(change: fn(&Lab), message: &'static str) {
    lab::with("sha512", move |lab| {
        change(lab);
        let state = format!("state directory 'state/deploy/{}", lab.digest());
        lab.expect_refused(&lab.boot(), &format!("assemble: {state}{message}"));
    });
}

#[test]
fn state_missing() {
    let missing = "/etc': expected a directory, or etc.mount = \"transient\": <errno 2>";
    refused(|lab| fs::remove_dir_all(lab.path("state")).unwrap(), missing);
    refused(|lab| fs::remove_dir_all(lab.state_path("etc")).unwrap(), missing);
    refused(
        |lab| fs::remove_dir_all(lab.state_path("var")).unwrap(),
        "/var': expected a directory, or var.mount = \"transient\": <errno 2>",
    );
}

#[test]
fn state_that_leads_out() {
    refused(
        |lab| {
            fs::remove_dir_all(lab.state_path("var")).unwrap();
            symlink("/", lab.state_path("var")).unwrap();
        },
        "/var': <errno 18>",
    );
    refused(
        |lab| {
            fs::remove_dir_all(lab.state_path("var")).unwrap();
            symlink("../../../../../run", lab.state_path("var")).unwrap();
        },
        "/var': <errno 18>",
    );
    // What a service owns in /var is no /etc, or part of one.
    refused(
        |lab| {
            fs::create_dir_all(lab.state_path("var/lib/service")).unwrap();
            fs::rename(lab.state_path("etc"), lab.state_path("var/lib/service/etc")).unwrap();
            symlink("var/lib/service/etc", lab.state_path("etc")).unwrap();
        },
        "/etc': <errno 40>",
    );
    for (target, found) in [
        ("etc/upper", "/state/deploy/{}/etc/upper"),
        (".", "/state/deploy/{}"),
        ("..", "/state/deploy"),
        ("../../..", ""),
        ("../other/etc", "/state/deploy/other/etc"),
    ] {
        lab::with("sha512", move |lab| {
            fs::create_dir_all(lab.path("state/deploy/other/etc")).unwrap();
            fs::remove_dir_all(lab.state_path("var")).unwrap();
            symlink(target, lab.state_path("var")).unwrap();
            let (name, found) = (format!("state/deploy/{}/var", lab.digest()), found.replace("{}", lab.digest()));
            let expected = "expected a directory apart from those of /etc";
            lab.expect_refused(
                &lab.boot(),
                &format!("assemble: state directory '{name}': {expected}, found '{found}'"),
            );
        });
    }
    for name in ["upper", "work"] {
        let message = if name == "upper" { "/etc/upper': <errno 40>" } else { "/etc/work': <errno 40>" };
        lab::with("sha512", move |lab| {
            let path = lab.state_path("etc").join(name);
            fs::remove_dir_all(&path).unwrap();
            symlink("../var", &path).unwrap();
            let state = format!("state directory 'state/deploy/{}", lab.digest());
            lab.expect_refused(&lab.boot(), &format!("assemble: {state}{message}"));
        });
    }
}

#[test]
fn state_that_is_no_directory() {
    for (name, found) in [("var", "a regular file"), ("etc/upper", "a FIFO"), ("etc/work", "a character device")] {
        lab::with("sha512", move |lab| {
            let path = lab.state_path(name);
            fs::remove_dir_all(&path).unwrap();
            match found {
                "a regular file" => write(&path, b""),
                "a FIFO" => nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o755)).unwrap(),
                _ => mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o700), makedev(1, 3)).unwrap(),
            }
            let message = format!(
                "assemble: state directory 'state/deploy/{}/{name}': expected a directory, found {found}",
                lab.digest()
            );
            lab.expect_refused(&lab.boot(), &message);
        });
    }
}

#[test]
fn upper_that_anyone_may_write() {
    refused(
        |lab| fs::set_permissions(lab.state_path("etc/upper"), fs::Permissions::from_mode(0o777)).unwrap(),
        "/etc/upper': expected owner and mode 0:0 0755, found 0:0 0777",
    );
    refused(
        |lab| chown(lab.state_path("etc/upper"), Some(1000), None).unwrap(),
        "/etc/upper': expected owner and mode 0:0 0755, found 1000:0 0755",
    );
    refused(
        |lab| chown(lab.state_path("etc/upper"), None, Some(1000)).unwrap(),
        "/etc/upper': expected owner and mode 0:0 0755, found 0:1000 0755",
    );
    refused(
        |lab| fs::set_permissions(lab.state_path("etc/upper"), fs::Permissions::from_mode(0o2755)).unwrap(),
        "/etc/upper': expected owner and mode 0:0 0755, found 0:0 2755",
    );
}

/// What others made more narrow than the sealed directory, as older composefs-setup-roots did, is made as that is.
#[test]
fn upper_that_nobody_else_may_read() {
    for mode in [0o700, 0o750, 0o555] {
        lab::with("sha512", move |lab| {
            let upper = lab.state_path("etc/upper");
            fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).unwrap();
            boot(lab, "");
            for path in [upper.as_path(), Path::new("/sysroot/etc")] {
                assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o755, "{path:?}");
            }
        });
    }
}

/// A work directory that others may read, as composefs-rs makes it, is closed; one that others may write to is not trusted.
#[test]
fn work_that_anyone_may_read_or_write() {
    lab::with("sha512", |lab| {
        let mode = || fs::metadata(lab.state_path("etc/work")).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o755);
        boot(lab, "");
        assert_eq!(mode(), 0o700);
    });
    refused(
        |lab| fs::set_permissions(lab.state_path("etc/work"), fs::Permissions::from_mode(0o775)).unwrap(),
        "/etc/work': expected owner and mode 0:0 0700, found 0:0 0775",
    );
    refused(
        |lab| fs::set_permissions(lab.state_path("etc/work"), fs::Permissions::from_mode(0o2755)).unwrap(),
        "/etc/work': expected owner and mode 0:0 0700, found 0:0 2755",
    );
    refused(
        |lab| fs::set_permissions(lab.state_path("etc/work"), fs::Permissions::from_mode(0o757)).unwrap(),
        "/etc/work': expected owner and mode 0:0 0700, found 0:0 0757",
    );
    refused(
        |lab| chown(lab.state_path("etc/work"), Some(1000), None).unwrap(),
        "/etc/work': expected owner and mode 0:0 0700, found 1000:0 0755",
    );
}

#[test]
fn upper_and_work_are_made() {
    lab::with("sha512", |lab| {
        for name in ["upper", "work"] {
            fs::remove_dir_all(lab.state_path("etc").join(name)).unwrap();
        }
        // What a power cut left of an earlier attempt.
        fs::create_dir(lab.state_path("etc/upper.new")).unwrap();
        boot(lab, "");
        assert!(!lab.state_path("etc/upper.new").exists());
        write(Path::new("/sysroot/etc/new"), b"a");
        let mode = |name: &str| fs::metadata(lab.state_path("etc").join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("upper"), mode("work")), (0o755, 0o700));
    });
}

/// bootc's layout, a whole copy of /etc, with a config that takes it for an overlay's: it must not disappear in silence.
#[test]
fn etc_of_another_layout() {
    lab::with("sha512", |lab| {
        let etc = lab.state_path("etc");
        for name in ["upper", "work"] {
            fs::remove_dir_all(etc.join(name)).unwrap();
        }
        write(&etc.join("hostname"), b"of this machine");
        let name = format!("state/deploy/{}/etc", lab.digest());
        let message = format!(
            "assemble: state directory '{name}': expected the layers of an overlay (etc.mount = \"overlay\"), found 'hostname'"
        );
        lab.expect_refused(&lab.boot(), &message);
        assert!(!etc.join("upper").exists());
    });
    lab::with("sha512", |lab| {
        let etc = lab.state_path("etc");
        for name in ["upper", "work"] {
            fs::remove_dir_all(etc.join(name)).unwrap();
        }
        write(&etc.join("hostname"), b"of this machine");
        // Deployments share what is in /var, by a link.
        fs::remove_dir_all(lab.state_path("var")).unwrap();
        fs::create_dir_all(lab.path("state/os/default/var")).unwrap();
        symlink("../../os/default/var", lab.state_path("var")).unwrap();
        write(&lab.state_path("").join(format!("{}.origin", lab.digest())), b"[origin]\n");
        boot(lab, "layout = \"bootc\"\n");
        assert_eq!(fs::read("/sysroot/etc/hostname").unwrap(), b"of this machine");
    });
}

/// Parameters of the overlay module, which are everyone's: set for one test, then as they were.
struct Defaults(Vec<(String, String)>);

impl Defaults {
    fn turn_on(parameters: &[&str]) -> Self {
        let mut before = Vec::new();
        for parameter in parameters {
            let path = format!("/sys/module/overlay/parameters/{parameter}");
            before.push((path.clone(), fs::read_to_string(&path).unwrap()));
            fs::write(path, "Y").unwrap();
        }
        Self(before)
    }
}

impl Drop for Defaults {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = fs::write(path, value);
        }
    }
}

/// The kernel shows an option where it differs from the module's default, so all of them are turned around.
#[test]
fn options_of_writable_overlays_do_not_depend_on_the_module() {
    lab::with("sha512", |lab| {
        let _defaults = Defaults::turn_on(&["redirect_dir", "metacopy", "index", "nfs_export", "xino_auto"]);
        lab.config("[root]\ntransient = true\n[var]\nmount = \"transient\"\n");
        let run = lab.boot();
        assert_eq!(run.status, Some(0), "{run:?}");
        for path in ["/sysroot", "/sysroot/etc", "/sysroot/var"] {
            let options = lab.mount_of(path).unwrap().options;
            for option in ["redirect_dir=nofollow", "metacopy=off", "index=off", "nfs_export=off", "xino=off"] {
                assert!(options.iter().any(|found| found == option), "{path}: no {option} in {options:?}");
            }
        }
    });
}

/// With the options that modules may default to, this upper would show the content of the sealed, unreadable
/// /etc/secret under a name and a mode of the attacker's choice.
#[test]
fn planted_redirects_are_not_followed() {
    lab::with("sha512", |lab| {
        let defaults = Defaults::turn_on(&["redirect_dir", "metacopy"]);
        let upper = lab.state_path("etc/upper");
        write(&upper.join("leak"), b"");
        fs::set_permissions(upper.join("leak"), fs::Permissions::from_mode(0o644)).unwrap();
        let set = |path: &Path, name: &str, value: &[u8]| {
            rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        set(&upper.join("leak"), "trusted.overlay.metacopy", b"");
        set(&upper.join("leak"), "trusted.overlay.redirect", b"/secret");
        boot(lab, "");
        drop(defaults);
        let secret = fs::read("/sysroot/etc/secret").unwrap();
        assert!(!secret.is_empty());
        assert!(!fs::read("/sysroot/etc/leak").is_ok_and(|content| content == secret));
    });
}
