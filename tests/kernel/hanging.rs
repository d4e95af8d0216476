//! A disk that no longer answers: what follows a refusal comes nevertheless. The disk is a device of the device mapper, which
//! the native kernels have.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::device_mapper::Mapped;
use crate::disk::{DISK, DISK_FILE};
use crate::expect::loop_devices;
use crate::kernel::Kernel;
use crate::lab::{self, SYSROOT, mount_at};
use crate::loops::{Access, LoopDevice};
use crate::raw::Call;

/// Five seconds for unmounting, five for sync(2), and a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The running kernel, which tells when the program exits.
struct TellsTheEnd(mpsc::Sender<()>);

impl Kernel for TellsTheEnd {
    fn calls(&self) -> &'static [i64] {
        &[libc::SYS_exit_group]
    }

    fn before(&mut self, _: &Call) {
        // After a while nobody listens any more.
        let _ = self.0.send(());
    }
}

/// Whether the physical root is mounted elsewhere too: it is then not unmounted for good, and sync(2) still finds it.
fn refusal_on_a_disk_that_hangs(is_mounted_elsewhere: bool) {
    lab::with("sha512", move |lab| {
        lab.config("[policy]\non-failure = \"reboot\"\nfailure-delay = 2\n");
        lab.command_line("quiet");
        lab.detach();
        let below = LoopDevice::new(DISK_FILE, Access::Writable);
        let sectors = fs::metadata(DISK_FILE).unwrap().len() / 512;
        let device = Mapped::new("hanging", sectors, "linear", &format!("{} 0", below.path().display()));
        mount_at(device.path.to_str().unwrap(), DISK, Some(lab.disk.filesystem()), MsFlags::empty());
        *lab.loop_devices.lock().unwrap() = loop_devices().count();
        lab.mount_sysroot();
        if !is_mounted_elsewhere {
            umount2(DISK, MntFlags::empty()).unwrap();
        }
        // Something is still to be written.
        File::create(Path::new(SYSROOT).join("unwritten")).unwrap().write_all(&[1; 1 << 20]).unwrap();
        device.suspend();
        let (tell, end) = mpsc::channel();
        let mut came = false;
        let (note, resumed) = (&mut came, &device);
        let run = lab.run_while(&mut TellsTheEnd(tell), &[], move |_| {
            *note = end.recv_timeout(LIMIT).is_ok();
            // The program is gone only when nothing of it waits for the disk any more.
            resumed.resume();
        });
        assert!(came, "nothing followed within {} s: {run:?}", LIMIT.as_secs());
        let waited =
            format!("4 sealroot: {}", if is_mounted_elsewhere { "sync: " } else { "'/sysroot': expected the disk" });
        assert!(run.log.iter().any(|line| line.starts_with(&waited)), "the disk did not hang: {run:?}");
        let message = "ask: kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither";
        lab.expect_refused_and(&run, message, "reboot", 2);
        let _ = umount2(DISK, MntFlags::empty());
    });
}

#[test]
fn while_it_is_synced() {
    refusal_on_a_disk_that_hangs(true);
}

#[test]
fn while_it_is_unmounted() {
    refusal_on_a_disk_that_hangs(false);
}
