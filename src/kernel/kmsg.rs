//! The log sink: one record per write(2) to `/dev/kmsg`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::{Mode, OFlags};

use crate::formats::printable;

/// The target of a record at emergency level, for which `log` has no name: every console shows it, whatever its log
/// level, and systemd-bsod does.
pub const EMERGENCY: &str = "emergency";

/// The kernel refuses longer records (`PRINTKRB_RECORD_MAX`, 1024 less a prefix in older releases), in bytes.
const MAX_RECORD: usize = 960;

/// Where records go. Standard error takes them where `/dev/kmsg` cannot be opened.
#[derive(Debug)]
struct Kmsg {
    device: Option<File>,
}

static SINK: OnceLock<Kmsg> = OnceLock::new();

/// Makes this module the program's log.
pub fn install() {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // musl's own open would take a second call for the flag.
    let open = || rustix::fs::open("/dev/kmsg", flags, Mode::empty()).ok().map(File::from);
    let sink = SINK.get_or_init(|| Kmsg { device: open() });
    if log::set_logger(sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = format_record(priority(record), &record.args().to_string());
        let written = self.device.as_ref().map(|mut device| device.write_all(text.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            // There is nowhere left to say that this failed.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Says something on the console itself, past the kernel log.
pub fn say_on_console(message: &str) {
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits();
    let console = OpenOptions::new().write(true).custom_flags(flags.cast_signed()).open("/dev/console");
    // There is no better place to say that this failed.
    let _ = console.and_then(|mut console| console.write_all(format!("\r\n{}\r", line(message)).as_bytes()));
}

/// syslog's priority of a record.
fn priority(record: &Record<'_>) -> u8 {
    match record.level() {
        Level::Error if record.target() == EMERGENCY => 0,
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug | Level::Trace => 7,
    }
}

/// `<N>sealroot: …`
fn format_record(priority: u8, message: &str) -> String {
    format!("<{priority}>{}", line(message))
}

/// `sealroot: …`, escaped if it is not printable, one line.
fn line(message: &str) -> String {
    let mut text = String::from("sealroot: ");
    // As a rule there is nothing to escape.
    if message.len() < MAX_RECORD - text.len() && message.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        text.push_str(message);
        text.push('\n');
        return text;
    }
    for character in message.chars() {
        if text.len() >= MAX_RECORD {
            text.push('…');
            break;
        }
        printable::push(&mut text, character);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        assert_eq!(format_record(3, "a\nb\u{1b}[c"), "<3>sealroot: a\\nb\\u{1b}[c\n");
        assert_eq!(format_record(3, "a\u{202e}b\u{200b}"), "<3>sealroot: a\\u{202e}b\\u{200b}\n");
        assert_eq!(line("a\u{2066}\u{9b}31m"), "sealroot: a\\u{2066}\\u{9b}31m\n");
        assert_eq!(format_record(5, "ok"), "<5>sealroot: ok\n");
        let long = format_record(4, &"é".repeat(2000));
        assert!(long.len() < 980 && long.ends_with("…\n"), "{}", long.len());
    }
}
