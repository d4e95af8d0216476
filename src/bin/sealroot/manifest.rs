//! `sealroot manifest`: the sealed list of an initramfs's files, as an archive that becomes its last part.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use cpio::NewcBuilder;
use miniserde::Serialize;
use rustix::fs::FileType;
use sealroot::ask::cmdline::CommandLine;
use sealroot::ask::manifest::{self, CMDLINE, Entry, Kind, MANIFEST, MAX_MANIFEST, Manifest, Special};
use sealroot::ask::policy;
use sealroot::ask::read::signed_lines;
use sealroot::formats::uki::initramfs::{self, Budget, Content, Initramfs};
use sealroot::formats::uki::pe::MAX_SIZE;
use sealroot::refusal::chain;
use sha2::{Digest, Sha256};

use crate::arguments::ManifestArguments;
use crate::measure;
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// What PID 1 mounts something over before anything is compared, or gives a generator one of its own.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// What there is beside what was packed: the kernel's own archive has the first, systemd's boot stub adds the others, and none
/// of them is run or read as a unit. Credentials and extensions are not among them.
const MADE: [(&str, Kind, u32); 7] = [
    ("root", Kind::Directory, 0o700),
    (".extra", Kind::Directory, 0o555),
    (".extra/boot-secret", Kind::File(None), 0o400),
    (".extra/os-release", Kind::File(None), 0o444),
    (".extra/profile", Kind::File(None), 0o444),
    (".extra/tpm2-pcr-public-key.pem", Kind::File(None), 0o444),
    (".extra/tpm2-pcr-signature.json", Kind::File(None), 0o444),
];
/// What PID 1 writes where it is empty or missing.
const MACHINE_ID: &str = "etc/machine-id";
/// The permissions in a mode, and those of the files that are added.
const PERMISSIONS: u32 = 0o7777;
const READABLE: u32 = 0o644;
const S_IFREG: u32 = 0o100_000;
/// What an archive is filled up to, in bytes.
const BLOCK: usize = 512;

/// The archive that was written.
#[derive(Debug, Serialize)]
pub struct Written {
    path: String,
    files: usize,
    command_lines: usize,
    /// Its length, in bytes.
    size: usize,
}

pub fn run(arguments: &ManifestArguments) -> Result<Written, Failure> {
    let mut initrd = Vec::new();
    for path in &arguments.initrds {
        let left = MAX_SIZE.saturating_sub(initrd.len() as u64);
        read(path, left, &mut initrd).map_err(|error| about(path, &error))?;
        // One begins where four bytes do, as those who join them see to.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
    }
    let mut manifest = list(&unpack(&initrd)?)?;
    for path in &arguments.ignored {
        let path = path.trim_matches('/');
        manifest.insert(path, Entry { kind: Kind::Ignored, mode: 0o755, optional: true });
    }
    let mut archive = Archive::default();
    if !arguments.command_lines.is_empty() {
        if let Some(line) = arguments.command_lines.iter().find(|line| line.contains(['\n', '\0'])) {
            return Err(Failure::Misuse(format!(
                "--cmdline: expected one line, found '{}'",
                printable(line.as_bytes())
            )));
        }
        let text = arguments.command_lines.join("\n") + "\n";
        manifest.insert(CMDLINE.trim_start_matches('/'), file(text.as_bytes()));
        archive.add(CMDLINE, text.as_bytes())?;
    }
    manifest
        .insert(MANIFEST.trim_start_matches('/'), Entry { kind: Kind::File(None), mode: READABLE, optional: false });
    require_parents(&manifest)?;
    let text = manifest.to_string();
    if text.len() as u64 > MAX_MANIFEST {
        return Err(format!("initramfs: expected a list of at most {MAX_MANIFEST} bytes, found {}", text.len()).into());
    }
    archive.add(MANIFEST, text.as_bytes())?;
    let bytes = archive.finish()?;
    fs::write(&arguments.output, &bytes).map_err(|error| about(&arguments.output, &error))?;
    Ok(Written {
        path: printable(arguments.output.as_os_str().as_encoded_bytes()),
        files: manifest.entries().count(),
        command_lines: arguments.command_lines.len(),
        size: bytes.len(),
    })
}

/// What is wrong with the lists that an initramfs brings of itself, with the microcode in front of it, and of its command line;
/// nothing where it brings none.
pub fn problems(microcode: &[u8], initrd: &[u8], initramfs: &Initramfs, command_line: &CommandLine) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(content) = initramfs.get(CMDLINE.trim_start_matches('/')) {
        match content {
            Content::Bytes(text) => {
                let judged = policy::judge_command_line(command_line, &signed_lines(text));
                problems.extend(judged.err().map(|error| error.to_string()));
            }
            _ => problems.push(format!("initramfs: '{CMDLINE}': expected a small regular file")),
        }
    }
    if let Some(content) = initramfs.get(MANIFEST.trim_start_matches('/')) {
        match content {
            Content::Bytes(text) => {
                // One begins where four bytes do.
                let padding = microcode.len().next_multiple_of(4) - microcode.len();
                let whole = [microcode, [0; 3].get(..padding).unwrap_or_default(), initrd].concat();
                problems.extend(compare(&whole, text).err());
            }
            _ => problems.push(format!("initramfs: '{MANIFEST}': expected a small regular file")),
        }
    }
    problems
}

/// Whether an initramfs is the one that its own list has, as the boot program will find it.
fn compare(initrd: &[u8], text: &[u8]) -> Result<(), String> {
    let sealed = Manifest::parse(text).map_err(|error| error.to_string())?;
    let found = unpack(initrd).and_then(|initramfs| list(&initramfs))?;
    let differs =
        |path: &str| format!("initramfs: '/{}': expected what '{MANIFEST}' lists", printable(path.as_bytes()));
    let ignored = || sealed.entries().filter(|(_, entry)| entry.kind == Kind::Ignored).map(|(path, _)| path);
    for (path, entry) in found.entries().filter(|(_, entry)| !entry.optional) {
        let is_inside = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        let listed = sealed.get(path).is_some_and(|listed| match (&listed.kind, &entry.kind) {
            (Kind::Ignored, Kind::Directory | Kind::Ignored) => true,
            (Kind::File(None), Kind::File(_)) => listed.mode == entry.mode,
            (listed_kind, kind) => listed_kind == kind && listed.mode == entry.mode,
        });
        if !listed && !ignored().any(is_inside) {
            return Err(differs(path));
        }
    }
    match sealed.entries().find(|(path, entry)| !entry.optional && found.get(path).is_none()) {
        Some((path, _)) => Err(differs(path)),
        None => Ok(()),
    }
}

fn unpack(initrd: &[u8]) -> Result<Initramfs, String> {
    Initramfs::list(initrd, &mut Budget::for_input(initrd.len())).map_err(|error| chain(&error))
}

/// The list of an initramfs, with what else there is when it has been unpacked.
fn list(initramfs: &Initramfs) -> Result<Manifest, String> {
    let mut manifest = Manifest::default();
    let ours = |path: &str, kind, mode| (path.to_owned(), Entry { kind, mode, optional: true });
    let made = MADE.into_iter().map(|(path, kind, mode)| ours(path, kind, mode));
    let covered = MOUNT_POINTS.into_iter().map(|path| ours(path, Kind::Ignored, 0o755));
    for (path, entry) in made.chain(covered) {
        manifest.insert(&path, entry);
    }
    manifest.insert("", Entry { kind: Kind::Directory, mode: 0o755, optional: false });
    for (path, entry) in initramfs.entries() {
        if MOUNT_POINTS.iter().any(|point| path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'))) {
            continue;
        }
        if path.contains(char::REPLACEMENT_CHARACTER) {
            return Err(wrong(path, "a name in UTF-8"));
        }
        let mut listed = listed(entry).map_err(|expected| wrong(path, expected))?;
        if MOUNT_POINTS.contains(&path) && listed.kind == Kind::Directory {
            listed.kind = Kind::Ignored;
        }
        if path == MACHINE_ID && matches!(listed.kind, Kind::File(_)) {
            listed.kind = Kind::File(None);
        }
        manifest.insert(path, listed);
    }
    if manifest.get("etc").is_some() && manifest.get(MACHINE_ID).is_none() {
        manifest.insert(MACHINE_ID, Entry { kind: Kind::File(None), mode: 0o444, optional: true });
    }
    Ok(manifest)
}

/// The kernel makes no file whose directory is not there, and follows links on the way to one: neither is meant.
fn require_parents(manifest: &Manifest) -> Result<(), String> {
    for (path, _) in manifest.entries().filter(|(path, _)| !path.is_empty()) {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_directory =
            manifest.get(parent).is_some_and(|entry| matches!(entry.kind, Kind::Directory | Kind::Ignored));
        if !is_directory || path.split('/').any(|part| part == "..") {
            return Err(wrong(path, "it in a directory of the initramfs"));
        }
    }
    Ok(())
}

fn listed(entry: &initramfs::Entry) -> Result<Entry, &'static str> {
    let kind = match (FileType::from_raw_mode(entry.mode), &entry.content) {
        (FileType::RegularFile, _) => {
            Kind::File(Some(manifest::Content { size: entry.size.into(), digest: entry.digest }))
        }
        (FileType::Directory, _) => Kind::Directory,
        (FileType::Symlink, Content::Link(target)) => {
            // The kernel takes it to its first zero byte.
            let target = target.split(|byte| *byte == 0).next().unwrap_or_default();
            Kind::Link(String::from_utf8(target.to_vec()).map_err(|_| "a link to a name in UTF-8")?)
        }
        (FileType::BlockDevice, _) => Kind::Special(Special::BlockDevice),
        (FileType::CharacterDevice, _) => Kind::Special(Special::CharacterDevice),
        (FileType::Fifo, _) => Kind::Special(Special::Fifo),
        (FileType::Socket, _) => Kind::Special(Special::Socket),
        _ => return Err("a file of a known type"),
    };
    // A link has no permissions of its own.
    let mode = if matches!(kind, Kind::Link(_)) { 0o777 } else { entry.mode & PERMISSIONS };
    Ok(Entry { kind, mode, optional: false })
}

fn wrong(path: &str, expected: &str) -> String {
    format!("initramfs: '/{}': expected {expected}", printable(path.as_bytes()))
}

fn about(path: &Path, error: &io::Error) -> Failure {
    Failure::Reason(format!("'{}': {error}", printable(path.as_os_str().as_encoded_bytes())))
}

fn read(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let before = bytes.len() as u64;
    measure::open(path)?.take(limit + 1).read_to_end(bytes)?;
    if bytes.len() as u64 - before > limit {
        return Err(io::Error::other(format!("expected at most {MAX_SIZE} bytes in all, found more")));
    }
    Ok(())
}

/// An archive in the making.
#[derive(Default)]
struct Archive {
    content: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.files += 1;
        let file = NewcBuilder::new(path.trim_start_matches('/')).ino(self.files).mode(S_IFREG | READABLE).nlink(1);
        let mut writer = file.write(&mut self.content, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        cpio::newc::trailer(&mut self.content)?;
        self.content.resize(self.content.len().next_multiple_of(BLOCK), 0);
        Ok(self.content)
    }
}

/// A file with this content.
fn file(content: &[u8]) -> Entry {
    let digest = Some(Sha256::digest(content).into());
    Entry {
        kind: Kind::File(Some(manifest::Content { size: content.len() as u64, digest })),
        mode: READABLE,
        optional: false,
    }
}

impl Finding for Written {
    fn answer(&self) -> Answer {
        Answer::Yes
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        let Self { path, files, command_lines, size } = self;
        writeln!(text, "{path}: {files} files, {command_lines} command lines, {size} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S_IFDIR: u32 = 0o040_000;
    const S_IFLNK: u32 = 0o120_000;
    const LINE: &str = "composefs=x quiet";

    fn archive(files: &[(&str, u32, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (path, mode, content)) in (1..).zip(files) {
            let entry = NewcBuilder::new(path).ino(number).mode(*mode).nlink(1);
            let mut writer = entry.write(&mut bytes, content.len() as u32);
            writer.write_all(content.as_bytes()).unwrap();
            writer.finish().unwrap();
        }
        cpio::newc::trailer(&mut bytes).unwrap();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn initrd() -> Vec<u8> {
        archive(&[
            (".", S_IFDIR | 0o755, ""),
            ("dev", S_IFDIR | 0o755, ""),
            ("dev/console", 0o020_600, ""),
            ("etc", S_IFDIR | 0o755, ""),
            ("etc/machine-id", S_IFREG | 0o444, ""),
            ("lib", S_IFLNK | 0o777, "usr/lib"),
            ("usr", S_IFDIR | 0o755, ""),
            ("usr/lib", S_IFDIR | 0o755, ""),
            ("usr/lib/sealroot", S_IFDIR | 0o755, ""),
            ("usr/lib/sealroot/sealroot-initrd", S_IFREG | 0o755, "program"),
        ])
    }

    /// The initramfs with its list, or what was wrong.
    fn sealed(initrd: &[u8], ignored: &[&str]) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("initrd"), initrd).unwrap();
        let arguments = ManifestArguments {
            initrds: vec![at("initrd")],
            output: at("manifest"),
            command_lines: vec!["other".into(), LINE.into()],
            ignored: ignored.iter().map(ToString::to_string).collect(),
        };
        match run(&arguments) {
            Ok(written) => {
                assert_eq!(written.command_lines, 2);
                Ok([initrd, &fs::read(at("manifest")).unwrap()].concat())
            }
            Err(Failure::Misuse(text) | Failure::Reason(text)) => Err(text),
        }
    }

    fn found(initrd: &[u8], line: &str) -> Vec<String> {
        let wanted = |path: &str| path.starts_with("usr/lib/sealroot/");
        let initramfs = Initramfs::read(initrd, &mut Budget::for_input(initrd.len()), &wanted).unwrap();
        problems(&[], initrd, &initramfs, &CommandLine::split(line.as_bytes()))
    }

    #[test]
    fn what_was_sealed_has_no_problem() {
        let whole = sealed(&initrd(), &[]).unwrap();
        assert_eq!(found(&whole, LINE), [""; 0]);
        assert_eq!(found(&whole, " other\n"), [""; 0]);
        assert_eq!(found(&initrd(), "anything"), [""; 0]);
        let ignoring = [sealed(&initrd(), &["/etc"]).unwrap(), archive(&[("etc/more", S_IFREG | 0o644, "")])].concat();
        assert_eq!(found(&ignoring, LINE), [""; 0]);
        let covered = [whole, archive(&[("dev/more", S_IFREG | 0o644, "")])].concat();
        assert_eq!(found(&covered, LINE), [""; 0]);
    }

    #[test]
    fn microcode_is_a_part() {
        let microcode = archive(&[("kernel", S_IFDIR | 0o755, ""), ("kernel/code", S_IFREG | 0o644, "code")]);
        let initrd = sealed(&[microcode.clone(), initrd()].concat(), &[]).unwrap()[microcode.len()..].to_vec();
        let initramfs = Initramfs::read(&initrd, &mut Budget::for_input(initrd.len()), &|_| true).unwrap();
        let line = CommandLine::split(LINE.as_bytes());
        assert_eq!(problems(&microcode, &initrd, &initramfs, &line), [""; 0]);
        assert_eq!(problems(&[], &initrd, &initramfs, &line).len(), 1);
    }

    #[test]
    fn what_is_another_is_a_problem() {
        let whole = sealed(&initrd(), &[]).unwrap();
        let differs = |path: &str| format!("initramfs: '{path}': expected what '{MANIFEST}' lists");
        for (path, mode, content) in [
            ("etc/more", S_IFREG | 0o644, ""),
            ("usr/lib/sealroot/sealroot-initrd", S_IFREG | 0o755, "another"),
            ("usr/lib/sealroot/sealroot-initrd", S_IFREG | 0o4755, "program"),
            ("lib", S_IFLNK | 0o777, "etc"),
            ("lib", S_IFDIR | 0o755, ""),
        ] {
            let changed = [whole.clone(), archive(&[(path, mode, content)])].concat();
            assert_eq!(found(&changed, LINE), [differs(&format!("/{path}"))]);
        }
        // The list without what it lists.
        let alone = whole[initrd().len()..].to_vec();
        assert_eq!(found(&alone, LINE), [differs("/etc")]);
        assert_eq!(
            found(&whole, "composefs=x quiet more"),
            [format!("kernel command line: expected its end ('{CMDLINE}'), found 'more'")]
        );
    }

    #[test]
    fn what_the_kernel_would_not_unpack_is_an_error() {
        let place = "expected it in a directory of the initramfs";
        for (path, message) in [
            ("missing/file", format!("initramfs: '/missing/file': {place}")),
            ("lib/file", format!("initramfs: '/lib/file': {place}")),
            ("etc/../file", format!("initramfs: '/etc/../file': {place}")),
        ] {
            let initrd = [initrd(), archive(&[(path, S_IFREG | 0o644, "")])].concat();
            assert_eq!(sealed(&initrd, &[]), Err(message));
        }
        let without = archive(&[("etc", S_IFDIR | 0o755, "")]);
        assert_eq!(sealed(&without, &[]), Err(format!("initramfs: '{CMDLINE}': {place}")));
        assert!(sealed(b"no archive", &[]).unwrap_err().starts_with("initramfs: expected a cpio archive"));
    }
}
