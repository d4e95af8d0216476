//! The last look before the pivot: what PID 1 will execute can be read to its end, from sealed content.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use thiserror::Error;

use crate::assemble::AssembledRoot;
use crate::cmdline::CommandLine;
use crate::elf::{self, ElfError};
use crate::lookup::{self, LookupError};
use crate::object::{self, Finding};
use crate::policy::Verification;
use crate::whole_file::WholeFiles;

/// What systemd's switch-root executes where `init=` names nothing, in its order.
const INITS: [&str; 2] = ["/usr/lib/systemd/systemd", "/sbin/init"];
/// systemd takes a root without it for no operating system. `/etc/os-release` is not sealed.
const OS_RELEASE: &str = "/usr/lib/os-release";

/// A root whose init, interpreter and os-release were read to their ends.
#[derive(Debug)]
pub struct ProvenRoot {
    root: AssembledRoot,
    init: String,
}

impl ProvenRoot {
    /// The program that systemd will start.
    pub fn init(&self) -> &str {
        &self.init
    }

    /// The root.
    pub fn root(&self) -> &AssembledRoot {
        &self.root
    }

    /// The root, when it has been put in its place.
    pub fn into_root(self) -> AssembledRoot {
        self.root
    }
}

/// Why a root would not start.
#[derive(Debug, Error)]
pub enum ProveError {
    /// `init=` is no path.
    #[error("karg 'init': expected an absolute path, found '{found}'")]
    InitKarg {
        /// The value, made printable.
        found: String,
    },
    /// A file cannot be opened.
    #[error("new root: '{path}'")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        reason: LookupError,
    },
    /// A file's object is missing, or is not the one that the image names.
    #[error("new root: '{path}': {finding}")]
    Object {
        /// The file.
        path: String,
        /// What was found out about the object.
        finding: Finding,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// A file lies behind another mount.
    #[error("new root: '{path}': expected a sealed file, found one on another mount")]
    NotSealed {
        /// The file.
        path: String,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// A file's content is damaged.
    #[error("new root: '{path}': expected content that belongs to the image, found damage")]
    Read {
        /// The file.
        path: String,
        /// The kernel's reason.
        #[source]
        reason: io::Error,
    },
    /// The init is no program.
    #[error("new root: '{path}'")]
    Elf {
        /// The file.
        path: String,
        /// Why.
        #[source]
        reason: ElfError,
    },
}

/// Reads what will be started.
pub fn prove(root: AssembledRoot, command_line: &CommandLine, files: &WholeFiles) -> Result<ProvenRoot, ProveError> {
    let (init, program) = open_init(&root, command_line)?;
    read(files, &init, &program)?;
    match elf::interpreter(&program) {
        Ok(None) => {}
        Ok(Some(interpreter)) => read(files, &interpreter, &open(&root, &interpreter)?)?,
        Err(reason) => return Err(ProveError::Elf { path: init, reason }),
    }
    read(files, OS_RELEASE, &open(&root, OS_RELEASE)?)?;
    Ok(ProvenRoot { root, init })
}

fn open_init(root: &AssembledRoot, command_line: &CommandLine) -> Result<(String, File), ProveError> {
    if let Some(value) = command_line.last_value("init").filter(|value| !value.is_empty()) {
        let path = match str::from_utf8(value) {
            Ok(path) if path.starts_with('/') => path.to_owned(),
            _ => return Err(ProveError::InitKarg { found: value.escape_ascii().to_string() }),
        };
        let file = open(root, &path)?;
        return Ok((path, file));
    }
    let [preferred, fallback] = INITS;
    match open(root, preferred) {
        Err(ProveError::Open { reason: LookupError::Kernel(Errno::NOENT), .. }) => {
            Ok((fallback.into(), open(root, fallback)?))
        }
        result => Ok((preferred.into(), result?)),
    }
}

fn open(root: &AssembledRoot, path: &str) -> Result<File, ProveError> {
    // In one go where that succeeds; else, and where nobody vouches for what it is, step by step, which tells why not.
    if root.origin().verification() == Verification::Required
        && let Some(file) = lookup::open_in_root(root, path)
    {
        return Ok(file);
    }
    let location = match lookup::regular_file_in_root(root, path) {
        Ok(location) => location,
        Err(LookupError::Kernel(reason @ Errno::XDEV)) => {
            return Err(ProveError::NotSealed { path: path.into(), reason });
        }
        Err(reason) => return Err(ProveError::Open { path: path.into(), reason }),
    };
    lookup::reopen(location.as_fd()).map_err(|reason| {
        let finding = object::examine(root.layers(), path, reason);
        ProveError::Object { path: path.into(), finding, reason }
    })
}

fn read(files: &WholeFiles, path: &str, file: &File) -> Result<(), ProveError> {
    files.read(file).map_err(|reason| ProveError::Read { path: path.into(), reason })
}
