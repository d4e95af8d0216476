//! Power cuts while something writes to the disk: what is left boots sealed or is refused with a reason, and once the
//! same thing has written everything, it is sealed.
//!
//! `SEALROOT_CUTS` says how many there are for all tests together, `SEALROOT_SEED` which. Recording needs a kernel with
//! dm-log-writes, which the native ones have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::MsFlags;

use crate::command::COMMAND;
use crate::disk::{Content, DISK, DISK_FILE};
use crate::expect::{Snapshot, expect_no_wrong_content, loop_devices, snapshot};
use crate::lab::{self, Lab, Run, mount_at, write};
use crate::random::{self, Random};
use crate::raw;
use crate::recording::Recording;
use crate::watchdog::Watchdog;

/// How many cuts there are without `SEALROOT_CUTS`.
const SAMPLE: usize = 16;
/// Both boots and the reading of everything take a few seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// What writes to the disk, and what must hold whenever it is cut short.
struct Writer {
    name: &'static str,
    /// What sealroot.toml says.
    policy: &'static str,
    /// The image that is booted afterwards.
    image: &'static str,
    /// Writes, or goes on writing.
    write: fn(&Lab, &Kept),
    /// Whether a disk that is written to half may be refused.
    may_be_refused: bool,
    /// Another image, which nothing is written about: it boots all the time.
    untouched: Option<&'static str>,
}

/// Files that were taken from the disk before, by their paths in the repository.
type Kept = BTreeMap<PathBuf, Vec<u8>>;

/// `missing-verity = "enable"`: the boot program enables fs-verity on the image.
#[test]
fn while_the_image_gets_fs_verity() {
    lab::with("sha512", |lab| {
        let content = fs::read(lab.image_path()).unwrap();
        let object = fs::canonicalize(lab.image_path()).unwrap();
        fs::remove_file(&object).unwrap();
        write(&object, &content);
        let writer = Writer {
            name: "while the image gets fs-verity",
            policy: "[policy]\nmissing-verity = \"enable\"\n",
            image: "V1",
            write: |lab, _| boot_and_forget(lab),
            may_be_refused: false,
            untouched: None,
        };
        cut_power(lab, &writer, &Kept::new());
    });
}

/// The first boot of a deployment makes the directories of its state.
#[test]
fn while_the_first_boot_makes_its_state() {
    lab::with("sha512", |lab| {
        for folder in ["upper", "work"] {
            fs::remove_dir_all(lab.state_path("etc").join(folder)).unwrap();
        }
        let writer = Writer {
            name: "while the first boot makes its state",
            policy: "[policy]\n",
            image: "V1",
            write: |lab, _| boot_and_forget(lab),
            may_be_refused: false,
            untouched: None,
        };
        cut_power(lab, &writer, &Kept::new());
    });
}

/// `sealroot enable --repo` on a repository that was copied without fs-verity.
#[test]
fn while_a_repository_gets_fs_verity() {
    lab::with("sha512", |lab| {
        let (repository, original) = (lab.path("composefs"), lab.path("original"));
        fs::rename(&repository, &original).unwrap();
        let status = Command::new("cp").arg("-a").args([&original, &repository]).status().unwrap();
        assert!(status.success());
        fs::remove_dir_all(original).unwrap();
        let writer = Writer {
            name: "while a repository gets fs-verity",
            policy: "[policy]\n",
            image: "V1",
            write: |lab, _| {
                let output = Command::new(COMMAND).args(["enable", "--repo"]).arg(lab.path("composefs")).output();
                assert!(output.as_ref().unwrap().status.success(), "{output:?}");
            },
            may_be_refused: true,
            untouched: None,
        };
        cut_power(lab, &writer, &Kept::new());
    });
}

/// An update writes the objects that the repository lacks, and then the image's name.
#[test]
fn while_an_update_is_written() {
    lab::with("sha512", |lab| {
        let repository = lab.path("composefs");
        let before = objects(&repository);
        fs::remove_file(repository.join("images").join(lab.value("OTHER"))).unwrap();
        let kept: Kept = unused_objects(lab).into_iter().collect();
        assert!(kept.len() > 1 && kept.keys().all(|name| before.contains(name)), "{:?}", kept.keys());
        for name in kept.keys() {
            fs::remove_file(repository.join(name)).unwrap();
        }
        fs::remove_dir_all(lab.path("state/deploy").join(lab.value("OTHER"))).unwrap();
        let writer = Writer {
            name: "while an update is written",
            policy: "[policy]\n",
            image: "OTHER",
            write: update,
            may_be_refused: true,
            untouched: Some("V1"),
        };
        cut_power(lab, &writer, &kept);
    });
}

/// The names of all objects, as `objects/ab/cd…`.
fn objects(repository: &Path) -> BTreeSet<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries(&repository.join("objects")).flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    files.map(|file| file.strip_prefix(repository).unwrap().to_owned()).collect()
}

/// The objects that no image refers to, with their content.
fn unused_objects(lab: &Lab) -> Vec<(PathBuf, Vec<u8>)> {
    let repository = lab.path("composefs");
    let repository_argument = repository.to_str().unwrap();
    let (_, result) = crate::command::ask(&["verify", "--repo", repository_argument, "--all", "--list-unused"]);
    let unused = result["unused"].as_array().unwrap().iter();
    unused
        .map(|name| PathBuf::from(name.as_str().unwrap()))
        .map(|name| (name.clone(), fs::read(repository.join(name)).unwrap()))
        .collect()
}

/// Writes as the composefs tools do: an object gets its name when it is on the disk with fs-verity, and an image when
/// all of its objects are.
fn update(lab: &Lab, objects: &Kept) {
    let repository = lab.path("composefs");
    let synced = |folder: &Path| File::open(folder).unwrap().sync_all().unwrap();
    for (name, content) in objects {
        let (object, new) = (repository.join(name), repository.join("new"));
        let folder = object.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        remove(&new);
        write(&new, content);
        let file = File::open(&new).unwrap();
        raw::enable_verity(&file, 2);
        file.sync_all().unwrap();
        fs::rename(&new, &object).unwrap();
        synced(folder);
        synced(folder.parent().unwrap());
    }
    let other = lab.value("OTHER");
    let state = lab.path("state/deploy").join(other);
    for folder in ["etc/upper", "etc/work", "var/lib"] {
        fs::create_dir_all(state.join(folder)).unwrap();
        let mode = fs::metadata(lab.state_path(folder)).unwrap().permissions();
        fs::set_permissions(state.join(folder), mode).unwrap();
    }
    rustix::fs::syncfs(File::open(&state).unwrap()).unwrap();
    let (images, link) = (repository.join("images"), repository.join("images/new"));
    remove(&link);
    symlink(format!("../objects/{}/{}", &other[..2], &other[2..]), &link).unwrap();
    fs::rename(link, images.join(other)).unwrap();
    synced(&images);
}

/// Removes what an earlier attempt may have left.
fn remove(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", file.display()),
        _ => {}
    }
}

fn boot_and_forget(lab: &Lab) {
    let run = lab.boot();
    lab.expect_sealed(&run, lab.digest());
    lab.forget();
}

/// Has something written, cuts the power again and again, and boots what is left.
fn cut_power(lab: &Lab, writer: &Writer, kept: &Kept) {
    let count = random::count("SEALROOT_CUTS", SAMPLE).div_ceil(4);
    let mut random = Random::named(random::seed(), writer.name);
    lab.config(writer.policy);
    lab.detach();
    let before = Content::read(Path::new(DISK_FILE));
    let recording = Recording::of(DISK_FILE, |device| {
        mount_at(device.to_str().unwrap(), DISK, Some("ext4"), MsFlags::empty());
        *lab.loop_devices.lock().unwrap() = loop_devices().count();
        (writer.write)(lab, kept);
        lab.detach();
    });
    assert!(recording.len() > 10, "{} writes", recording.len());
    lab.attach();
    let complete = boot_to_read(lab, writer.image, |lab, run| lab.expect_sealed(run, lab.value(writer.image)));
    assert!(complete.len() > 4000 && complete.values().all(Result::is_ok), "{} entries", complete.len());

    let watchdog = Watchdog::start(LIMIT);
    let mut outcomes = BTreeMap::new();
    for _ in 0..count {
        let cut = recording.cut(&mut random);
        let description = format!("power cut {}: {cut}", writer.name);
        random::announce(&description);
        watchdog.next(description.clone());
        lab.detach();
        recording.apply(&cut, &before.write());
        // A torn superblock is not sealroot's to mend: nothing is booted from it.
        match lab.try_attach() {
            Ok(()) => {}
            Err(reason @ (Errno::EBADMSG | Errno::EUCLEAN)) => {
                *outcomes.entry(format!("the physical root cannot be mounted ({reason:?})")).or_insert(0) += 1;
                before.write();
                lab.attach();
                continue;
            }
            Err(reason) => panic!("{description}: mount the disk: {reason}"),
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| boot_what_is_left(lab, writer, kept, &complete)));
        let outcome = outcome.unwrap_or_else(|_| panic!("{description}: see above"));
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    println!(
        "{count} power cuts {}, of {} writes, with SEALROOT_SEED={:#x}:",
        writer.name,
        recording.len(),
        random::seed()
    );
    for (outcome, count) in &outcomes {
        println!("{count:5} {outcome}");
    }
}

/// Boots what a power cut left, has the rest written, and boots that.
fn boot_what_is_left(lab: &Lab, writer: &Writer, kept: &Kept, complete: &Snapshot) -> String {
    if let Some(image) = writer.untouched {
        lab.command_line(&lab.karg(image));
        lab.expect_sealed(&lab.boot(), lab.value(image));
        lab.forget();
    }
    let digest = lab.value(writer.image);
    let mut outcome = String::new();
    let found = boot_to_read(lab, writer.image, |lab, run| {
        if run.status == Some(0) || !writer.may_be_refused {
            lab.expect_sealed(run, digest);
        } else {
            outcome = format!("refused ({})", lab.expect_refused_somewhere(run));
        }
    });
    if outcome.is_empty() {
        let error = expect_no_wrong_content(&found, complete);
        assert!(error.is_none() || writer.may_be_refused, "{error:?}");
        outcome = if error.is_some() { "sealed, a read fails" } else { "sealed and complete" }.into();
    }
    (writer.write)(lab, kept);
    // Every object is read before the new root is in place.
    lab.config(&format!("{}check = \"data\"\n", writer.policy));
    lab.command_line(&lab.karg(writer.image));
    lab.expect_sealed(&lab.boot(), digest);
    lab.forget();
    lab.config(writer.policy);
    outcome
}

/// Boots an image, looks at what came of it, and takes it away again. Gives what there was to read.
fn boot_to_read<T>(lab: &Lab, image: &str, expect: impl FnOnce(&Lab, &Run) -> T) -> Snapshot {
    lab.command_line(&lab.karg(image));
    let run = lab.boot();
    expect(lab, &run);
    let found = snapshot();
    lab.forget();
    found
}
