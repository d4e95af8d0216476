//! The boot program: mounts the sealed root in the initramfs, or refuses.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;
use sealroot::{boot, kmsg};

/// musl's own gives memory back to the kernel as it goes, and asks for it again: half a page fault for each file of an
/// image.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

const USAGE: &str = "usage: sealroot-initrd [mount|gate|refused] [--sysroot DIR] | --version";

/// What to do, and where the physical root is mounted.
struct Invocation {
    command: Command,
    sysroot: PathBuf,
}

enum Command {
    Mount,
    Gate,
    Refused,
    Version,
}

fn main() -> ExitCode {
    let Some(Invocation { command, sysroot }) = parse(env::args_os().skip(1)) else {
        // Whoever closed standard error does not want to read this.
        let _ = writeln!(std::io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    if let Command::Version = command {
        let _ = writeln!(std::io::stdout(), "sealroot-initrd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    kmsg::install();
    // A working directory in the physical root would keep it busy.
    if let Err(error) = env::set_current_dir("/") {
        log::error!("{}: '/': {error}", boot::REFUSED);
        return ExitCode::FAILURE;
    }
    let result = match command {
        Command::Gate => boot::gate(&sysroot),
        Command::Refused => Err(boot::refused(&sysroot)),
        Command::Mount | Command::Version => boot::mount(&sysroot),
    };
    // The reason of a refusal is in the log.
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Invocation> {
    let mut command = None;
    let mut sysroot = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "--sysroot" if sysroot.is_none() => sysroot = Some(PathBuf::from(arguments.next()?)),
            word if command.is_none() => {
                command = Some(match word {
                    "mount" => Command::Mount,
                    "gate" => Command::Gate,
                    "refused" => Command::Refused,
                    "--version" => Command::Version,
                    _ => return None,
                });
            }
            _ => return None,
        }
    }
    let sysroot = sysroot.unwrap_or_else(|| PathBuf::from("/sysroot"));
    sysroot.is_absolute().then_some(Invocation { command: command.unwrap_or(Command::Mount), sysroot })
}
