//! Initramfs archives: what a test adds to the one that was built.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::NewcBuilder;
use cpio::newc::trailer;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    content: Vec<u8>,
    folders: Vec<String>,
}

impl Archive {
    /// Adds a file of this machine, with its permissions, at a path of the initramfs.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&mut self, from: &Path, path: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        self.text(path, &content, mode)
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// It is too large for the format.
    pub fn text(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.below_folders(path, content, FILE | mode)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// Its target is too long for the format.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.below_folders(path, target.as_bytes(), LINK)
    }

    fn below_folders(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let folder = path[..end].to_owned();
            if !self.folders.contains(&folder) {
                self.entry(&folder, &[], FOLDER)?;
                self.folders.push(folder);
            }
        }
        self.entry(path, content, mode)
    }

    fn entry(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("'{path}' is too large for an initramfs"))?;
        let mut writer = NewcBuilder::new(path).mode(mode).nlink(1).write(&mut self.content, size);
        std::io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }

    /// The archive's bytes. The kernel unpacks one archive behind the other, from a multiple of four bytes on.
    ///
    /// # Errors
    /// None in memory.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        trailer(&mut self.content)?;
        self.content.resize(self.content.len().next_multiple_of(512), 0);
        Ok(self.content)
    }
}

/// Writes parts of an initramfs one behind the other.
///
/// # Errors
/// The file cannot be written.
pub fn join(parts: &[Vec<u8>], to: &Path) -> Result<()> {
    let mut all = Vec::new();
    for part in parts {
        all.extend(part);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    fs::write(to, all).with_context(|| to.display().to_string())
}
