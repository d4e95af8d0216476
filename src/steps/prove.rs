//! The last look before the pivot: what PID 1 will execute can be read to its end, from sealed content.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::ask::cmdline::CommandLine;
use crate::disk::object;
use crate::disk::whole_file::WholeFiles;
use crate::formats::elf;
use crate::kernel::lookup::{self, LookupError};
use crate::refusal::Refusal;
use crate::steps::assemble::AssembledRoot;
use crate::verity::Verification;

/// What systemd's switch-root executes where `init=` names nothing, in its order.
pub const INITS: [&str; 2] = ["/usr/lib/systemd/systemd", "/sbin/init"];
/// systemd takes a root without it for no operating system. `/etc/os-release` is not sealed.
pub const OS_RELEASE: &str = "/usr/lib/os-release";

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

/// About a file of the new root.
pub fn about(path: &str) -> Refusal {
    Refusal::of(format!("new root: '{path}'"))
}

/// A file that is not the image's.
pub fn on_another_mount(path: &str, reason: Errno) -> Refusal {
    about(path).expected("a sealed file").found("one on another mount").because(reason)
}

/// Reads what will be started.
pub fn prove(root: AssembledRoot, command_line: &CommandLine, files: &WholeFiles) -> Result<ProvenRoot, Refusal> {
    let (init, program) = open_init(&root, command_line)?;
    read(files, &init, &program)?;
    match elf::interpreter(&program) {
        Ok(None) => {}
        Ok(Some(interpreter)) => read(files, &interpreter, &open(&root, &interpreter)?)?,
        Err(reason) => return Err(about(&init).because(reason)),
    }
    read(files, OS_RELEASE, &open(&root, OS_RELEASE)?)?;
    Ok(ProvenRoot { root, init })
}

fn open_init(root: &AssembledRoot, command_line: &CommandLine) -> Result<(String, File), Refusal> {
    if let Some(path) = init_karg(command_line)? {
        let file = open(root, &path)?;
        return Ok((path, file));
    }
    let [preferred, fallback] = INITS;
    match open(root, preferred) {
        Err(refusal) if matches!(refusal.cause(), Some(LookupError::Kernel(Errno::NOENT))) => {
            Ok((fallback.into(), open(root, fallback)?))
        }
        result => Ok((preferred.into(), result?)),
    }
}

/// The program that the command line names.
pub fn init_karg(command_line: &CommandLine) -> Result<Option<String>, Refusal> {
    let Some(value) = command_line.last_value("init").filter(|value| !value.is_empty()) else { return Ok(None) };
    match str::from_utf8(value) {
        Ok(path) if path.starts_with('/') => Ok(Some(path.to_owned())),
        _ => {
            let found = format!("'{}'", value.escape_ascii());
            Err(Refusal::of("karg 'init'").expected("an absolute path").found(found))
        }
    }
}

fn open(root: &AssembledRoot, path: &str) -> Result<File, Refusal> {
    // In one go where that succeeds; else, and where nobody vouches for what it is, step by step, which tells why not.
    if root.origin().verification() == Verification::Required
        && let Some(file) = lookup::open_in_root(root, path)
    {
        return Ok(file);
    }
    let location = match lookup::regular_file_in_root(root, path) {
        Ok(location) => location,
        Err(LookupError::Kernel(reason @ Errno::XDEV)) => return Err(on_another_mount(path, reason)),
        Err(reason) => return Err(about(path).because(reason)),
    };
    lookup::reopen(location.as_fd()).map_err(|reason| {
        let finding = object::examine(root.layers().image(), root.layers().objects(), path, reason);
        Refusal::of(finding.to_string()).because(reason).within(about(path))
    })
}

fn read(files: &WholeFiles, path: &str, file: &File) -> Result<(), Refusal> {
    let damaged = |reason| about(path).expected("content that belongs to the image").found("damage").because(reason);
    files.read(file).map_err(damaged)
}
