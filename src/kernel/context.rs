//! A filesystem being configured (`fsopen(2)`), and what the kernel says when it cannot be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags};
use thiserror::Error;

use super::forms::{Kernel, LayerForm};
use crate::kernel::lookup;
use crate::refusal::Refusal;

/// The kernel keeps eight messages for a context (`struct fc_log`).
const MAX_MESSAGES: usize = 8;

/// Why a filesystem could not be configured or mounted.
#[derive(Debug, Error)]
#[error("{filesystem}: {step}{messages}")]
pub struct FsError {
    filesystem: &'static str,
    step: String,
    /// The kernel's messages, each behind a `: `.
    messages: String,
    #[source]
    reason: Errno,
}

impl FsError {
    /// The kernel's error number.
    pub fn reason(&self) -> Errno {
        self.reason
    }

    /// The filesystem's type.
    pub fn filesystem(&self) -> &'static str {
        self.filesystem
    }

    /// Whether the kernel's messages have this text, which another then takes the place of.
    pub(super) fn said(&mut self, text: &str) -> bool {
        let said = self.messages.contains(text);
        if said {
            self.messages.clear();
        }
        said
    }

    /// The same error, where it is known what the step failed for.
    pub(super) fn because(self, step: String) -> Self {
        Self { step, ..self }
    }
}

impl From<FsError> for Refusal {
    fn from(error: FsError) -> Self {
        Self::of(error.to_string()).because(error.reason)
    }
}

/// An open filesystem context.
#[derive(Debug)]
pub struct FsContext {
    context: OwnedFd,
    filesystem: &'static str,
}

/// A name that no filesystem has for an option.
const NO_OPTION: &str = "sealroot";

impl FsContext {
    /// A context for a new filesystem of this type.
    pub fn open(filesystem: &'static str) -> Result<Self, FsError> {
        match rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => Ok(Self { context, filesystem }),
            Err(reason) => {
                let step = match reason {
                    Errno::NODEV => missing(filesystem),
                    _ => "open".into(),
                };
                Err(FsError { filesystem, step, messages: String::new(), reason })
            }
        }
    }

    /// A context to reconfigure the filesystem that is mounted at `mount`.
    pub fn pick(filesystem: &'static str, mount: impl AsFd) -> Result<Self, FsError> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_NO_AUTOMOUNT;
        match rustix::mount::fspick(mount, "", flags) {
            Ok(context) => Ok(Self { context, filesystem }),
            Err(reason) => Err(FsError { filesystem, step: "reconfigure".into(), messages: String::new(), reason }),
        }
    }

    /// Whether options are looked at only when the filesystem is created, as it is with those that the kernel has not
    /// converted to the mount API (overlayfs before Linux 6.5). The context is used up by asking.
    pub fn takes_any_option(self) -> bool {
        rustix::mount::fsconfig_set_flag(&self.context, NO_OPTION).is_ok()
    }

    /// Sets an option as a mount table shows it: `key=value` or `key`.
    pub fn set_option(&self, option: &str) -> Result<(), FsError> {
        match option.split_once('=') {
            Some((key, value)) => self.set_string(key, value),
            None => self.set_flag(option),
        }
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &str) -> Result<(), FsError> {
        rustix::mount::fsconfig_set_flag(&self.context, key)
            .map_err(|reason| self.error(format!("option {key}"), reason))
    }

    /// Sets an option.
    pub fn set_string(&self, key: &str, value: &str) -> Result<(), FsError> {
        rustix::mount::fsconfig_set_string(&self.context, key, value)
            .map_err(|reason| self.error(format!("option {key}={value}"), reason))
    }

    /// Sets an option whose value is a directory.
    pub fn set_directory(&self, key: &str, directory: BorrowedFd<'_>, kernel: &Kernel) -> Result<(), FsError> {
        if kernel.forms().layers == LayerForm::Fd {
            match rustix::mount::fsconfig_set_fd(&self.context, key, directory) {
                Ok(()) => return Ok(()),
                // Before Linux 6.15 none of O_PATH are taken (EBADF), before 6.13 none at all (EINVAL, too, and ENOTSUP
                // before 6.5).
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::BADF) => {
                    self.messages();
                    kernel.learn(|forms| forms.layers = LayerForm::Path);
                }
                Err(reason) => return Err(self.error(format!("option {key}"), reason)),
            }
        }
        self.set_string(key, &lookup::proc_path(directory))
    }

    /// Sets the lower layers of an overlay: one with metadata and content, and below it, where there is one, the one
    /// that only has content.
    pub fn set_layers(
        &self,
        lower: BorrowedFd<'_>,
        data: Option<BorrowedFd<'_>>,
        kernel: &Kernel,
    ) -> Result<(), FsError> {
        if kernel.forms().layers != LayerForm::List {
            match self.set_directory("lowerdir+", lower, kernel) {
                Ok(()) => return data.map_or(Ok(()), |data| self.set_directory("datadir+", data, kernel)),
                // Before Linux 6.7 layers cannot be added one by one.
                Err(error) if error.reason() == Errno::INVAL => {
                    // Where it does not help, something else is wrong, and the newer form's error says what.
                    self.set_list(lower, data).map_err(|_| error)?;
                    kernel.learn(|forms| forms.layers = LayerForm::List);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.set_list(lower, data)
    }

    /// Both layers in one string.
    fn set_list(&self, lower: BorrowedFd<'_>, data: Option<BorrowedFd<'_>>) -> Result<(), FsError> {
        let data = data.map(|data| format!("::{}", lookup::proc_path(data))).unwrap_or_default();
        self.set_string("lowerdir", &(lookup::proc_path(lower) + &data))
    }

    /// Creates the filesystem and a mount of it, attached nowhere.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd, FsError> {
        rustix::mount::fsconfig_create(&self.context).map_err(|reason| self.error("create".into(), reason))?;
        rustix::mount::fsmount(&self.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|reason| self.error("mount".into(), reason))
    }

    /// Gives the picked filesystem the options that were set.
    pub fn reconfigure(self) -> Result<(), FsError> {
        rustix::mount::fsconfig_reconfigure(&self.context).map_err(|reason| self.error("reconfigure".into(), reason))
    }

    fn error(&self, step: String, reason: Errno) -> FsError {
        FsError { filesystem: self.filesystem, step, messages: self.messages(), reason }
    }

    /// Takes the messages off the context: one record of `e <text>` per read, `ENODATA` after the last.
    fn messages(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        for _ in 0..MAX_MESSAGES {
            let Ok(count) = rustix::io::read(&self.context, &mut buffer) else { break };
            let record = buffer.get(..count).unwrap_or_default().trim_ascii();
            let message = record.strip_prefix(b"e ").or(record.strip_prefix(b"w ")).unwrap_or(record);
            text.push_str(": ");
            text.push_str(&String::from_utf8_lossy(message));
        }
        text
    }
}

/// What is missing where a filesystem is unknown to the kernel, and where it comes from.
fn missing(filesystem: &str) -> String {
    let symbol = match filesystem {
        "erofs" => "CONFIG_EROFS_FS",
        "overlay" => "CONFIG_OVERLAY_FS",
        "efivarfs" => "CONFIG_EFIVAR_FS",
        _ => return "open".into(),
    };
    format!(
        "open: expected the module '{filesystem}' in the initramfs (the dracut module 'sealroot' puts it there) or \
         {symbol}=y, found neither"
    )
}
