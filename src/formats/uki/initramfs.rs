//! What an initramfs holds, read as the kernel reads it: one archive after the other, each plain or compressed.
//!
//! Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;
use sha2::{Digest, Sha256};

pub use super::bounded::Budget;
use super::bounded::{Bounded, MAX_ZEROS, too_many_zeros, zeros};

use crate::refusal::Refusal;

/// How much is unpacked at a time, in bytes.
const BUFFER: usize = 64 << 10;
/// `PATH_MAX`
const MAX_NAME: u32 = 4096;
/// No file whose content is wanted is larger, in bytes.
const MAX_CONTENT: u32 = 16 << 20;
/// All names and contents that are kept, in bytes.
const MAX_KEPT: usize = 64 << 20;
/// A file with several names may be wanted by one that comes later: up to this size it is kept, in bytes.
const MAX_LINKED: u32 = 64 << 10;
/// No initramfs has more files.
const MAX_ENTRIES: usize = 1 << 20;
/// `struct cpio_newc_header`: a magic number and 13 fields of eight hexadecimal digits.
const HEADER: usize = 6 + FIELDS * 8;
const FIELDS: usize = 13;
/// The file type in a mode.
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// The files of an initramfs, by path without a `/` in front. Of several with one name the last one counts, as for the
/// kernel.
#[derive(Debug, Default)]
pub struct Initramfs {
    files: BTreeMap<String, Entry>,
    /// How much was kept, in bytes, and how many files were seen.
    kept: usize,
    entries: usize,
}

/// Says of a path whether the file's content is wanted.
type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// What is wanted of the files.
#[derive(Clone, Copy)]
struct Wishes<'a> {
    content: Wanted<'a>,
    /// The digest of every regular file.
    digests: bool,
}

/// A file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its type and its permissions, as `st_mode` has them.
    pub mode: u32,
    /// Of a regular file, its length in bytes.
    pub size: u32,
    /// Of a regular file its SHA-256 digest, if that was asked for.
    pub digest: Option<[u8; 32]>,
    /// What is in it.
    pub content: Content,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All bytes of a regular file.
    Bytes(Vec<u8>),
    /// A regular file whose content was not wanted, or was too large for it.
    Unread,
    /// A symbolic link.
    Link(Vec<u8>),
    /// A directory or a special file.
    Other,
}

/// An archive that is cut off or damaged. `offset` is how much was read of it, or of the stream that it is in, in bytes.
fn damaged(offset: u64, reason: io::Error) -> Refusal {
    Refusal::of(format!("initramfs: archive at byte {offset} (unpacked)")).because(reason)
}

impl Initramfs {
    /// Reads all archives as far as the budget allows, and of the files those that are `wanted`.
    pub fn read(bytes: &[u8], budget: &mut Budget, wanted: Wanted<'_>) -> Result<Self, Refusal> {
        Self::unpack(bytes, budget, Wishes { content: wanted, digests: false })
    }

    /// Reads all archives as far as the budget allows, for the digests of the files.
    pub fn list(bytes: &[u8], budget: &mut Budget) -> Result<Self, Refusal> {
        Self::unpack(bytes, budget, Wishes { content: &|_| false, digests: true })
    }

    fn unpack(mut rest: &[u8], budget: &mut Budget, wishes: Wishes<'_>) -> Result<Self, Refusal> {
        let mut initramfs = Self::default();
        let failed = |reason| damaged(0, reason);
        loop {
            // The kernel skips zeros between archives.
            let zeros = zeros(rest);
            if zeros as u64 > MAX_ZEROS {
                return Err(failed(too_many_zeros()));
            }
            rest = rest.get(zeros..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(initramfs);
            }
            budget.take_stream().map_err(failed)?;
            match rest {
                [b'0', b'7', b'0', b'7', b'0', ..] => {
                    initramfs.add_archives(&mut rest, budget, Archives::One, wishes)?
                }
                [0x1f, 0x8b, ..] => {
                    let mut decoder = BufReader::with_capacity(BUFFER, GzDecoder::new(rest));
                    initramfs.add_archives(&mut decoder, budget, Archives::All, wishes)?;
                    rest = decoder.into_inner().into_inner();
                }
                [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                    let decoder = StreamingDecoder::new(&mut rest).map_err(io::Error::other).map_err(failed)?;
                    let mut decoder = BufReader::with_capacity(BUFFER, decoder);
                    initramfs.add_archives(&mut decoder, budget, Archives::All, wishes)?;
                }
                _ => {
                    let expected = "a cpio archive, plain or compressed by gzip or zstd";
                    return Err(Refusal::of("initramfs").expected(expected).found(kind(rest)));
                }
            }
        }
    }

    /// A file's content. Of links none is followed.
    pub fn get(&self, path: &str) -> Option<&Content> {
        self.files.get(path).map(|entry| &entry.content)
    }

    /// All files, a directory before what is in it. The root of the tree has no path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.files.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    fn add_archives(
        &mut self,
        source: &mut dyn BufRead,
        budget: &mut Budget,
        archives: Archives,
        wishes: Wishes<'_>,
    ) -> Result<(), Refusal> {
        let mut source = Bounded::new(source, budget);
        let mut links = BTreeMap::new();
        let result = loop {
            match self.add_entry(&mut source, &mut links, wishes) {
                Ok(Next::Entry) => {}
                Ok(Next::Archive) if archives == Archives::All => links.clear(),
                Ok(Next::Archive | Next::End) => break Ok(()),
                Err(reason) => break Err(reason),
            }
        };
        result.map_err(|reason| damaged(source.offset(), reason))
    }
}

/// How many archives a stream may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Archives {
    /// What follows may be compressed.
    One,
    All,
}

/// What was read last.
enum Next {
    Entry,
    /// The end of an archive.
    Archive,
    /// The end of everything.
    End,
}

/// The files so far that are one file by several names, by device and inode.
type HardLinks = BTreeMap<(u32, u32, u32), Vec<String>>;

impl Initramfs {
    fn add_entry(&mut self, source: &mut Bounded<'_>, links: &mut HardLinks, wishes: Wishes<'_>) -> io::Result<Next> {
        let Some(header) = read_header(source)? else { return Ok(Next::End) };
        let [inode, mode, _, _, link_count, _, size, major, minor, _, _, name_size, _] = header;
        if name_size == 0 || name_size > MAX_NAME {
            return Err(io::Error::other(format!("expected a name of 1 to {MAX_NAME} bytes, found {name_size}")));
        }
        let mut name = read_bytes(source, name_size, HEADER)?;
        if name.pop() != Some(0) {
            return Err(io::Error::other("expected a name that ends with a zero byte"));
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        if name == "TRAILER!!!" {
            return Ok(Next::Archive);
        }
        let name = plain(&name);
        let wanted = wishes.content;
        let is_wanted = size <= MAX_CONTENT && wanted(&name) || link_count > 1 && size <= MAX_LINKED;
        let mut hasher = (wishes.digests && mode & S_IFMT == S_IFREG).then(Sha256::new);
        let content = match mode & S_IFMT {
            S_IFREG if is_wanted => {
                let bytes = read_bytes(source, size, 0)?;
                hasher.iter_mut().for_each(|hasher| hasher.update(&bytes));
                Content::Bytes(bytes)
            }
            S_IFLNK if size <= MAX_NAME => Content::Link(read_bytes(source, size, 0)?),
            kind => {
                skip(source, size, hasher.as_mut())?;
                if kind == S_IFREG { Content::Unread } else { Content::Other }
            }
        };
        let digest = hasher.map(|hasher| hasher.finalize().into());
        let mut names = vec![name];
        if link_count > 1 && mode & S_IFMT == S_IFREG {
            // Only one of them comes with the content.
            let known = links.entry((major, minor, inode)).or_default();
            known.append(&mut names);
            names = if size > 0 { std::mem::take(known) } else { known.last().cloned().into_iter().collect() };
        }
        for name in names {
            let content = match &content {
                Content::Bytes(_) if !wanted(&name) => Content::Unread,
                content => content.clone(),
            };
            self.keep(name, Entry { mode, size, digest, content })?;
        }
        Ok(Next::Entry)
    }

    /// Each name counts, and a content for each of its names.
    fn keep(&mut self, name: String, entry: Entry) -> io::Result<()> {
        self.entries += 1;
        self.kept += name.len();
        self.kept += if let Content::Bytes(bytes) | Content::Link(bytes) = &entry.content { bytes.len() } else { 0 };
        if self.entries > MAX_ENTRIES || self.kept > MAX_KEPT {
            let expected = format!("expected at most {MAX_ENTRIES} files, and {MAX_KEPT} bytes to keep of them");
            return Err(io::Error::other(expected));
        }
        self.files.insert(name, entry);
        Ok(())
    }
}

/// The fields of the next header, in its order; `None` at the end. Zeros in front of it are skipped.
fn read_header(source: &mut Bounded<'_>) -> io::Result<Option<[u32; FIELDS]>> {
    if !source.skip_zeros()? {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    source.read_exact(&mut header)?;
    let (magic, digits) = header.split_at(6);
    if !matches!(magic, b"070701" | b"070702") {
        return Err(io::Error::other(format!("expected '070701' or '070702', found '{}'", magic.escape_ascii())));
    }
    let mut fields = [0; FIELDS];
    for (field, digits) in fields.iter_mut().zip(digits.as_chunks::<8>().0) {
        let text = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        *field =
            value.ok_or_else(|| io::Error::other(format!("expected hex digits, found '{}'", digits.escape_ascii())))?;
    }
    Ok(Some(fields))
}

/// Reads `size` bytes, and what fills them up to four, counted with `before` bytes in front.
fn read_bytes(source: &mut Bounded<'_>, size: u32, before: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(size.into()).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(size) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    fill_up(source, before + bytes.len())?;
    Ok(bytes)
}

/// Goes past `size` bytes, and what fills them up to four.
fn skip(source: &mut Bounded<'_>, size: u32, hasher: Option<&mut Sha256>) -> io::Result<()> {
    let mut content = source.take(size.into());
    let skipped = match hasher {
        Some(hasher) => io::copy(&mut content, &mut Hashing(hasher))?,
        None => io::copy(&mut content, &mut io::sink())?,
    };
    if skipped != u64::from(size) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    fill_up(source, size as usize)
}

/// Hashes what is written to it.
struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fill_up(source: &mut Bounded<'_>, length: usize) -> io::Result<()> {
    let mut padding = [0; 3];
    source.read_exact(padding.get_mut(..length.next_multiple_of(4) - length).unwrap_or_default())
}

/// A path without what changes nothing in it.
fn plain(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

/// What a compressed archive starts with, for messages.
fn kind(bytes: &[u8]) -> String {
    match bytes {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz".into(),
        [0x5d, 0, 0, ..] => "lzma".into(),
        [b'B', b'Z', b'h', ..] => "bzip2".into(),
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4".into(),
        [0x89, b'L', b'Z', b'O', ..] => "lzo".into(),
        _ => format!("'{}'", bytes.get(..bytes.len().min(6)).unwrap_or_default().escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(name: &str, mode: u32, inode: u32, links: u32, content: &[u8]) -> Vec<u8> {
        let fields = [inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut bytes = b"070701".to_vec();
        for field in fields {
            write!(bytes, "{field:08X}").unwrap();
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn file(name: &str, content: &str) -> Vec<u8> {
        entry(name, S_IFREG | 0o644, 1, 1, content.as_bytes())
    }

    fn trailer() -> Vec<u8> {
        entry("TRAILER!!!", 0, 0, 1, b"")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8], wanted: Wanted<'_>) -> Result<Initramfs, Refusal> {
        Initramfs::read(bytes, &mut Budget::for_input(bytes.len()), wanted)
    }

    fn content<'a>(initramfs: &'a Initramfs, path: &str) -> &'a str {
        match initramfs.get(path) {
            Some(Content::Bytes(bytes)) => str::from_utf8(bytes).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn archives_of_all_kinds_one_after_the_other() {
        let microcode = [file("kernel/x86/microcode", "code"), trailer(), vec![0; 300]].concat();
        let main = [
            entry("usr", 0o040_755, 2, 2, b""),
            file("./usr//./a", "one"),
            entry("usr/link", S_IFLNK | 0o777, 3, 1, b"a"),
            entry("usr/first", S_IFREG | 0o644, 9, 2, b""),
            entry("usr/second", S_IFREG | 0o644, 9, 2, b"shared"),
            trailer(),
            vec![0; 5],
            file("usr/b", "inner"),
            trailer(),
        ]
        .concat();
        let settings = [file("usr/a", "two"), file("etc/x", ""), trailer()].concat();
        for compress in [zstd, gzip, <[u8]>::to_vec] {
            let bytes = [microcode.clone(), compress(&main), vec![0; 3], settings.clone()].concat();
            let initramfs = read(&bytes, &|_| true).unwrap();
            assert_eq!(content(&initramfs, "usr/a"), "two");
            assert_eq!(content(&initramfs, "usr/b"), "inner");
            assert_eq!(content(&initramfs, "etc/x"), "");
            assert_eq!(content(&initramfs, "usr/first"), "shared");
            assert_eq!(content(&initramfs, "usr/second"), "shared");
            assert_eq!(content(&initramfs, "kernel/x86/microcode"), "code");
            assert_eq!(initramfs.get("usr/link"), Some(&Content::Link(b"a".to_vec())));
            assert_eq!(initramfs.get("usr"), Some(&Content::Other));
            assert_eq!(initramfs.paths().count(), 8);
        }
        let nothing = read(&file("usr/a", "one"), &|path| path == "usr/b").unwrap();
        assert_eq!(nothing.get("usr/a"), Some(&Content::Unread));
        assert_eq!(read(&[0; 8], &|_| true).unwrap().paths().count(), 0);
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        let good = [file("usr/a", "some content"), trailer()].concat();
        for end in 1..good.len() - trailer().len() {
            assert!(read(&good[..end], &|_| true).is_err(), "cut at {end}");
        }
        for compress in [zstd, gzip] {
            let compressed = compress(&good);
            for end in 2..compressed.len() - 1 {
                // A frame's checksum may be missing.
                let _ = read(&compressed[..end], &|_| true);
            }
            assert!(read(&compressed[..compressed.len() / 2], &|_| true).is_err());
        }
        for (bytes, message) in [
            (
                b"\xfd7zXZ\0".to_vec(),
                "initramfs: expected a cpio archive, plain or compressed by gzip or zstd, found xz",
            ),
            (
                b"hello".to_vec(),
                "initramfs: expected a cpio archive, plain or compressed by gzip or zstd, found 'hello'",
            ),
            ([b"07070".to_vec(), vec![b'1'; 200]].concat(), "initramfs: archive at byte 110 (unpacked)"),
            ([b"070701".to_vec(), vec![b'x'; 200]].concat(), "initramfs: archive at byte 110 (unpacked)"),
        ] {
            assert_eq!(read(&bytes, &|_| true).unwrap_err().to_string(), message);
        }
    }

    /// Why it is not read, on from the first cause.
    fn cause(bytes: &[u8], mut budget: Budget) -> String {
        let error = Initramfs::read(bytes, &mut budget, &|_| true).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    }

    #[test]
    fn zeros_that_nobody_means_are_an_error() {
        let zeros = vec![0; MAX_ZEROS as usize + 1];
        let expected = "expected at most 4194304 zeros in front of an archive, found more";
        let cause = |bytes: &[u8]| cause(bytes, Budget::for_input(bytes.len()));
        assert_eq!(cause(&zeros), expected);
        assert_eq!(cause(&[file("usr/a", "one"), zeros.clone(), file("usr/b", "two")].concat()), expected);
        assert!(read(&[file("usr/a", "four"), trailer(), zeros[1..].to_vec()].concat(), &|_| true).is_ok());
        for compress in [zstd, gzip] {
            assert_eq!(cause(&compress(&zeros)), expected);
            assert_eq!(cause(&[compress(&trailer()), zeros.clone()].concat()), expected);
        }
    }

    #[test]
    fn few_bytes_that_become_many_are_an_error() {
        let expected = "expected at most 1048576 bytes in all for an input of its length";
        let small = [file("usr/a", &"\0".repeat(200 << 10)), trailer()].concat();
        let large = file("usr/a", &"\0".repeat(1 << 20));
        for compress in [zstd, gzip, <[u8]>::to_vec] {
            assert_eq!(cause(&compress(&large), Budget::of(1 << 20)), expected);
            assert_eq!(cause(&compress(&small).repeat(6), Budget::of(1 << 20)), expected);
            assert!(Initramfs::read(&compress(&small).repeat(5), &mut Budget::of(1 << 20), &|_| true).is_ok());
            assert_eq!(
                cause(&compress(&trailer()).repeat(1025), Budget::of(1 << 20)),
                "expected at most 1024 archives"
            );
        }
        let mut budget = Budget::of(1 << 20);
        assert!(Initramfs::read(&small.repeat(4), &mut budget, &|_| true).is_ok());
        assert!(Initramfs::read(&small.repeat(4), &mut budget, &|_| true).is_err());
    }

    #[test]
    fn a_file_counts_for_each_of_its_names() {
        let named = |number: usize| entry(&format!("usr/{number}"), S_IFREG | 0o644, 9, 2000, b"");
        let content = "x".repeat(MAX_LINKED as usize);
        let mut archive: Vec<u8> = (0..1500).flat_map(named).collect();
        archive.extend(entry("usr/last", S_IFREG | 0o644, 9, 2000, content.as_bytes()));
        assert_eq!(
            cause(&archive, Budget::of(1 << 30)),
            "expected at most 1048576 files, and 67108864 bytes to keep of them"
        );
        assert!(read(&archive, &|path| path == "usr/1").is_ok());
    }
}
