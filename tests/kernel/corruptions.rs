//! Random damage on the block device, below the filesystem: in what a boot reads, and anywhere else, from 1 to 64
//! changes at a time.
//!
//! Each damaged disk ends in one of four ways: the filesystem cannot be mounted, the boot is refused, a read in the
//! sealed root fails, or all is as it was. There is no fifth: no wrong content, no crash, no hang, nothing left mounted.
//!
//! `SEALROOT_DISKS` says how many there are for all tests together, `SEALROOT_SEED` which. The same seed gives the same
//! damage on every kernel; a failure prints what exactly it was.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::damage::{Damage, Intact};
use crate::disk::{self, DISK, DISK_FILE, Disk};
use crate::expect::{Snapshot, expect_no_wrong_content, loop_devices, mounts, snapshot, wait_until};
use crate::lab::{self, Lab, SYSROOT};
use crate::loops::{Access, LoopDevice};
use crate::places::{Places, places};
use crate::random::{self, Random};
use crate::watchdog::Watchdog;

/// How many disks are damaged without `SEALROOT_DISKS`.
const SAMPLE: usize = 60;
/// A boot and the reading of everything take less than a second.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn check_digest() {
    damage("digest");
}

#[test]
fn check_image() {
    damage("image");
}

#[test]
fn check_objects() {
    damage("objects");
}

#[test]
fn check_data() {
    damage("data");
}

/// What came of one damaged disk.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// ext4 itself refuses the disk, or the directory that is the root, so that nothing is booted.
    NotMounted,
    /// Refused by this step.
    Refused(String),
    /// Sealed, and at least one read fails, the first one so: about damage of its own, ext4 has many errors to give.
    ReadError(i32),
    /// Sealed, and everything is as it was.
    Unaffected,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted => f.write_str("the physical root cannot be mounted"),
            Self::Refused(stage) => write!(f, "refused ({stage})"),
            Self::ReadError(code) => write!(f, "sealed, a read fails ({:?})", Errno::from_raw(*code)),
            Self::Unaffected => f.write_str("sealed and unaffected"),
        }
    }
}

/// Damages a fourth of the disks: of five, four have the small filesystem without checksums, and one the usual one.
fn damage(check: &'static str) {
    let count = random::count("SEALROOT_DISKS", SAMPLE).div_ceil(4);
    let mut outcomes = Outcomes::new();
    for (disk, count) in [(Disk::Tiny, count - count / 5), (Disk::Ext4, count / 5)] {
        outcomes = damage_disk(disk, check, count, outcomes);
    }
    println!("{count} damaged disks with check = \"{check}\" and SEALROOT_SEED={:#x}:", random::seed());
    for (outcome, count) in &outcomes {
        println!("{count:5} {outcome}");
    }
    let count = |wanted: fn(&Outcome) -> bool| -> usize {
        outcomes.iter().filter(|(outcome, _)| wanted(outcome)).map(|(_, count)| count).sum()
    };
    assert!(count(|outcome| matches!(outcome, Outcome::Refused(_))) > 0);
    assert!(count(|outcome| *outcome == Outcome::Unaffected) > 0);
    // Where the data of all objects is checked, nothing that is damaged is left to be read; otherwise something is.
    assert_eq!(count(|outcome| matches!(outcome, Outcome::ReadError(_))) > 0, check != "data");
}

type Outcomes = BTreeMap<Outcome, usize>;

/// Damages a disk so many times, and adds what came of it.
fn damage_disk(disk: Disk, check: &'static str, count: usize, outcomes: Outcomes) -> Outcomes {
    lab::with_disk(disk, "sha512", move |lab| {
        let (image, places) = match disk {
            Disk::Tiny => ("TINY", places(lab)),
            _ => {
                lab.detach();
                ("V1", Places::new())
            }
        };
        lab.command_line(&lab.karg(image));
        lab.config(&format!("[policy]\ncheck = \"{check}\"\n[etc]\nmount = \"none\"\n[var]\nmount = \"none\"\n"));
        let machine = Machine::new(lab, lab.value(image));
        let mut random = Random::named(random::seed(), &format!("{disk:?} {check}"));
        let first = random.below(1000) as usize;
        let damages = (0..count).map(|number| match places.iter().nth((first + number / 2) % places.len().max(1)) {
            Some((place, parts)) if number % 2 == 0 => machine.intact.damage_in(&mut random, place, parts),
            _ => machine.intact.damage_anywhere(&mut random),
        });
        damages.fold(outcomes, |mut outcomes, damage| {
            *outcomes.entry(machine.boot_damaged(&damage)).or_default() += 1;
            outcomes
        })
    })
}

/// A lab whose disk is to be damaged, and what is on it as long as it is intact.
struct Machine<'a> {
    lab: &'a Lab,
    digest: &'a str,
    device: Device,
    file: File,
    intact: Intact,
    reference: Snapshot,
    mounts: usize,
    watchdog: Watchdog,
}

impl<'a> Machine<'a> {
    fn new(lab: &'a Lab, digest: &'a str) -> Self {
        let device = Device::new();
        *lab.loop_devices.lock().unwrap() = loop_devices().count();
        let mut machine = Self {
            lab,
            digest,
            device,
            file: File::options().write(true).open(DISK_FILE).unwrap(),
            intact: Intact::new(disk::content()),
            reference: Snapshot::new(),
            mounts: mounts().len(),
            watchdog: Watchdog::start(LIMIT),
        };
        machine.device.mount().unwrap();
        lab.mount_sysroot();
        lab.expect_sealed(&lab.run(&[]), digest);
        machine.reference = snapshot();
        assert!(
            machine.reference.len() > 40 && machine.reference.values().all(Result::is_ok),
            "{:?}",
            machine.reference
        );
        machine.clear_away();
        machine
    }

    fn boot_damaged(&self, damage: &Damage) -> Outcome {
        random::announce(&damage.to_string());
        self.watchdog.next(damage.to_string());
        self.intact.apply(damage, &self.file);
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let outcome = self.boot();
            assert_eq!(mounts().len(), self.mounts, "{:?}", mounts());
            outcome
        }));
        self.intact.repair(damage, &self.file);
        outcome.unwrap_or_else(|_| panic!("{:?}: {damage}: see above", self.lab.disk))
    }

    /// Boots what is on the disk, reads everything and takes it away again.
    fn boot(&self) -> Outcome {
        if self.device.mount().is_err() {
            self.device.expect_unused();
            return Outcome::NotMounted;
        }
        let root = self.lab.path("");
        if mount(Some(&root), SYSROOT, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_err() {
            self.lab.detach();
            self.device.expect_unused();
            return Outcome::NotMounted;
        }
        let run = self.lab.run(&[]);
        let outcome = if run.status == Some(0) {
            self.lab.expect_sealed(&run, self.digest);
            expect_no_wrong_content(&snapshot(), &self.reference).map_or(Outcome::Unaffected, Outcome::ReadError)
        } else {
            Outcome::Refused(self.lab.expect_refused_somewhere(&run))
        };
        self.clear_away();
        outcome
    }

    fn clear_away(&self) {
        self.lab.forget();
        self.lab.detach();
        self.device.expect_unused();
    }
}

/// A read-only loop device on the disk, so that the kernel cannot note on it what it finds damaged.
struct Device(LoopDevice);

impl Device {
    fn new() -> Self {
        Self(LoopDevice::new(DISK_FILE, Access::ReadOnly))
    }

    /// What the kernel does about errors is a field of the superblock, which the damage may have made `panic`.
    fn mount(&self) -> nix::Result<()> {
        mount(Some(self.0.path()), DISK, Some("ext4"), MsFlags::MS_RDONLY, Some("errors=continue"))
    }

    /// Expects that no filesystem on it is mounted anywhere, in whatever namespace or not at all attached.
    fn expect_unused(&self) {
        let exclusive = || File::options().read(true).custom_flags(libc::O_EXCL).open(self.0.path());
        wait_until("nothing on the disk is left mounted", || exclusive().is_ok());
    }
}
