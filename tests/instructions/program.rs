//! What the tests `instructions::` of `tests/machines` count: one part of what the boot program does before it mounts
//! anything, done once.
//!
//! `instructions PART TIMES` prepares the inputs of a part and carries it out (TIMES is 1) or leaves it out (0): the
//! difference is what the part takes, of memory too, as at a boot. Nothing here reads a file of the machine, and
//! digests are left out: which instructions compute those depends on the processor.

use std::env;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use dlmalloc::GlobalDlmalloc;
use rustix::fs::MemfdFlags;
use sealroot::ask::cmdline::{BootRequest, CommandLine};
use sealroot::ask::config::Config;
use sealroot::ask::firmware::SecureBoot;
use sealroot::ask::policy::{self, Resolved};
use sealroot::formats::composefs;

/// That of the boot program.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// A sealed command line, with the root in both formats and what else there is on a server.
const COMMAND_LINE: &[u8] = b"composefs.digest=v1-sha512-12:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef composefs=\
    fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210\
    fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210 \
    root=UUID=01234567-89ab-cdef-0123-456789abcdef rootflags=\"noatime,commit=60\" rd.shell=0 rd.emergency=halt \
    systemd.import_credentials=no fstab=no rd.fstab=no noresume console=tty0 console=ttyS0,115200n8 quiet loglevel=3\n";

/// Every key.
const SEALROOT_TOML: &str = r#"# The machines at the gates
layout = "composefs"
[policy]
karg = "require"
unverified = "refuse"
secure-boot = "require"
alternatives = "first-existing"
missing-verity = "refuse"
check = "digest"   # the disk is slow
on-failure = "auto"
failure-delay = 30
[root]
transient = false
[etc]
mount = "overlay"
flags = ["nosuid", "nodev", "noexec"]
[var]
mount = "bind"
flags = [
  "nosuid",
  'nodev',
]
[sysroot]
mount = "readonly"
"#;

/// What the composefs tools know of it.
const SETUP_ROOT_CONF: &str = r#"[root]
transient = true
[etc]
mount = "transient"
[var]
mount = "overlay"
"#;

/// The root directory of a distribution, in the order of an image.
const DIRECTORIES: &[&str] = &[
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "proc", "root", "run", "sbin", "srv",
    "sys", "sysroot", "tmp", "usr", "var",
];
const MOUNT_POINTS: &[&str] = &["etc", "var", "sysroot"];
/// What the numbers of inodes count from the start of the image, in bytes: the size of a compact inode.
const INODE_SIZE: usize = 32;
/// The first inode behind the super block.
const ROOT_INODE: u64 = 36;
/// Behind the entries of the root directory. An inode and the two entries of an empty directory take two numbers.
const FIRST_INODE: u64 = 64;

fn main() -> Result {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [part, times] = arguments.as_slice() else { return Err("usage: instructions PART TIMES".into()) };
    let wanted = match times.as_str() {
        "0" => false,
        "1" => true,
        _ => return Err(format!("'{times}': expected 0 or 1").into()),
    };
    match part.as_str() {
        "command-line" => once(wanted, || {
            let command_line = CommandLine::split(black_box(COMMAND_LINE));
            Ok(BootRequest::try_from(&command_line)?)
        }),
        "sealroot.toml" => once(wanted, || Ok(Config::from_sealroot_toml(black_box(SEALROOT_TOML))?)),
        "setup-root-conf.toml" => once(wanted, || Ok(Config::from_setup_root_conf(black_box(SETUP_ROOT_CONF))?)),
        "policy" => {
            let command_line = CommandLine::split(COMMAND_LINE);
            let ours = Config::from_sealroot_toml(SEALROOT_TOML)?;
            let theirs = Config::from_setup_root_conf(SETUP_ROOT_CONF)?;
            once(wanted, || {
                let resolved = Resolved::new(command_line, ours, theirs);
                Ok(policy::decide(&resolved, black_box(SecureBoot::Enforced), &[])?)
            })
        }
        "image" => {
            let file = File::from(rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC)?);
            file.write_all_at(&composefs_image(), 0)?;
            once(wanted, || {
                let format = composefs::format("images/x", &file)?;
                composefs::check_mount_points("images/x", &file, black_box(MOUNT_POINTS))?;
                Ok(format)
            })
        }
        _ => Err(format!("no part '{part}'").into()),
    }
}

/// Carries a part out if it is wanted. What it gives is not dropped: at a boot too that comes later, if ever.
fn once<T>(wanted: bool, part: impl FnOnce() -> Result<T>) -> Result {
    if wanted {
        std::mem::forget(black_box(part()?));
    }
    Ok(())
}

/// A composefs image in format v1 of one block, with [`DIRECTORIES`] in its root and nothing in them.
fn composefs_image() -> Vec<u8> {
    let inodes = (FIRST_INODE..).step_by(2);
    let mut root = vec![(".", ROOT_INODE), ("..", ROOT_INODE)];
    root.extend(DIRECTORIES.iter().copied().zip(inodes));
    let mut image = Vec::new();
    // composefs: magic, version, flags, composefs version.
    fields(&mut image, &[(4, 0xd078_629a), (4, 1), (4, 0), (4, 1)]);
    image.resize(1024, 0);
    // The super block: magic, checksum, features, log2 of the block size, slots, root, inodes, epoch, its nanoseconds,
    // blocks.
    fields(&mut image, &[(4, 0xe0f5_e1e2), (4, 0), (4, 2), (1, 12), (1, 0), (2, ROOT_INODE)]);
    fields(&mut image, &[(8, 1 + DIRECTORIES.len() as u64), (8, 0), (4, 0), (4, 1)]);
    directory(&mut image, ROOT_INODE, &root);
    for (_, inode) in root.iter().skip(2) {
        directory(&mut image, *inode, &[(".", *inode), ("..", ROOT_INODE)]);
    }
    image.resize(4096, 0);
    image
}

/// Appends the inode of a directory with its entries behind it.
fn directory(image: &mut Vec<u8>, inode: u64, entries: &[(&str, u64)]) {
    image.resize(inode as usize * INODE_SIZE, 0);
    let names: String = entries.iter().map(|(name, _)| *name).collect();
    let mut name_at = 12 * entries.len() as u64;
    // Layout, xattrs, mode, links, size.
    fields(image, &[(2, 4), (2, 0), (2, 0o40755), (2, 2), (4, name_at + names.len() as u64)]);
    // Reserved, block, number for stat, owner, group, reserved.
    fields(image, &[(4, 0), (4, 0), (4, inode), (2, 0), (2, 0), (4, 0)]);
    for (name, inode) in entries {
        // Inode, where the name starts, type, reserved.
        fields(image, &[(8, *inode), (2, name_at), (1, 2), (1, 0)]);
        name_at += name.len() as u64;
    }
    image.extend(names.bytes());
}

/// Appends numbers of so many bytes, little-endian.
fn fields(image: &mut Vec<u8>, fields: &[(usize, u64)]) {
    for (size, number) in fields {
        image.extend(number.to_le_bytes().iter().take(*size));
    }
}
