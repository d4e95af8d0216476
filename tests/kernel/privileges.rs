//! What the boot program may do while it runs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::stat::Mode;

use crate::kernel::Running;
use crate::lab;

/// The capabilities that the program works with, by their numbers in `linux/capability.h`. All that concern files are
/// among them, since overlayfs goes on using those of its mounter.
const KEPT: [(u32, &str); 13] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (9, "CAP_LINUX_IMMUTABLE"),
    (21, "CAP_SYS_ADMIN"),
    (22, "CAP_SYS_BOOT"),
    (24, "CAP_SYS_RESOURCE"),
    (27, "CAP_MKNOD"),
    (31, "CAP_SETFCAP"),
    (32, "CAP_MAC_OVERRIDE"),
    (33, "CAP_MAC_ADMIN"),
];
const REPORT: &str = "/run/sealroot/report.json";

/// The sets of capabilities of a process, by the first letters of their names in `/proc/PID/status`.
fn capabilities(process: &str) -> [u64; 4] {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(|set| {
        let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

/// Opens a FIFO for writing as soon as someone has it open for reading.
fn answer(fifo: &str) -> File {
    for _ in 0..1000 {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap();
        match File::options().write(true).custom_flags(flags).open(fifo) {
            Ok(file) => return file,
            Err(_) => sleep(Duration::from_millis(10)),
        }
    }
    panic!("nobody read {fifo}");
}

/// A report that is a FIFO stops the program where it looks for an earlier one: it has given up by then what it does
/// not need, and has done nothing yet.
fn expect_the_needed_ones_only(arguments: &'static [&'static str], stage: &'static str) {
    lab::with("sha512", move |lab| {
        lab.mount_sysroot();
        fs::create_dir("/run/sealroot").unwrap();
        nix::unistd::mkfifo(REPORT, Mode::from_bits_truncate(0o600)).unwrap();
        let [_, ours, ..] = capabilities("thread-self");
        let mut found = [0; 4];
        let run = lab.run_while(&mut Running, arguments, |process| {
            let mut report = answer(REPORT);
            found = capabilities(&process.to_string());
            report.write_all(br#"{"schema":2,"verdict":"refused","reason":"seen enough"}"#).unwrap();
        });
        let kept = ours & KEPT.iter().fold(0, |kept, (number, _)| kept | 1 << number);
        assert_ne!(ours, kept, "the test has nothing that could be given up");
        assert_eq!(found, [0, kept, kept, 0], "expected {KEPT:?} in {:x?}, found {found:x?}", [0, kept, kept, 0]);
        lab.expect_refused_again(&run, &format!("{stage}: refused before: seen enough"));
    });
}

#[test]
fn of_the_boot_program() {
    expect_the_needed_ones_only(&[], "earlier-run");
}

#[test]
fn of_the_gate() {
    expect_the_needed_ones_only(&["gate"], "gate");
}
