//! Reading the inputs: bounded, and with the name of what could not be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::ask::added::{self, AddedString};
use crate::ask::bypasses::PhysicalFilesystem;
use crate::ask::cmdline::CommandLine;
use crate::ask::config::{Config, SEALROOT_TOML, SETUP_ROOT_CONF_TOML};
use crate::ask::firmware::{self, BootEntry, Lockdown, SecureBoot};
use crate::ask::manifest::{CMDLINE, MANIFEST, MAX_MANIFEST, Manifest};
use crate::kernel;
use crate::refusal::Refusal;

/// The kernel's longest command line is far below, in bytes; no configuration is longer either.
pub const MAX_INPUT: u64 = 64 * 1024;
/// Most inputs are shorter, in bytes: they take one read, and one that finds their end.
const USUAL_INPUT: usize = 4096;
/// The machine's SMBIOS table is a few kilobytes, and never near this, in bytes.
const MAX_TABLE: u64 = 1024 * 1024;
const SMBIOS_TABLE: &str = "/sys/firmware/dmi/tables/DMI";
/// Where PID 1 finds credentials that QEMU's `-fw_cfg` passes, if the kernel module for it is there.
const FW_CFG_CREDENTIALS: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
/// More credentials are not told one by one.
const MAX_CREDENTIALS: usize = 16;
const EFI: &str = "/sys/firmware/efi";
const EFIVARS: &str = "/sys/firmware/efi/efivars";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// `EFIVARFS_MAGIC` of `linux/magic.h`
const EFIVARFS_MAGIC: u32 = 0xde5e_81e4;

/// The kernel command line.
pub fn command_line() -> Result<CommandLine, Refusal> {
    let path = "/proc/cmdline";
    let text = read_file(path)?.ok_or_else(|| read_error(path, Errno::NOENT.into()))?;
    Ok(CommandLine::split(&text))
}

/// The command lines that were signed, where the initramfs says which.
pub fn signed_command_lines() -> Result<Option<Vec<CommandLine>>, Refusal> {
    let text = read_file(CMDLINE)?;
    Ok(text.map(|text| signed_lines(&text)))
}

/// One in each line of the file that has them.
pub fn signed_lines(text: &[u8]) -> Vec<CommandLine> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(CommandLine::split).collect()
}

/// The list of the initramfs's own files, where it has one.
pub fn manifest() -> Result<Option<Manifest>, Refusal> {
    let text = read_optional(CWD, MANIFEST, OFlags::empty(), MAX_MANIFEST)?;
    text.map(|text| Manifest::parse(&text)).transpose()
}

/// sealroot's configuration and the composefs tools'; an absent file is an empty one.
pub fn configs() -> Result<(Config, Config), Refusal> {
    parse_configs(&read_file)
}

/// The same two files of the tree at `root`, whose links lead nowhere else.
pub fn configs_of(root: &Path) -> Result<(Config, Config), Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|reason| {
        Refusal::of(format!("'{}'", root.as_os_str().as_encoded_bytes().escape_ascii())).because(reason)
    })?;
    parse_configs(&|path| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
            Ok(file) => read_bounded(file.into(), path, MAX_INPUT).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(reason) => Err(read_error(path, reason.into())),
        }
    })
}

fn parse_configs(read: &dyn Fn(&'static str) -> Result<Option<Vec<u8>>, Refusal>) -> Result<(Config, Config), Refusal> {
    let text = |path| {
        String::from_utf8(read(path)?.unwrap_or_default())
            .map_err(|error| Refusal::of(format!("'{path}'")).expected("UTF-8").because(error.utf8_error()))
    };
    let (ours, theirs) = (text(SEALROOT_TOML)?, text(SETUP_ROOT_CONF_TOML)?);
    Ok((Config::from_sealroot_toml(&ours)?, Config::from_setup_root_conf(&theirs)?))
}

/// What sealroot's configuration says about refusals, as far as that can be read; nothing else depends on it.
pub fn config_on_refusal() -> Result<Config, Refusal> {
    let bytes = read_file(SEALROOT_TOML)?.unwrap_or_default();
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    Ok(Config::on_refusal(text))
}

/// The firmware's variables, where the firmware is UEFI.
#[derive(Debug)]
pub struct Firmware {
    variables: Option<OwnedFd>,
}

impl Firmware {
    /// Opens the directory of variables: the one that is mounted, else a mount of our own that is attached nowhere.
    pub fn open() -> Result<Self, Refusal> {
        if !Path::new(EFI).exists() {
            return Ok(Self { variables: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(EFIVARS, flags, Mode::empty()).map_err(|reason| read_error(EFIVARS, reason.into()))?;
        let found = rustix::fs::fstatfs(&directory).map_err(|reason| read_error(EFIVARS, reason.into()))?;
        let variables = if found.f_type as u32 == EFIVARFS_MAGIC {
            directory
        } else {
            kernel::efivarfs(MountAttrFlags::MOUNT_ATTR_RDONLY)
                .map_err(|reason| Refusal::of("EFI variables").because(reason))?
        };
        Ok(Self { variables: Some(variables) })
    }

    /// What it says about Secure Boot.
    pub fn secure_boot(&self) -> Result<SecureBoot, Refusal> {
        if self.variables.is_none() {
            return Ok(SecureBoot::Unsupported);
        }
        let secure_boot = self.variable(firmware::SECURE_BOOT)?;
        let setup_mode = self.variable(firmware::SETUP_MODE)?;
        firmware::secure_boot(secure_boot.as_deref(), setup_mode.as_deref())
    }

    /// The boot entry whose tries the boot loader counts; `None` where it counts none.
    pub fn boot_entry(&self) -> Result<Option<BootEntry>, Refusal> {
        let content = self.variable(firmware::BOOT_COUNT_PATH)?;
        content.map(|content| firmware::boot_entry(&content)).transpose()
    }

    /// The name of the stub of the unified kernel image; `None` where none says that it was there.
    pub fn stub(&self) -> Result<Option<String>, Refusal> {
        let content = self.variable(firmware::STUB_INFO)?;
        content.map(|content| firmware::stub(&content)).transpose()
    }

    /// The content of a variable, `None` where there is none.
    fn variable(&self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(variables) = &self.variables else { return Ok(None) };
        read_optional(variables.as_fd(), name, OFlags::NOFOLLOW, MAX_INPUT)
    }
}

/// What the machine's set-up adds to the signed image; nothing where there is no SMBIOS. That a PC with UEFI has none is an
/// error.
pub fn added() -> Result<Vec<AddedString>, Refusal> {
    let table = read_optional(CWD, SMBIOS_TABLE, OFlags::empty(), MAX_TABLE)?;
    // Each PC with UEFI has one: it is hidden.
    if table.is_none() && cfg!(target_arch = "x86_64") && Path::new(EFI).exists() {
        return Err(table_error("the SMBIOS table of a PC with UEFI", "none"));
    }
    let mut found = table.as_deref().map(added::find).unwrap_or_default();
    // A string that is seen is the better reason.
    if let (true, Some(table)) = (found.is_empty(), &table)
        && !added::is_whole(table)
    {
        let found = format!("one that breaks off after {} bytes", table.len());
        return Err(table_error("an SMBIOS table with an end", &found));
    }
    match std::fs::read_dir(FW_CFG_CREDENTIALS) {
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
        Err(reason) => return Err(read_error(FW_CFG_CREDENTIALS, reason)),
        Ok(entries) => {
            for entry in entries.take(MAX_CREDENTIALS) {
                let entry = entry.map_err(|reason| read_error(FW_CFG_CREDENTIALS, reason))?;
                let name = entry.file_name();
                found.push(AddedString::credential("opt/io.systemd.credentials/", name.as_encoded_bytes()));
            }
        }
    }
    Ok(found)
}

/// The identifier of this boot, which the kernel makes up, and which nobody can know before.
pub fn boot_id() -> Result<String, Refusal> {
    let content = read_file(BOOT_ID)?.ok_or_else(|| read_error(BOOT_ID, Errno::NOENT.into()))?;
    let id = content.trim_ascii();
    let wrong = || Refusal::of(format!("'{BOOT_ID}'")).expected("letters, digits and '-'").found("something else");
    if id.is_empty() || !id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
        return Err(wrong());
    }
    String::from_utf8(id.to_vec()).map_err(|_| wrong())
}

/// What the physical root is, as far as it can be told.
pub fn physical_filesystem(sysroot: &Path) -> PhysicalFilesystem {
    /// `EXT4_SUPER_MAGIC` of `linux/magic.h`
    const EXT4: u32 = 0xef53;
    match rustix::fs::statfs(sysroot) {
        Ok(found) if found.f_type as u32 != EXT4 => PhysicalFilesystem::Other,
        Ok(_) | Err(_) => PhysicalFilesystem::MayBeExt4,
    }
}

/// What the kernel's lockdown forbids; where it cannot be read, nothing.
pub fn lockdown() -> Lockdown {
    read_file("/sys/kernel/security/lockdown")
        .ok()
        .flatten()
        .map_or(Lockdown::None, |content| Lockdown::parse(&content))
}

/// The content of a file, `None` where there is no file.
fn read_file(path: &str) -> Result<Option<Vec<u8>>, Refusal> {
    read_optional(CWD, path, OFlags::empty(), MAX_INPUT)
}

fn read_optional(directory: BorrowedFd<'_>, path: &str, flags: OFlags, limit: u64) -> Result<Option<Vec<u8>>, Refusal> {
    match rustix::fs::openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty()) {
        Ok(file) => read_bounded(file.into(), path, limit).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(reason) => Err(read_error(path, reason.into())),
    }
}

fn read_bounded(file: File, path: &str, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::with_capacity(USUAL_INPUT);
    file.take(limit + 1).read_to_end(&mut content).map_err(|reason| read_error(path, reason))?;
    if content.len() as u64 > limit {
        return Err(too_long(path, limit));
    }
    Ok(content)
}

/// About an input that is longer than `limit`, in bytes.
pub fn too_long(path: &str, limit: u64) -> Refusal {
    Refusal::of(format!("'{path}'")).expected(format!("at most {limit} bytes")).found("more")
}

fn read_error(path: &str, reason: io::Error) -> Refusal {
    Refusal::of(format!("'{path}'")).because(reason)
}

fn table_error(expected: &'static str, found: &str) -> Refusal {
    Refusal::of(format!("'{SMBIOS_TABLE}'")).expected(expected).found(found)
}
