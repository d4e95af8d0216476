//! `/proc/thread-self/mountinfo`: what the kernel says is mounted in the mount namespace of the caller.
//!
//! Source: section 3.5 (mountinfo) of the kernel's `Documentation/filesystems/proc.rst`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str;

use super::mount::Mount;
use crate::refusal::Refusal;

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";
/// A mount table that is longer is nobody's honest work, in bytes.
const MAX_TABLE: u64 = 16 * 1024 * 1024;

/// One line: a mount, and its identifiers here, which may be used again after an unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The mount's identifier.
    pub id: u64,
    /// The identifier of the mount that it is attached to.
    pub parent: u64,
    /// All else, without identifiers that last.
    pub mount: Mount,
}

/// Reads the mount table of this thread.
pub fn read() -> Result<Vec<Line>, Refusal> {
    let mut table = Vec::new();
    File::open(MOUNTINFO)
        .and_then(|file| file.take(MAX_TABLE).read_to_end(&mut table))
        .map_err(|reason| Refusal::of(MOUNTINFO).because(reason))?;
    parse(&table)
}

/// Parses a whole table.
pub fn parse(table: &[u8]) -> Result<Vec<Line>, Refusal> {
    table
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line).ok_or_else(|| wrong(line)))
        .collect()
}

fn wrong(line: &[u8]) -> Refusal {
    let found = format_args!("'{}'", line.escape_ascii());
    Refusal::of(MOUNTINFO).expected("lines of at least ten fields").found(found)
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let (_device, _root) = (next()?, next()?);
    let point = PathBuf::from(OsString::from_vec(unescape(next()?)));
    let flags = tokens(next()?);
    // Optional fields, up to a lone hyphen.
    while next()? != b"-" {}
    let (filesystem, source) = (text(next()?), text(next()?));
    let options = tokens(next()?);
    Some(Line { id, parent, mount: Mount { id: None, parent: 0, point, flags, filesystem, source, options } })
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Comma-separated; a comma inside a value is escaped by the kernel and stays inside its token.
pub(super) fn tokens(field: &[u8]) -> Vec<String> {
    field.split(|byte| *byte == b',').map(text).collect()
}

/// Takes back the kernel's `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let table = parse(
            b"22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
              99 28 0:40 / /a\\040b\\134c ro,relatime - overlay composefs:00 ro,lowerdir+=/x\\054y,verity=require\n\
              7 1 8:1 /sub / rw shared:1 master:2 propagate_from:3 - ext4 /dev/sda1 rw\n",
        )
        .unwrap();
        assert_eq!(table.len(), 3);
        assert_eq!(
            table[1],
            Line {
                id: 99,
                parent: 28,
                mount: Mount {
                    id: None,
                    parent: 0,
                    point: "/a b\\c".into(),
                    flags: vec!["ro".into(), "relatime".into()],
                    filesystem: "overlay".into(),
                    source: "composefs:00".into(),
                    options: vec!["ro".into(), "lowerdir+=/x,y".into(), "verity=require".into()],
                },
            }
        );
    }

    #[test]
    fn everything_else_is_an_error() {
        for table in [
            &b"x 28 0:21 / /sys rw - sysfs sysfs rw\n"[..],
            b"22 28 0:21 / /sys rw shared:7 sysfs sysfs rw\n",
            b"22 28 0:21 / /sys rw - sysfs\n",
            b"22\n",
            b"99999999999999999999999 28 0:21 / /sys rw - sysfs sysfs rw\n",
        ] {
            let message = parse(table).unwrap_err().to_string();
            assert!(message.contains("expected lines of at least ten fields"), "{}: {message}", table.escape_ascii());
        }
        assert!(parse(b"").unwrap().is_empty());
    }
}
