//! Whole boots of a sealed root, of dm-verity and of plain ext4, and reading files back: under firmware with Secure Boot, or
//! in a native machine, which begins with the kernel.

mod roots;
mod rows;
mod watch;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, ensure};
use machines::builders::{self, built};
use machines::disk::{Change, Disk};
use machines::firmware::{self, Firmware};
use machines::native::{Drive, Native};
use machines::process::{self, Ended};

use self::roots::{ROOTS, Root};
use self::watch::{Boot, Watch};
use crate::machine::Kind;
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(600);

/// Measures so many boots of each root. The kernel is that of native machines: firmware starts Debian's own.
///
/// # Errors
/// A disk cannot be built, or a system does not come up as it should.
pub fn bench(kind: Kind, kernel: &str, rounds: u32) -> Result<Vec<Table>> {
    let mut boots: Vec<(Root, Vec<Boot>)> = ROOTS.map(|root| (root, Vec::new())).to_vec();
    // So that building is not in between.
    for root in ROOTS {
        root.disk()?;
        match kind {
            Kind::Native => root.initramfs()?,
            Kind::Emulated => root.uki()?,
        };
    }
    for round in 1..=rounds {
        for (root, boots) in &mut boots {
            eprintln!("boot {round}: {} …", root.name());
            boots.push(boot(kind, kernel, *root)?);
        }
    }
    let boots: Vec<_> = boots.into_iter().map(|(root, boots)| (root.name(), boots)).collect();
    let (files, bytes) = content(&built("rootfs", &[])?.join("root/usr"))?;
    let content = format!("/usr, {files} files, {} MB", bytes / 1_000_000);
    Ok(vec![rows::table(kind, &content, &boots)?])
}

/// Boots a copy of the root's disk.
fn boot(kind: Kind, kernel: &str, root: Root) -> Result<Boot> {
    let scratch = builders::scratch()?;
    let disk = Disk::copy_of(&root.disk()?)?;
    let command = match kind {
        Kind::Native => Native {
            kernel,
            memory: 2048,
            cpus: 1,
            initramfs: &root.initramfs()?,
            drives: &[Drive { file: disk.path(), writable: true }],
            arguments: &root.command_line()?,
            scratch: scratch.path(),
        }
        .command(LIMIT)?,
        Kind::Emulated => {
            disk.change(&Change::OnEsp(root.uki()?, "EFI/BOOT/BOOTX64.EFI".to_owned()))?;
            Firmware {
                kind: firmware::Kind::Installed,
                forbidden: None,
                disk: &disk,
                secure_boot: true,
                reboots: false,
                variables: &[],
                strings: &[],
                structures: &[],
                fw_cfg: &[],
                tpm: false,
                scratch: scratch.path(),
            }
            .command(LIMIT)?
            .into()
        }
    };
    let log = builders::logs("benches")?.join(format!("boot-{}-{}", kind.key(), root.name()));
    let _pinned = kind.pinned()?;
    let mut watch = Watch::new();
    let ended = process::run(command, LIMIT, &mut File::create(&log)?, &mut watch)?;
    let well = matches!(ended, Ended::Exited(status) if ExitStatus::success(&status));
    ensure!(well, "{}: expected it to switch itself off, found {ended:?}; see {}", root.name(), log.display());
    watch.boot(&root.source(kind)?)
}

/// How many regular files a folder has, and how many bytes they.
fn content(folder: &Path) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let (files, bytes) = if kind.is_dir() {
            content(&entry.path())?
        } else if kind.is_file() {
            (1, entry.metadata()?.len())
        } else {
            (0, 0)
        };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    Ok(sum)
}
