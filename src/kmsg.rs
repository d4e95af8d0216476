//! The log sink: one record per write(2) to `/dev/kmsg`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

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
    let sink = SINK.get_or_init(|| Kmsg { device: OpenOptions::new().write(true).open("/dev/kmsg").ok() });
    if log::set_logger(sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = format_record(record.level(), &record.args().to_string());
        let written = self.device.as_ref().map(|mut device| device.write_all(text.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            // There is nowhere left to say that this failed.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// `<N>sealroot: …`: syslog's priority of the level, control bytes escaped, one line.
fn format_record(level: Level, message: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug | Level::Trace => 7,
    };
    let mut text = format!("<{priority}>sealroot: ");
    for character in message.chars() {
        if text.len() >= MAX_RECORD {
            text.push('…');
            break;
        }
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}", character.escape_default());
        } else {
            text.push(character);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        assert_eq!(format_record(Level::Error, "a\nb\u{1b}[c"), "<3>sealroot: a\\nb\\u{1b}[c\n");
        assert_eq!(format_record(Level::Info, "ok"), "<5>sealroot: ok\n");
        let long = format_record(Level::Warn, &"é".repeat(2000));
        assert!(long.len() < 980 && long.ends_with("…\n"), "{}", long.len());
    }
}
