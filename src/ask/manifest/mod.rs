//! The sealed list of the initramfs's own files, in the format of mtree(5): written at the desk, compared at boot before systemd
//! starts any unit.
//!
//! A first line of defence against files that a boot loader's initramfs adds, not a boundary: what adds an initramfs could also
//! have the kernel give up on the one that has this list in it.

mod tree;

pub use tree::{compare, compare_root};

use std::fmt;

use rustix::fs::FileType;

use crate::refusal::Refusal;

/// Where the list is.
pub const MANIFEST: &str = "/usr/lib/sealroot/manifest";
/// Where the signed command line is, of several profiles one in each line.
pub const CMDLINE: &str = "/usr/lib/sealroot/cmdline";
/// No list is longer, in bytes: it has about 150 for each file.
pub const MAX_MANIFEST: u64 = 16 << 20;

/// The first line.
const SIGNATURE: &str = "#mtree";
/// The permissions in a mode.
const PERMISSIONS: u32 = 0o7777;
/// A SHA-256 digest, in bytes.
const DIGEST: usize = 32;

/// All files of an initramfs, by path without a `/` in front; its root has no path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// In the order of their paths, each once.
    entries: Vec<(String, Entry)>,
}

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// Whether it may be missing: something that the kernel, the boot stub or PID 1 makes.
    pub optional: bool,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; `None` if its content is not known, as for the list itself.
    File(Option<Content>),
    /// A directory whose entries are listed.
    Directory,
    /// One that PID 1 mounts something over: what is in it does not count.
    Ignored,
    /// A symbolic link, and where it leads.
    Link(String),
    /// A device, FIFO or socket.
    Special(Special),
}

/// A file that is none to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a type of mtree(5)")]
pub enum Special {
    BlockDevice,
    CharacterDevice,
    Fifo,
    Socket,
}

/// What a regular file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its length, in bytes.
    pub size: u64,
    /// Its SHA-256 digest, where content counts.
    pub digest: Option<[u8; DIGEST]>,
}

impl Kind {
    /// As the kernel says it.
    fn file_type(&self) -> FileType {
        match self {
            Self::File(_) => FileType::RegularFile,
            Self::Directory | Self::Ignored => FileType::Directory,
            Self::Link(_) => FileType::Symlink,
            Self::Special(Special::BlockDevice) => FileType::BlockDevice,
            Self::Special(Special::CharacterDevice) => FileType::CharacterDevice,
            Self::Special(Special::Fifo) => FileType::Fifo,
            Self::Special(Special::Socket) => FileType::Socket,
        }
    }

    /// As mtree(5) says it.
    fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory | Self::Ignored => "dir",
            Self::Link(_) => "link",
            Self::Special(Special::BlockDevice) => "block",
            Self::Special(Special::CharacterDevice) => "char",
            Self::Special(Special::Fifo) => "fifo",
            Self::Special(Special::Socket) => "socket",
        }
    }
}

impl Manifest {
    /// Lists a file, in the place of what was listed by that path before.
    pub fn insert(&mut self, path: &str, entry: Entry) {
        match self.find(path) {
            Ok(index) => self.entries.get_mut(index).into_iter().for_each(|known| known.1 = entry.clone()),
            Err(index) => self.entries.insert(index, (path.into(), entry)),
        }
    }

    /// What is listed by a path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.find(path).ok().and_then(|index| self.entries.get(index)).map(|(_, entry)| entry)
    }

    fn find(&self, path: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.as_str().cmp(path))
    }

    /// All of them, a directory before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Reads a list.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut manifest = Self::default();
        let mut seen = false;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |expected: &'static str| {
                let shown = line.get(..80).unwrap_or(line).escape_ascii();
                Refusal::of(format!("'{MANIFEST}':{}", index + 1)).expected(expected).found(format_args!("'{shown}'"))
            };
            let line = str::from_utf8(line).map_err(|_| wrong("UTF-8"))?;
            if !seen && line != SIGNATURE {
                return Err(wrong(SIGNATURE));
            }
            seen = true;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (path, entry) = parse_line(line).map_err(wrong)?;
            if manifest.entries.last().is_some_and(|(last, _)| *last >= path) {
                return Err(wrong("each file once, in the order of the paths"));
            }
            manifest.entries.push((path, entry));
        }
        Ok(manifest)
    }
}

/// A path and what it is, or what was expected instead.
fn parse_line(line: &str) -> Result<(String, Entry), &'static str> {
    const PATH: &str = "a path that begins with './'";
    let mut words = line.split(' ');
    let path = match words.next().and_then(|word| word.strip_prefix('.')) {
        Some("") => String::new(),
        Some(rest) => unescape(rest.strip_prefix('/').ok_or(PATH)?).ok_or(PATH)?,
        None => return Err(PATH),
    };
    let (mut kind, mut mode, mut size, mut digest, mut link) = (None, None, None, None, None);
    let (mut ignore, mut optional) = (false, false);
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("type", value) => kind = Some(value),
            ("mode", value) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| "an octal mode")?),
            ("size", value) => size = Some(value.parse().map_err(|_| "a size in bytes")?),
            ("sha256digest", value) => digest = Some(parse_digest(value).ok_or("a SHA-256 digest")?),
            ("link", value) => link = Some(unescape(value).ok_or("the target of a link")?),
            ("ignore", "") => ignore = true,
            ("optional", "") => optional = true,
            _ => return Err("one of the keywords type, mode, size, sha256digest, link, ignore, optional"),
        }
    }
    let kind = match (kind, size, digest, link) {
        (Some("file"), Some(size), digest, None) => Kind::File(Some(Content { size, digest })),
        (Some("file"), None, None, None) => Kind::File(None),
        (Some("dir"), None, None, None) => {
            if ignore {
                Kind::Ignored
            } else {
                Kind::Directory
            }
        }
        (Some("link"), None, None, Some(target)) => Kind::Link(target),
        (Some("block"), None, None, None) => Kind::Special(Special::BlockDevice),
        (Some("char"), None, None, None) => Kind::Special(Special::CharacterDevice),
        (Some("fifo"), None, None, None) => Kind::Special(Special::Fifo),
        (Some("socket"), None, None, None) => Kind::Special(Special::Socket),
        _ => return Err("a type, and only what a file of that type has"),
    };
    let mode = mode.filter(|mode| *mode <= PERMISSIONS).ok_or("an octal mode")?;
    Ok((path, Entry { kind, mode, optional }))
}

fn parse_digest(text: &str) -> Option<[u8; DIGEST]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut digest = [0; DIGEST];
    if pairs.len() != DIGEST || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        *byte = number(pair, 16)?;
    }
    Some(digest)
}

/// A number of digits alone, without a sign.
fn number(digits: &[u8], radix: u32) -> Option<u8> {
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, radix).ok()
}

/// Bytes that would end a word, as three octal digits behind a backslash.
fn escaped(text: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        text.chars().try_for_each(|character| match character {
            '\0'..=' ' | '\\' | '\x7f' => write!(f, "\\{:03o}", u32::from(character)),
            _ => fmt::Write::write_char(f, character),
        })
    })
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        bytes.push(*first);
        if *first == b'\\' {
            let (digits, more) = rest.split_first_chunk::<3>()?;
            bytes.pop();
            bytes.push(number(digits, 8)?);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}

/// As it is parsed.
impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{SIGNATURE}")?;
        self.entries.iter().try_for_each(|(path, entry)| {
            let slash = if path.is_empty() { "" } else { "/" };
            write!(f, ".{slash}{} type={} mode={:04o}", escaped(path), entry.kind.name(), entry.mode)?;
            match &entry.kind {
                Kind::File(Some(Content { size, digest })) => {
                    write!(f, " size={size}")?;
                    if let Some(digest) = digest {
                        f.write_str(" sha256digest=")?;
                        digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                    }
                }
                Kind::Link(target) => write!(f, " link={}", escaped(target))?,
                Kind::Ignored => f.write_str(" ignore")?,
                Kind::File(None) | Kind::Directory | Kind::Special(_) => {}
            }
            writeln!(f, "{}", if entry.optional { " optional" } else { "" })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, mode: u32) -> Entry {
        Entry { kind, mode, optional: false }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut manifest = Manifest::default();
        let content = Content { size: 12, digest: Some([0xab; DIGEST]) };
        manifest.insert("", entry(Kind::Directory, 0o755));
        manifest.insert("dev", entry(Kind::Ignored, 0o755));
        manifest.insert("etc/a b\\c\n\u{e9}=", entry(Kind::File(Some(content)), 0o4755));
        manifest.insert("etc/no-digest", entry(Kind::File(Some(Content { size: 0, digest: None })), 0));
        manifest.insert("etc/list", entry(Kind::File(None), 0o644));
        manifest.insert("lib", entry(Kind::Link("usr/lib with spaces".into()), 0o777));
        for (name, special) in
            [("b", Special::BlockDevice), ("c", Special::CharacterDevice), ("f", Special::Fifo), ("s", Special::Socket)]
        {
            manifest.insert(name, Entry { kind: Kind::Special(special), mode: 0o600, optional: true });
        }
        let text = manifest.to_string();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest, "{text}");
        assert!(text.contains("\n. type=dir mode=0755\n"), "{text}");
        assert!(
            text.contains("\n./etc/a\\040b\\134c\\012\u{e9}= type=file mode=4755 size=12 sha256digest=abab"),
            "{text}"
        );
        assert!(text.contains("\n./c type=char mode=0600 optional\n"), "{text}");
    }

    #[test]
    fn everything_else_is_an_error() {
        for (lines, line, expected) in [
            ("", 1, "#mtree"),
            ("./a type=dir mode=0755", 1, "#mtree"),
            ("#mtree\nusr type=dir mode=0755", 2, "a path that begins with './'"),
            ("#mtree\n.usr type=dir mode=0755", 2, "a path that begins with './'"),
            ("#mtree\n./a\\9 type=dir mode=0755", 2, "a path that begins with './'"),
            ("#mtree\n./a\\400 type=dir mode=0755", 2, "a path that begins with './'"),
            ("#mtree\n./a\\377 type=dir mode=0755", 2, "a path that begins with './'"),
            ("#mtree\n./a mode=0755", 2, "a type, and only what a file of that type has"),
            ("#mtree\n./a type=dir mode=0755 size=1", 2, "a type, and only what a file of that type has"),
            ("#mtree\n./a type=link mode=0777", 2, "a type, and only what a file of that type has"),
            ("#mtree\n./a type=file mode=0644 sha256digest=00", 2, "a SHA-256 digest"),
            ("#mtree\n./a type=dir", 2, "an octal mode"),
            ("#mtree\n./a type=dir mode=10000", 2, "an octal mode"),
            ("#mtree\n./a type=file mode=0644 size=-1", 2, "a size in bytes"),
            ("#mtree\n./a type=dir mode=0755\n./a type=dir mode=0755", 3, "each file once, in the order of the paths"),
            (
                "#mtree\n\n# a comment\n./a type=dir mode=0755 uid=0",
                4,
                "one of the keywords type, mode, size, sha256digest, link, ignore, optional",
            ),
        ] {
            let error = Manifest::parse(lines.as_bytes()).unwrap_err();
            let message = format!("'{MANIFEST}':{line}: expected {expected}, found '");
            assert!(error.to_string().starts_with(&message), "{lines}: {error}");
        }
        let long = format!("#mtree\n{}", "x".repeat(10_000));
        assert!(Manifest::parse(long.as_bytes()).unwrap_err().to_string().len() < 200);
        assert!(Manifest::parse(b"#mtree\n\xff").is_err());
    }
}
