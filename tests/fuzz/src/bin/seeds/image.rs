//! Composefs images of two trees in both formats, and what no tool writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bytes::{Bytes, Order};
use crate::{Result, output, tree};

/// Where the super block is, and in an image of composefs-rs the inode of the root directory.
const SUPER_BLOCK: usize = 1024;
const ROOT_INODE: usize = 1152;

pub fn write(folder: &Path, writer: &str) -> Result {
    let [full, bare] = ["tree", "bare"].map(|name| folder.join(name));
    tree::full(&full)?;
    tree::bare(&bare)?;
    for algorithm in ["sha256", "sha512"] {
        for root in [&full, &bare] {
            write_images(folder, writer, algorithm, root)?;
        }
    }
    fs::remove_dir_all(full)?;
    fs::remove_dir_all(bare)?;
    fs::write(folder.join("shared-directories"), shared_directories())?;
    // Blocks of 16 MiB, and a root directory of 4 GiB and a little.
    let mut large = fs::read(folder.join("tree-sha256-v2"))?;
    large[SUPER_BLOCK + 12] = 24;
    large[ROOT_INODE + 12..][..4].copy_from_slice(&1_u32.to_le_bytes());
    fs::write(folder.join("large-blocks"), large)?;
    Ok(())
}

/// TREE-ALGORITHM-FORMAT for each format.
fn write_images(folder: &Path, writer: &str, algorithm: &str, root: &Path) -> Result {
    let repository = folder.join("repository");
    let mut command = Command::new(writer);
    let printed = output(command.arg(algorithm).arg(root).arg(&repository).args(["v1", "v2"]))?;
    let name = root.file_name().ok_or("no name")?.to_string_lossy();
    for line in String::from_utf8(printed)?.lines() {
        let (format, digest) = line.split_once(' ').ok_or("repository-writer: expected FORMAT DIGEST")?;
        let (start, rest) = digest.split_at(2);
        let object = repository.join("objects").join(start).join(rest);
        fs::copy(object, folder.join(format!("{name}-{algorithm}-{format}")))?;
    }
    Ok(fs::remove_dir_all(repository)?)
}

/// An image of one block in which both entries of each directory, 30 levels deep, are the next one: a walk along every path
/// would never end.
fn shared_directories() -> Vec<u8> {
    let mut image = Bytes::new(Order::Little);
    // composefs: magic, version, flags, composefs version.
    image.fields(&[(4, 0xd078_629a), (4, 1), (4, 0), (4, 2)]).pad(SUPER_BLOCK);
    // The super block; the root's inode is the first behind it.
    image.fields(&[(4, 0xe0f5_e1e2), (4, 0), (4, 6), (1, 12), (1, 0), (2, 36), (8, 0), (8, 0), (4, 0), (4, 1)]);
    image.pad(ROOT_INODE);
    for inode in (36..36 + 29 * 3).step_by(3) {
        // A compact inode: layout, xattrs, mode, links, size, and what is zero.
        image.fields(&[(2, 4), (2, 0), (2, 0o40755), (2, 2), (4, 53), (4, 0)]).zeros(2);
        // Its entries: inode, where the name is, type.
        for (target, name) in [(inode, 48), (inode, 49), (inode + 3, 51), (inode + 3, 52)] {
            image.fields(&[(8, target), (2, name), (2, 2)]);
        }
        image.text("...ab");
        let padded = image.content.len() + 11;
        image.pad(padded);
    }
    // The last one is an empty file.
    image.fields(&[(2, 0), (2, 0), (2, 0o100_644), (2, 1), (4, 0), (4, 0)]).zeros(2);
    image.zeros(16);
    image.content
}
