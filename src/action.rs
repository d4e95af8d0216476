//! What follows a refusal, carried out.

use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::system::{self, RebootCommand};

use crate::kmsg;
use crate::policy::Action;

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
    rustix::fs::sync();
    if !delay.is_zero() {
        thread::sleep(delay);
        // Others may have spoken meanwhile.
        kmsg::say_on_console(reason);
    }
    system::reboot(command)
}
