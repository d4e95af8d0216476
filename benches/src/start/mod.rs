//! A start of the boot program, beside the peer's (its default build and a static one) and the floor's, which makes the
//! system calls of the mount and checks nothing: each in a mount namespace of its own, with the page cache full and empty.

mod rows;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use machines::builders::{self, built, values};
use machines::disk::Disk;
use machines::native::Drive;

use crate::machine::{Clock, Job, Kind};
use crate::meter::Output;
use crate::programs::{self, Linked};
use crate::table::Table;

/// What a sealed command line carries (`sealed_kargs` of qemu/lib.sh), so that no way around the seal stays open: then there
/// is nothing to warn of.
pub const SEALED: &str = "systemd.import_credentials=no systemd.imds=no fstab=no rd.fstab=no rd.shell=0 rd.emergency=halt noresume \
                          systemd.mask=systemd-sysext.service systemd.mask=systemd-confext.service systemd.gpt_auto=no \
                          systemd.factory_reset=no rootflags=errors=remount-ro \
                          systemd.condition_first_boot=no systemd.firstboot=no";

/// The kernels of Debian 13, which cannot build a tree from mounts that are attached nowhere.
const OLDER: [&str; 2] = ["6.12", "generic"];

/// At the same addresses each time: QEMU translates a program anew for each address, which no processor does, and which
/// would cost position-independent programs (not the floor) most of their time. The console shows what it does with
/// `quiet`: what an emulated serial port takes for each letter is no program's. QEMU translates code when it is first
/// executed: so each program is started once before it is measured.
const SCRIPT: &str = r#"
  echo 0 >/proc/sys/kernel/randomize_va_space
  dmesg -n 4
  echo "kernel $(uname -r)"
  # The page cache stays full as long as something is mounted from the disk.
  mkdir /held
  mount -t ext4 "$root" /held
  set -- "$root" "sealroot=/sealroot-initrd mount" peer=/peer peer-static=/peer-static "floor=/floor $image $mounts"
  /start-meter 1 warm "$@" >/dev/null
  echo "section $section"
  /start-meter "$starts" warm "$@"
  [ "$section" = full ] || exit 0
  umount /held
  echo section empty
  /start-meter "$starts" cold "$@"
  /start-meter 1 count "$@""#;

/// Measures so many starts of each in one kind of machine.
///
/// # Errors
/// A program or a disk cannot be built, or the machine does not do what it should.
pub fn bench(kind: Kind, kernel: &str, starts: u32) -> Result<Vec<Table>> {
    let scratch = builders::scratch()?;
    let image = values(&built("repository", &[])?.join("env"))?.remove("SHA512_V1").context("no SHA512_V1")?;
    let files = files(scratch.path(), &image)?;
    let disk = Disk::copy_of(&built("disk", &["sha512"])?)?;
    // The floor has one way for each kernel, and no fall-back.
    let mounts = if OLDER.contains(&kernel) { "attached" } else { "detached" };
    let run = |clock, section| {
        let (files, disk) = (files.clone(), Drive { file: disk.path(), writable: true });
        let job = Job { kind, kernel, disk, files, cpus: 1, clock, limit: Duration::from_secs(900) };
        let (root, starts) = (kind.partition(2), starts.to_string());
        job.run(
            SCRIPT,
            &[("root", &root), ("image", &image), ("mounts", mounts), ("starts", &starts), ("section", section)],
        )
    };
    let timed = Output::parse(&run(Clock::Time, "full")?)?;
    let counted = match kind {
        Kind::Native => None,
        Kind::Emulated => Some(Output::parse(&run(Clock::Instructions, "counted")?)?),
    };
    Ok(vec![rows::starts(kind, &timed, counted.as_ref())?, rows::stages(kind, &timed)?])
}

/// What the machine has of this one: the programs, and what makes a sealed boot of `image`.
fn files(scratch: &Path, image: &str) -> Result<Vec<(PathBuf, String)>> {
    let peer = programs::peer(Linked::Dynamically)?;
    let mut files = programs::libraries(&[&peer])?;
    let (cmdline, config) = (scratch.join("cmdline"), scratch.join("config"));
    fs::write(&cmdline, format!("composefs.digest=v1-sha512-12:{image} {SEALED}\n"))?;
    fs::write(&config, "[policy]\ncheck = \"digest\"\non-failure = \"emergency\"\nsecure-boot = \"report\"\n")?;
    let others = [
        (cmdline, "/cmdline"),
        (config, "/usr/lib/sealroot/sealroot.toml"),
        (programs::boot_program()?, "/sealroot-initrd"),
        (peer, "/peer"),
        (programs::peer(Linked::Statically)?, "/peer-static"),
        (programs::floor(scratch)?, "/floor"),
        (programs::start_meter()?, "/start-meter"),
    ];
    files.extend(others.map(|(file, path)| (file, path.to_owned())));
    Ok(files)
}
