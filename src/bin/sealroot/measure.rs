//! Digests of files: by the kernel's word where it has one, else computed.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use miniserde::Serialize;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sealroot::disk::object::ObjectIs;
use sealroot::verity::ask_kernel;
use sealroot::verity::digest::{Algorithm, ImageDigest};
use sealroot::verity::merkle::{self, Patience, Threads};

/// A digest and who says so.
#[derive(Debug)]
pub struct Measured {
    digest: ImageDigest,
    by: By,
}

/// Who says what a file's digest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum By {
    /// The kernel, which will check every byte.
    #[serde(rename = "kernel")]
    Kernel,
    /// Nobody but us: the file has no fs-verity.
    #[serde(rename = "user space: file without fs-verity")]
    FileWithoutVerity,
    /// Nobody but us: the filesystem, or the kernel, knows no fs-verity.
    #[serde(rename = "user space: filesystem or kernel without fs-verity")]
    NoVerityThere,
}

impl Measured {
    /// Of an open file. `algorithm` is for where the kernel has no say.
    pub fn of(file: &File, algorithm: Algorithm) -> io::Result<Self> {
        let by = match ask_kernel::measure(file) {
            Ok(ask_kernel::Measured::Digest(digest)) => return Ok(Self { digest, by: By::Kernel }),
            Ok(other) => return Err(io::Error::other(format!("measured {other}"))),
            Err(Errno::NODATA) => By::FileWithoutVerity,
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => By::NoVerityThere,
            Err(reason) => return Err(reason.into()),
        };
        Ok(Self { digest: merkle::digest(file, algorithm, Threads::One, Patience::Endless)?, by })
    }

    pub fn digest(&self) -> ImageDigest {
        self.digest
    }

    pub fn by(&self) -> By {
        self.by
    }

    /// As what was found instead of an object.
    pub fn into_found(self) -> ObjectIs {
        match self.by {
            By::Kernel => ObjectIs::Measured(self.digest.to_string()),
            By::FileWithoutVerity | By::NoVerityThere => ObjectIs::Computed(self.digest),
        }
    }
}

/// For messages: `measured sha256:…`.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.by == By::Kernel { "measured" } else { "computed" };
        write!(f, "{verb} {}", self.digest)
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "measured by the kernel",
            Self::FileWithoutVerity => "computed in user space: the file has no fs-verity",
            Self::NoVerityThere => "computed in user space: the filesystem or the kernel has no fs-verity",
        })
    }
}

/// Opens a regular file that somebody named.
pub fn open(path: &Path) -> io::Result<File> {
    // A FIFO would wait for a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("expected a regular file"));
    }
    Ok(file)
}
