//! What a start costs by the number of files in the image, with each `check`.

mod disk;
mod rows;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use machines::builders;
use machines::disk::Disk;
use machines::native::Drive;

use self::disk::Image;
use self::rows::{CHECKS, Growth, Place};
use crate::machine::{Clock, Job, Kind};
use crate::meter::Output;
use crate::programs;
use crate::start::SEALED;
use crate::table::Table;

/// `objects`, which takes longest, by itself and a third as often. Addresses are fixed as for `start`. QEMU translates the
/// code of the kernel and of the program when it is first executed: so there is a start that is not measured.
const SCRIPT: &str = r#"
  echo 0 >/proc/sys/kernel/randomize_va_space
  echo "kernel $(uname -r)"
  measure() {
    echo "section $1"
    /start-meter "$starts" "$2" "$root" $often
    /start-meter "$(((starts + 2) / 3))" "$2" "$root" $seldom
  }
  /start-meter 1 cold "$root" ${often%% cat*} >/dev/null
  measure empty cold
  # The page cache stays full as long as something is mounted from the disk.
  mkdir /held
  mount -t ext4 "$root" /held
  /start-meter 1 warm "$root" $often $seldom >/dev/null
  measure full warm"#;

/// Measures so many starts with each image in one kind of machine.
///
/// # Errors
/// A program or the disk cannot be built, or the machine does not do what it should.
pub fn bench(kind: Kind, kernel: &str, starts: u32) -> Result<Vec<Table>> {
    let (disk, images) = disk::disk()?;
    let scratch = builders::scratch()?;
    let files = files(scratch.path(), &images)?;
    let programs = |checks: &[&str]| {
        let words: Vec<_> = images.iter().flat_map(|image| checks.iter().map(|check| program(check, image))).collect();
        words.join(" ")
    };
    let (often, seldom) = (programs(&["digest", "image", "cat"]), programs(&["objects"]));
    let mut places = Vec::new();
    let mut release = String::new();
    for &cpus in kind.processors() {
        eprintln!("starting with {cpus} CPU …");
        let copy = Disk::copy_of(&disk)?;
        let (files, disk) = (files.clone(), Drive { file: copy.path(), writable: true });
        let job = Job { kind, kernel, disk, files, cpus, clock: Clock::Time, limit: Duration::from_secs(5400) };
        let (root, starts) = (kind.partition(2), starts.to_string());
        let variables = [("root", &root), ("starts", &starts), ("often", &often), ("seldom", &seldom)];
        let output = Output::parse(&job.run(SCRIPT, &variables.map(|(name, value)| (name, value.as_str())))?)?;
        for cache in ["empty", "full"] {
            places.push(Place { cache, cpus, section: output.section(cache)?.clone() });
        }
        release = output.kernel;
    }
    Ok(vec![Growth { kind, kernel: release, images, places }.table()?])
}

/// A word for start-meter.
fn program(check: &str, image: &Image) -> String {
    let name = rows::name(check, image);
    let path = if check == "cat" { format!("/{name}") } else { "/sealroot-initrd".to_owned() };
    format!("{name}={path}")
}

/// What the machine has of this one: for each image the command line, the config of each check, and a shell that becomes
/// `cat` of the image file, which tells something where the image is large.
fn files(scratch: &Path, images: &[Image]) -> Result<Vec<(PathBuf, String)>> {
    let mut files =
        vec![(programs::boot_program()?, "/sealroot-initrd".into()), (programs::start_meter()?, "/start-meter".into())];
    let mut add = |path: &str, text: &str, mode: u32| -> Result<()> {
        let file = scratch.join(path.replace('/', "_"));
        fs::write(&file, text).with_context(|| path.to_owned())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        files.push((file, path.to_owned()));
        Ok(())
    };
    // What start-meter mounts the others over.
    add("/cmdline", "", 0o644)?;
    add("/usr/lib/sealroot/sealroot.toml", "", 0o644)?;
    for image in images {
        for check in CHECKS {
            let name = rows::name(check, image);
            let cmdline = format!("composefs.digest=v1-sha512-12:{} {SEALED}\n", image.digest);
            add(&format!("/cmdline.{name}"), &cmdline, 0o644)?;
            let config = format!("[policy]\ncheck = \"{check}\"\non-failure = \"emergency\"\n");
            add(&format!("/config.{name}"), &config, 0o644)?;
        }
        let cat = format!("#!/bin/sh\nexec cat /sysroot/composefs/images/{} >/dev/null\n", image.digest);
        add(&format!("/{}", rows::name("cat", image)), &cat, 0o755)?;
    }
    Ok(files)
}
