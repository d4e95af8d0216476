//! What follows a refusal, carried out.

use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::system::{self, RebootCommand};

use crate::ask::policy::Action;
use crate::boot::timed;
use crate::kernel::kmsg;

/// How long the disks may take for what is to be written to them. A refusal changes nothing that would be lost.
const SYNC_TIME: Duration = Duration::from_secs(5);

/// Waits, says the reason once more, as the last thing on the console, and has the kernel end it all at once: nothing that
/// systemd would do first can get in the way.
///
/// # Errors
/// Why the machine is still running. With [`Action::Emergency`] there is nothing to do here, and nothing fails.
pub fn carry_out(action: Action, delay: Duration, reason: &str) -> Result<(), Errno> {
    let command = match action {
        Action::Emergency => return Ok(()),
        Action::Reboot => RebootCommand::Restart,
        Action::Poweroff => RebootCommand::PowerOff,
        Action::Halt => RebootCommand::Halt,
    };
    if timed::within(SYNC_TIME, rustix::fs::sync).is_none() {
        log::warn!("sync: expected the disk to answer within {} s, ignoring", SYNC_TIME.as_secs());
    }
    if !delay.is_zero() {
        thread::sleep(delay);
        // Others may have spoken meanwhile.
        kmsg::say_on_console(reason);
    }
    system::reboot(command)
}
