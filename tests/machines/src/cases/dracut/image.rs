//! An initramfs that dracut made without compressing it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cpio::newc;

const KIND: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;

/// What is in it, by path without a slash in front.
pub struct Image {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    inode: u32,
    content: Vec<u8>,
}

impl Image {
    /// Reads the archive, or the first one of several.
    pub fn read(file: &Path) -> Result<Self> {
        let archive = fs::read(file).with_context(|| file.display().to_string())?;
        let mut rest = archive.as_slice();
        let mut entries = BTreeMap::new();
        loop {
            let mut reader = newc::Reader::new(rest).with_context(|| file.display().to_string())?;
            if reader.entry().is_trailer() {
                return Ok(Self { entries });
            }
            let (name, mode, inode) = (reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().ino());
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            entries.insert(name, Entry { mode, inode, content });
            rest = reader.finish()?;
        }
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    fn entry(&self, path: &str) -> Result<&Entry> {
        self.entries
            .get(path.trim_start_matches('/'))
            .with_context(|| format!("initramfs: expected '{path}', found none"))
    }

    /// The content of a file. Of several names of one file, an archive has the content behind one of them.
    pub fn content(&self, path: &str) -> Result<&[u8]> {
        let named = self.entry(path)?;
        let has_it = |entry: &&Entry| entry.inode == named.inode && !entry.content.is_empty();
        let with_content = Some(named).filter(has_it).or_else(|| self.entries.values().find(has_it));
        Ok(&with_content.unwrap_or(named).content)
    }

    /// Fails unless somebody may execute the file.
    pub fn expect_executable(&self, path: &str) -> Result<()> {
        let mode = self.entry(path)?.mode;
        ensure!(mode & 0o111 != 0, "initramfs: '{path}': expected a mode to execute, found {mode:o}");
        Ok(())
    }

    /// Fails unless a symbolic link leads, by this target, to something that is there.
    pub fn expect_link(&self, path: &str, target: &str) -> Result<()> {
        let link = self.entry(path)?;
        ensure!(link.mode & KIND == SYMLINK, "initramfs: '{path}': expected a link, found mode {:o}", link.mode);
        let found = String::from_utf8_lossy(&link.content);
        ensure!(found == target, "initramfs: '{path}': expected a link to '{target}', found one to '{found}'");
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        let leads_to = match target {
            // The kernel makes it.
            "/dev/null" => return Ok(()),
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            _ => target.strip_prefix("../").map_or(format!("{folder}/{target}"), |rest| format!("{parent}/{rest}")),
        };
        self.entry(&leads_to).map(drop)
    }
}
