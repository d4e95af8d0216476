//! Reading an EROFS image in user space, with erofs-rs.
//!
//! Everything is read by `pread` from the image's descriptor, so damage is an error here; through a memory map it would
//! be a signal.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use erofs_rs::r#async::{EroFS, WalkDir, WalkDirEntry};
use erofs_rs::backend::AsyncImage;
use thiserror::Error;

use crate::refusal::Refusal;

/// An entry of a directory takes at least this much of an image, in bytes (`struct erofs_dirent`).
const MIN_ENTRY: u64 = 12;
/// Below a directory that is nested deeper than this no path leads (`PATH_MAX`).
const MAX_DEPTH: usize = 2048;

/// What is read at once and kept, in bytes: what fs-verity checks at once.
const BLOCK: usize = 4096;
/// How many blocks are kept: erofs-rs reads inodes, names and xattrs one by one, and goes back and forth between them.
const BLOCKS: usize = 256;

/// An image file as erofs-rs reads it. The first failure of the file itself is kept, for the message.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a File,
    failure: Mutex<Option<io::Error>>,
    /// By the remainders of their numbers.
    blocks: Mutex<Vec<Option<Box<Block>>>>,
}

/// A block with its number.
#[derive(Debug)]
struct Block {
    number: u64,
    bytes: [u8; BLOCK],
}

/// Why an image cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file: the kernel found content that does not belong to the digest, or the disk is damaged.
    #[error(transparent)]
    Damaged(io::Error),
    /// The content is no EROFS image, or one that contradicts itself.
    #[error(transparent)]
    Content(Refusal),
}

/// What erofs-rs found, in words of our own: erofs-rs's would bring a formatter of parser reports into the program.
fn reason(error: erofs_rs::Error) -> Refusal {
    use erofs_rs::Error;
    let (kind, subject) = match error {
        Error::InvalidSuperblock(subject) => ("invalid super block", subject),
        Error::CorruptedData(subject) => ("corrupted data", subject),
        Error::NotSupported(subject) => ("not supported", subject),
        Error::OutOfBounds(subject) => ("out of bounds", subject),
        Error::OutOfRange(offset, size) => ("out of range", format!("{offset} of {size}")),
        Error::Overflow(subject) => ("integer overflow", subject.into()),
        Error::InvalidDirentFileType(found) => ("invalid type in a directory entry", found.to_string()),
        Error::PathNotFound(path) | Error::NotAFile(path) | Error::NotADirectory(path) => ("unexpected file", path),
        Error::NotASymlink(inode) => ("unexpected inode", inode.to_string()),
        Error::BinRead(_) => ("corrupted data", "a structure that cannot be read".into()),
    };
    Refusal::of(format!("{kind}: {subject}"))
}

/// A contradiction that erofs-rs does not look for.
pub(crate) fn contradiction(subject: &str) -> ReadError {
    ReadError::Content(Refusal::of(format!("corrupted data: {subject}")))
}

/// The filesystem that a [`Reader`] has.
pub type Filesystem<'a> = EroFS<&'a Reader<'a>>;

impl<'a> Reader<'a> {
    /// Of an open image file.
    pub fn new(file: &'a File) -> Self {
        Self { file, failure: Mutex::new(None), blocks: Mutex::default() }
    }

    /// The filesystem in the image.
    pub fn filesystem(&self) -> Result<EroFS<&Self>, ReadError> {
        let filesystem = completed(EroFS::new(self)).map_err(|error| self.explain(error))?;
        // What composefs never writes is not worth the memory that reading it would take: erofs-rs allocates blocks.
        let (block_bits, features) =
            (filesystem.super_block().blk_size_bits, filesystem.super_block().feature_incompat);
        if (block_bits, features) != (12, 0) {
            let found = format!("not supported: blocks of 2^{block_bits} bytes, features {features:#010x}");
            return Err(ReadError::Content(Refusal::of(found)));
        }
        Ok(filesystem)
    }

    /// Whose fault an error of erofs-rs is.
    pub fn explain(&self, error: erofs_rs::Error) -> ReadError {
        match self.failure.lock().ok().and_then(|mut failure| failure.take()) {
            Some(reason) => ReadError::Damaged(reason),
            None => ReadError::Content(reason(error)),
        }
    }
}

/// Every entry of a filesystem but its root, a directory before what is in it. Behind an error comes nothing.
pub struct Entries<'a> {
    reader: &'a Reader<'a>,
    walk: Option<WalkDir<'a, &'a Reader<'a>>>,
    left: u64,
}

impl<'a> Entries<'a> {
    /// Of the filesystem that `reader` gave.
    pub fn new(reader: &'a Reader<'a>, filesystem: &'a EroFS<&'a Reader<'a>>) -> Result<Self, ReadError> {
        let size = reader.file.metadata().map_err(ReadError::Damaged)?.len();
        let walk = completed(filesystem.walk_dir("/")).map_err(|error| reader.explain(error))?;
        // Directories could be entered more than once, by hard links that no honest image has.
        Ok(Self { reader, walk: Some(walk), left: size / MIN_ENTRY })
    }

    fn bounded(&mut self, entry: WalkDirEntry) -> Result<WalkDirEntry, ReadError> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| contradiction("more directory entries than the image has room for"))?;
        if entry.depth > MAX_DEPTH {
            return Err(contradiction("directories nested too deep"));
        }
        Ok(entry)
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<WalkDirEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = completed(self.walk.as_mut()?.next_entry())?;
        let entry = entry.map_err(|error| self.reader.explain(error)).and_then(|entry| self.bounded(entry));
        if entry.is_err() {
            self.walk = None;
        }
        Some(entry)
    }
}

impl AsyncImage for &Reader<'_> {
    async fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> erofs_rs::Result<()> {
        if self.read_from_block(buffer, offset).is_some() {
            return Ok(());
        }
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            let reason = error.to_string();
            // The end of the file is the image's contradiction, not the disk's.
            if error.kind() != io::ErrorKind::UnexpectedEof
                && let Ok(mut failure) = self.failure.lock()
            {
                *failure = Some(error);
            }
            erofs_rs::Error::OutOfBounds(reason)
        })
    }
}

impl Reader<'_> {
    /// Reads from one block that is kept, or can be read; `None` for everything else, the last and short block included.
    fn read_from_block(&self, buffer: &mut [u8], offset: u64) -> Option<()> {
        let number = offset / BLOCK as u64;
        let start = usize::try_from(offset % BLOCK as u64).ok()?;
        let mut blocks = self.blocks.lock().ok()?;
        if blocks.is_empty() {
            blocks.resize_with(BLOCKS, || None);
        }
        let slot = blocks.get_mut(usize::try_from(number % BLOCKS as u64).ok()?)?;
        if slot.as_ref().is_none_or(|kept| kept.number != number) {
            // Once it is known that it will be of use.
            if start + buffer.len() > BLOCK {
                return None;
            }
            let mut block = slot.take().unwrap_or_else(|| Box::new(Block { number, bytes: [0; BLOCK] }));
            self.file.read_exact_at(&mut block.bytes, number * BLOCK as u64).ok()?;
            block.number = number;
            *slot = Some(block);
        }
        let block = slot.as_ref()?;
        buffer.copy_from_slice(block.bytes.get(start..start.checked_add(buffer.len())?)?);
        Some(())
    }
}

/// The result of a future that never waits, because what it awaits reads from a file.
pub fn completed<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
    }
}
