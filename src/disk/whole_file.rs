//! Reading files to their ends, which has the kernel check every block of theirs. The content itself is of no interest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

/// Takes what it is sent without looking at it: from the page cache to there nothing is copied.
const NULL: &str = "/dev/null";
/// As much as the kernel sends at once (`MAX_RW_COUNT`), in bytes.
const MOST: usize = 0x7fff_f000;
/// How much is read at once where nothing can be sent, in bytes; it lies on the stack.
const CHUNK: usize = 16 * 1024;

/// Reads whole files.
#[derive(Debug)]
pub struct WholeFiles {
    null: Option<File>,
}

impl WholeFiles {
    /// A reader of any number of files.
    pub fn new() -> Self {
        Self { null: open_null() }
    }

    /// Reads a file from its start to its end. Nothing is left of it but what the kernel has in its page cache.
    ///
    /// # Errors
    /// The kernel's own, such as `EIO` for content that does not belong to the file's digest.
    pub fn read(&self, file: &File) -> io::Result<()> {
        let Some(null) = &self.null else { return read_from(file, 0) };
        let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        let mut offset = 0;
        while offset < size {
            match rustix::fs::sendfile(null, file, Some(&mut offset), MOST) {
                // Before the end nothing is no answer, and some filesystem's files cannot be sent: a read tells.
                Ok(0) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return read_from(file, offset),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Default for WholeFiles {
    fn default() -> Self {
        Self::new()
    }
}

/// The null device. Whatever else there is by its name gets nothing to keep, and nothing to wait for.
fn open_null() -> Option<File> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(NULL, flags, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == makedev(1, 3);
    is_null.then(|| file.into())
}

/// Kept apart, since who calls it touches all of the stack that the buffer takes.
#[cold]
#[inline(never)]
fn read_from(file: &File, mut offset: u64) -> io::Result<()> {
    let mut buffer = [0; CHUNK];
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(()),
            Ok(count) => offset += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::kernel::lookup;

    #[test]
    fn every_way_comes_to_the_end_or_to_the_error() {
        let file = File::from(rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(3 * CHUNK as u64 + 1).unwrap();
        let directory = File::open("/").unwrap();
        let sending = WholeFiles::new();
        assert!(sending.null.is_some());
        // A file that is appended to takes nothing that is sent (`EINVAL`), one that is read only is another error.
        let appended = File::options().append(true).open(lookup::proc_path(file.as_fd())).unwrap();
        let refusing = WholeFiles { null: Some(File::open(NULL).unwrap()) };
        assert_eq!(refusing.read(&file).unwrap_err().raw_os_error(), Some(Errno::BADF.raw_os_error()));
        for reader in [sending, WholeFiles { null: None }, WholeFiles { null: Some(appended) }] {
            reader.read(&file).unwrap();
            assert_eq!(reader.read(&directory).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        }
    }
}
