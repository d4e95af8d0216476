//! A library that is planted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::scenario::Scenario;
use super::world::World;
use crate::disk;

/// A shared library that says that it is there, and switches the machine off.
pub fn library(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    const SOURCE: &str = r#"
        #include <fcntl.h>
        #include <string.h>
        #include <sys/reboot.h>
        #include <sys/stat.h>
        #include <sys/sysmacros.h>
        #include <unistd.h>
        __attribute__((constructor)) static void start(void) {
            if (getuid() != 0) return;
            int log = open("/dev/kmsg", O_WRONLY);
            if (log < 0) {
                mknod("/kmsg", S_IFCHR | 0600, makedev(1, 11));
                log = open("/kmsg", O_WRONLY);
            }
            const char *words = getpid() == 1 ? "<2>a planted library runs in PID 1\n" : "<2>a planted library runs as root\n";
            if (write(log, words, strlen(words)) < 0) return;
            reboot(RB_POWER_OFF);
        }"#;
    let (source, library) = (scratch.join("planted.c"), scratch.join("planted.cred"));
    fs::write(&source, SOURCE)?;
    disk::run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-s", "-o"]).arg(&library).arg(&source))?;
    Ok(library)
}
