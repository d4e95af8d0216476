//! The boot program: mounts the sealed root in the initramfs, or refuses.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;
use sealroot::boot;
use sealroot::kernel::kmsg;

/// musl's own gives memory back to the kernel as it goes, and asks for it again: half a page fault for each file of an
/// image.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

const USAGE: &str = "usage: sealroot-initrd [mount|gate|refused|early|fsck] [--sysroot DIR] | --version";

const SYSROOT: &str = "/sysroot";

/// What was asked for.
enum Invocation {
    Version,
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

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Invocation> {
    let program = arguments.next();
    if program.as_deref().map(Path::new).and_then(Path::file_name) == Some(OsStr::new(GENERATOR)) {
        return Some(Invocation::Run { command: Command::Early, sysroot: SYSROOT.into() });
    }
    let mut command = None;
    let mut sysroot = None;
    let mut version = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "--sysroot" if sysroot.is_none() => sysroot = Some(PathBuf::from(arguments.next()?)),
            "--version" if command.is_none() => version = true,
            word if command.is_none() && !version => {
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
    if version {
        return Some(Invocation::Version);
    }
    let sysroot = sysroot.unwrap_or_else(|| PathBuf::from(SYSROOT));
    let command = command.unwrap_or(Command::Mount);
    sysroot.is_absolute().then_some(Invocation::Run { command, sysroot })
}
