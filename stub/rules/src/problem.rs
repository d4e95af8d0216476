//! Why an image is refused: one sentence, with what was expected and what was found.

use core::fmt;

use crate::command_line::{BadLine, MAX_LENGTH};
use crate::pe::{Machine, Name};

/// Why the stub does not start an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The image's headers: what was found in place of a PE executable.
    Headers(&'static str),
    /// A section that is required.
    Missing(&'static str),
    /// A section whose name is there more than once.
    Twice(Name),
    /// A section that the stub does not know.
    Unknown(Name),
    /// A section that other stubs know, and what to do in its place.
    NotSupported(&'static str, &'static str),
    /// A section that is empty, or not as a whole inside the image and the file.
    Outside(Name),
    /// A section that does not begin behind the one before it: what it holds depends on who loads it.
    Overlaps(Name),
    /// The command line.
    CommandLine(BadLine),
    /// The kernel: what was expected of it, and what was found.
    Kernel(&'static str, &'static str),
    /// The kernel is for another machine than the stub.
    KernelMachine {
        /// The stub's.
        expected: Machine,
        /// The kernel's.
        found: Machine,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers(found) => write!(f, "image: expected a PE executable, found {found}"),
            Self::Missing(name) => write!(f, "section '{name}': expected one, found none"),
            Self::Twice(name) => write!(f, "section '{name}': expected one, found more"),
            Self::Unknown(name) => write!(f, "section '{name}': expected none that this stub does not know"),
            Self::NotSupported(name, remedy) => {
                write!(f, "section '{name}': expected none, since this stub does not use it ({remedy})")
            }
            Self::Outside(name) => write!(f, "section '{name}': expected content inside the image"),
            Self::Overlaps(name) => write!(f, "section '{name}': expected behind the one before it"),
            Self::CommandLine(BadLine::Length(length)) => {
                write!(f, "command line: expected 1 to {MAX_LENGTH} bytes, found {length}")
            }
            Self::CommandLine(BadLine::Byte { byte, at }) => {
                write!(f, "command line: expected printable ASCII, found byte 0x{byte:02x} at {at}")
            }
            Self::Kernel(expected, found) => write!(f, "kernel: expected {expected}, found {found}"),
            Self::KernelMachine { expected, found } => {
                write!(f, "kernel: expected one for {expected}, found one for {found}")
            }
        }
    }
}

impl core::error::Error for Problem {}
