//! The boot program: mounts the sealed root in the initramfs, or refuses.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;
use sealroot::ask;
use sealroot::boot;
use sealroot::kernel::kmsg;
use sealroot::refusal::chain;

/// musl's own gives memory back to the kernel as it goes, and asks for it again: half a page fault for each file of an
/// image.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

const USAGE: &str =
    "usage: sealroot-initrd [mount|gate|refused|early|fsck] [--sysroot DIR] | --check-config [--root DIR] | --version";

const SYSROOT: &str = "/sysroot";

/// What was asked for.
enum Invocation {
    Version,
    CheckConfig { root: PathBuf },
    Run { command: Command, sysroot: PathBuf },
}

/// What to do to the physical root.
enum Command {
    Mount,
    Gate,
    Refused,
    Early,
    Fsck,
}

/// The name by which systemd calls this program as a generator, with arguments that say where generators write.
const GENERATOR: &str = "sealroot-generator";

fn main() -> ExitCode {
    match parse(env::args_os()) {
        Some(Invocation::Run { command, sysroot }) => run(&command, &sysroot),
        Some(Invocation::Version) => {
            let _ = writeln!(std::io::stdout(), "sealroot-initrd {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(Invocation::CheckConfig { root }) => check_config(&root),
        None => {
            // Whoever closed standard error does not want to read this.
            let _ = writeln!(std::io::stderr(), "{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(command: &Command, sysroot: &Path) -> ExitCode {
    kmsg::install();
    // A working directory in the physical root would keep it busy.
    if let Err(error) = env::set_current_dir("/") {
        log::error!("{}: '/': {error}", boot::REFUSED);
        return ExitCode::FAILURE;
    }
    let result = match command {
        Command::Mount => boot::mount(sysroot),
        Command::Gate => boot::gate(sysroot),
        Command::Refused => Err(boot::refused(sysroot)),
        Command::Early => boot::early(sysroot),
        Command::Fsck => boot::fsck(env::var("SERVICE_RESULT").ok().as_deref()),
    };
    // The reason of a refusal is in the log.
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is wrong is told on standard error; for the desk, not for a boot.
fn check_config(root: &Path) -> ExitCode {
    let (told, code) = match ask::check_config(root) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(ignored)) => (format!("warning: {ignored}"), ExitCode::SUCCESS),
        Err(error) => (chain(&error), ExitCode::FAILURE),
    };
    let _ = writeln!(std::io::stderr(), "sealroot-initrd: {told}");
    code
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Invocation> {
    let program = arguments.next();
    if program.as_deref().map(Path::new).and_then(Path::file_name) == Some(OsStr::new(GENERATOR)) {
        return Some(Invocation::Run { command: Command::Early, sysroot: SYSROOT.into() });
    }
    let mut command = None;
    let mut sysroot = None;
    let mut root = None;
    let (mut version, mut check_config) = (false, false);
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "--sysroot" if sysroot.is_none() => sysroot = Some(PathBuf::from(arguments.next()?)),
            "--root" if root.is_none() => root = Some(PathBuf::from(arguments.next()?)),
            "--version" if command.is_none() => version = true,
            "--check-config" if command.is_none() => check_config = true,
            word if command.is_none() => {
                command = Some(match word {
                    "mount" => Command::Mount,
                    "gate" => Command::Gate,
                    "refused" => Command::Refused,
                    "early" => Command::Early,
                    "fsck" => Command::Fsck,
                    _ => return None,
                });
            }
            _ => return None,
        }
    }
    match (version, check_config, command.is_some() || sysroot.is_some()) {
        (true, false, false) if root.is_none() => return Some(Invocation::Version),
        (false, true, false) => return Some(Invocation::CheckConfig { root: root.unwrap_or_else(|| "/".into()) }),
        (false, false, _) if root.is_none() => {}
        _ => return None,
    }
    let sysroot = sysroot.unwrap_or_else(|| PathBuf::from(SYSROOT));
    let command = command.unwrap_or(Command::Mount);
    sysroot.is_absolute().then_some(Invocation::Run { command, sysroot })
}
