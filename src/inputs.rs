//! Reading the inputs: bounded, and with the name of what could not be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use thiserror::Error;

use crate::cmdline::CommandLine;
use crate::config::{Config, ConfigError, SEALROOT_TOML, SETUP_ROOT_CONF_TOML};
use crate::firmware::{self, BootEntry, FirmwareError, Lockdown, SecureBoot};
use crate::mount::{self, FsError};

/// The kernel's longest command line is far below, in bytes; no configuration is longer either.
const MAX_INPUT: u64 = 64 * 1024;
/// Most inputs are shorter, in bytes: they take one read, and one that finds their end.
const USUAL_INPUT: usize = 4096;
const EFI: &str = "/sys/firmware/efi";
const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// `EFIVARFS_MAGIC` of `linux/magic.h`
const EFIVARFS_MAGIC: u32 = 0xde5e_81e4;

/// Why an input cannot be used.
#[derive(Debug, Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("'{path}'")]
    Read {
        /// The file.
        path: String,
        /// The kernel's reason.
        #[source]
        reason: io::Error,
    },
    /// It is too long.
    #[error("'{path}': expected at most {MAX_INPUT} bytes, found more")]
    TooLong {
        /// The file.
        path: String,
    },
    /// It is no text.
    #[error("'{path}': expected UTF-8")]
    NotText {
        /// The file.
        path: &'static str,
        /// Where it is not.
        #[source]
        reason: std::str::Utf8Error,
    },
    /// A configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An EFI variable is wrong.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// EFI variables cannot be mounted.
    #[error("EFI variables")]
    Efivarfs(#[source] FsError),
}

/// The kernel command line.
pub fn command_line() -> Result<CommandLine, InputError> {
    let path = "/proc/cmdline";
    let text = read_optional(path)?.ok_or_else(|| read_error(path, Errno::NOENT.into()))?;
    Ok(CommandLine::split(&text))
}

/// sealroot's configuration and the composefs tools'; an absent file is an empty one.
pub fn configs() -> Result<(Config, Config), InputError> {
    let ours = config_text(SEALROOT_TOML)?;
    let theirs = config_text(SETUP_ROOT_CONF_TOML)?;
    Ok((Config::from_sealroot_toml(&ours)?, Config::from_setup_root_conf(&theirs)?))
}

/// What the firmware says about Secure Boot.
pub fn secure_boot() -> Result<SecureBoot, InputError> {
    if !Path::new(EFI).exists() {
        return Ok(SecureBoot::Unsupported);
    }
    let variables = efivars()?;
    let secure_boot = variable(&variables, firmware::SECURE_BOOT)?;
    let setup_mode = variable(&variables, firmware::SETUP_MODE)?;
    Ok(firmware::secure_boot(secure_boot.as_deref(), setup_mode.as_deref())?)
}

/// The boot entry whose tries the boot loader counts; `None` where it counts none.
pub fn boot_entry() -> Result<Option<BootEntry>, InputError> {
    if !Path::new(EFI).exists() {
        return Ok(None);
    }
    let content = variable(&efivars()?, firmware::BOOT_COUNT_PATH)?;
    Ok(content.map(|content| firmware::boot_entry(&content)).transpose()?)
}

/// The name of the stub of the unified kernel image; `None` where none says that it was there.
pub fn stub() -> Result<Option<String>, InputError> {
    if !Path::new(EFI).exists() {
        return Ok(None);
    }
    let content = variable(&efivars()?, firmware::STUB_INFO)?;
    Ok(content.map(|content| firmware::text(firmware::STUB_INFO, &content)).transpose()?)
}

/// What the kernel's lockdown forbids; where it cannot be read, nothing.
pub fn lockdown() -> Lockdown {
    read_optional("/sys/kernel/security/lockdown")
        .ok()
        .flatten()
        .map_or(Lockdown::None, |content| Lockdown::parse(&content))
}

fn config_text(path: &'static str) -> Result<String, InputError> {
    let bytes = read_optional(path)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|error| InputError::NotText { path, reason: error.utf8_error() })
}

/// The content of a file, `None` where there is no file.
fn read_optional(path: &str) -> Result<Option<Vec<u8>>, InputError> {
    match File::open(path) {
        Ok(file) => read_bounded(file, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(read_error(path, reason)),
    }
}

fn read_bounded(file: File, path: &str) -> Result<Vec<u8>, InputError> {
    let mut content = Vec::with_capacity(USUAL_INPUT);
    file.take(MAX_INPUT + 1).read_to_end(&mut content).map_err(|reason| read_error(path, reason))?;
    if content.len() as u64 > MAX_INPUT {
        return Err(InputError::TooLong { path: path.into() });
    }
    Ok(content)
}

fn read_error(path: &str, reason: io::Error) -> InputError {
    InputError::Read { path: path.into(), reason }
}

/// The directory of EFI variables: the one that is mounted, else a mount of our own that is attached nowhere.
fn efivars() -> Result<OwnedFd, InputError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(EFIVARS, flags, Mode::empty()).map_err(|reason| read_error(EFIVARS, reason.into()))?;
    let found = rustix::fs::fstatfs(&directory).map_err(|reason| read_error(EFIVARS, reason.into()))?;
    if found.f_type as u32 == EFIVARFS_MAGIC {
        return Ok(directory);
    }
    mount::efivarfs(MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(InputError::Efivarfs)
}

fn variable(directory: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>, InputError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => read_bounded(file.into(), name).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(reason) => Err(read_error(name, reason.into())),
    }
}
