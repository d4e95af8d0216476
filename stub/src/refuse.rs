//! What a refusal does: it closes PCR 11, says why in one line, and restarts the machine.
//!
//! Nothing goes back to who started the stub: a boot loader would go on to something else. A restart is what boot counting needs,
//! which starts the last good image when the tries of this one are used up.

use alloc::format;
use alloc::string::String;
use core::fmt::{Display, Write};
use core::panic::{Location, PanicInfo};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use uefi::runtime::{self, ResetType};
use uefi::{Status, boot, system};

use crate::tpm;

/// How long the reason stays on the screen, in seconds.
const DELAY: u64 = 10;

/// Refuses for a reason that was made here: with memory in use, none could be allocated for it after a panic.
pub fn refuse(reason: String) -> ! {
    refuse_for(&reason)
}

/// Gives what there is, or refuses.
pub trait OrRefuse<T> {
    /// `what` is what the error is about.
    fn or_refuse(self, what: &str) -> T;
}

impl<T> OrRefuse<T> for uefi::Result<T> {
    fn or_refuse(self, what: &str) -> T {
        self.unwrap_or_else(|error| refuse(format!("{what}: {}", error.status())))
    }
}

fn refuse_for(reason: &dyn Display) -> ! {
    let capped = tpm::cap();
    system::with_stdout(|out| {
        // There is nobody to tell if the console is broken. The line starts at the left, whatever a boot loader left there.
        let _ = writeln!(out, "\nsealroot-stub: boot refused: {reason}; restart in {DELAY} s");
        if let Err(error) = &capped {
            let _ = writeln!(out, "sealroot-stub: PCR 11 could not be closed: {}", error.status());
        }
    });
    boot::stall(Duration::from_secs(DELAY));
    runtime::reset(ResetType::COLD, Status::SECURITY_VIOLATION, None)
}

/// A mistake in the stub is a refusal as well. If the refusal itself panics, the machine restarts at once.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    if PANICKED.swap(true, Ordering::Relaxed) {
        runtime::reset(ResetType::COLD, Status::ABORTED, None)
    }
    let line = info.location().map_or(0, Location::line);
    refuse_for(&format_args!("internal error at line {line}"))
}
