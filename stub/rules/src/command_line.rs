//! The kernel command line of an image.
//!
//! Linux takes less than a section can hold: its EFI stub ends the command line at a newline, as at a zero, and the kernel cuts it
//! off at a length. What stood behind would be gone without a word, and with it what seals the system. So such a command line is
//! refused. It is never mended: a builder must see what will be booted.

use crate::problem::Problem;

/// `COMMAND_LINE_SIZE` of x86-64 and arm64, without the zero at its end.
pub const MAX_LENGTH: usize = 2047;

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLine {
    /// Its length in bytes.
    Length(usize),
    /// A byte that is no printable ASCII.
    Byte {
        /// The first such byte.
        byte: u8,
        /// Where it is.
        at: usize,
    },
}

/// The command line in a section, without the zeros, newlines and spaces at its end, which tools put there.
///
/// # Errors
/// It is not one that Linux gets as it stands.
pub fn parse(section: &[u8]) -> Result<&[u8], Problem> {
    let end = section.iter().rposition(|byte| !matches!(byte, 0 | b'\n' | b' '));
    let line = end.and_then(|last| section.get(..=last)).unwrap_or_default();
    if let Some((at, byte)) = line.iter().enumerate().find(|(_, byte)| !matches!(byte, b' '..=b'~')) {
        return Err(Problem::CommandLine(BadLine::Byte { byte: *byte, at }));
    }
    if line.is_empty() || line.len() > MAX_LENGTH {
        return Err(Problem::CommandLine(BadLine::Length(line.len())));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (section, expected) in [
            (&b"root=x ro"[..], Ok(&b"root=x ro"[..])),
            (b"root=x ro\n\0\0 \n", Ok(b"root=x ro")),
            (b" a  \"b c\" ", Ok(b" a  \"b c\"")),
            (b"a\nb", Err("command line: expected printable ASCII, found byte 0x0a at 1")),
            (b"a\0b", Err("command line: expected printable ASCII, found byte 0x00 at 1")),
            (b"a\tb", Err("command line: expected printable ASCII, found byte 0x09 at 1")),
            ("ab=ä".as_bytes(), Err("command line: expected printable ASCII, found byte 0xc3 at 3")),
            (b"a\x7f", Err("command line: expected printable ASCII, found byte 0x7f at 1")),
            (b"", Err("command line: expected 1 to 2047 bytes, found 0")),
            (b" \n\0", Err("command line: expected 1 to 2047 bytes, found 0")),
            (&[b'a'; 2047], Ok(&[b'a'; 2047])),
            (&[b'a'; 2048], Err("command line: expected 1 to 2047 bytes, found 2048")),
        ] {
            let found = parse(section).map_err(|problem| problem.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{}", section.escape_ascii());
        }
    }
}
