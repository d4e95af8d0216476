//! Where the disk `tiny` keeps what a boot reads, by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::damage::Part;
use crate::disk::{self, BLOCK, DISK};
use crate::lab::Lab;

/// What a boot reads, by kind.
pub type Places = BTreeMap<&'static str, Vec<Part>>;

/// Finds them, and unmounts the disk.
pub fn places(lab: &Lab) -> Places {
    let repository = Path::new(DISK).join("composefs");
    let name = repository.join("images").join(lab.value("TINY"));
    let image = fs::canonicalize(&name).unwrap();
    let verity = |file: &Path| (lab.blocks(file), lab.verity_blocks(file), inode(file));
    let image_verity = verity(&image);
    let folders = [DISK.into(), repository.clone(), repository.join("images"), image.parent().unwrap().into(), name];
    let mut way: BTreeSet<_> = folders.iter().map(|path: &PathBuf| inode(path)).collect();
    way.extend([inode(&repository.join("objects")), inode(&image)]);
    let (mut way_to_objects, mut objects) = (BTreeSet::new(), Vec::new());
    for folder in fs::read_dir(repository.join("objects")).unwrap() {
        let folder = folder.unwrap().path();
        way_to_objects.insert(inode(&folder));
        for object in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            way_to_objects.insert(inode(&object));
            objects.extend((object != image).then(|| verity(&object)));
        }
    }
    lab.detach();

    let content = disk::content();
    let disk = Ext4(&content);
    let mut places = Places::default();
    let mut add = |place, parts: Vec<Part>| places.entry(place).or_default().extend(parts);
    let block = |block: u64| (block * BLOCK, BLOCK);
    for (is_image, (blocks, (tree, descriptor), inode)) in
        [(true, image_verity)].into_iter().chain(objects.into_iter().map(|object| (false, object)))
    {
        for (logical, physical) in disk.blocks(inode) {
            let place = match logical {
                _ if logical < blocks => ["object", "image"],
                _ if logical < tree => continue,
                _ if logical < descriptor => ["Merkle tree of an object", "Merkle tree of the image"],
                _ => ["descriptor of an object", "descriptor of the image"],
            };
            add(place[usize::from(is_image)], vec![block(physical)]);
            if is_image && logical >= descriptor {
                add("blocks behind the image", (physical + 1..physical + 5).map(block).collect());
            }
        }
    }
    for (inodes, [inode_place, block_place]) in [
        (way, ["inodes on the way to the image", "directories on the way to the image"]),
        (way_to_objects, ["inodes of objects", "directories of objects"]),
    ] {
        for inode in inodes {
            add(inode_place, vec![disk.inode(inode)]);
            // The blocks of directories and of a link; those of files are above.
            if !disk.is_file(inode) {
                add(block_place, disk.blocks(inode).into_iter().map(|(_, physical)| block(physical)).collect());
            }
        }
    }
    add("superblock and group descriptors", vec![(1024, 1024), block(1)]);
    for (place, parts) in &places {
        assert!(!parts.is_empty(), "{place}");
    }
    places
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// As much of an ext4 as it takes to find the blocks of a file in a filesystem of one group.
struct Ext4<'a>(&'a [u8]);

impl Ext4<'_> {
    fn number(&self, offset: u64, size: u64) -> u64 {
        let bytes = &self.0[offset as usize..(offset + size) as usize];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn inode(&self, number: u64) -> Part {
        let size = self.number(1024 + 88, 2);
        let table = self.number(BLOCK + 8, 4);
        assert!(number <= self.number(1024 + 40, 4), "more than one group");
        (table * BLOCK + (number - 1) * size, size)
    }

    fn is_file(&self, inode: u64) -> bool {
        self.number(self.inode(inode).0, 2) >> 12 == 8
    }

    /// The blocks of a file, counted as in the file and as on the disk. A link that fits into its inode has none.
    fn blocks(&self, inode: u64) -> Vec<(u64, u64)> {
        let header = self.inode(inode).0 + 40;
        if self.number(header, 2) != 0xf30a {
            return Vec::new();
        }
        assert_eq!(self.number(header + 6, 2), 0, "extents in blocks of their own");
        let extents = (1..=self.number(header + 2, 2)).map(|index| header + 12 * index);
        let blocks = extents.flat_map(|extent| {
            let [logical, length, physical] = [(0, 4), (4, 2), (8, 4)].map(|(at, size)| self.number(extent + at, size));
            (0..length).map(move |index| (logical + index, physical + index))
        });
        blocks.collect()
    }
}
