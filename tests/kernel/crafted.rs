//! A filesystem that was written so that the upper layer of /etc is a directory of /var, too. It works where all of /etc is persistent,
//! and the report says so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::disk::{DISK_FILE, Disk};
use crate::lab::{self, Lab};

/// `nodesize` of the fixture's btrfs, in bytes; a checksum is at the start of each node, and is of what follows these bytes.
const NODE: usize = 16_384;
const CHECKSUM: usize = 32;
/// `BTRFS_INODE_ITEM_KEY` and offset 0: the key of an inode, behind its number.
const INODE_KEY: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];
/// `struct btrfs_dir_item` behind the key and its transaction: no data, three letters of a name, a directory, the name.
const TMP: [u8; 8] = [0, 0, 3, 0, 2, b't', b'm', b'p'];

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

/// Lets the entries of /var/tmp lead to the inode that the next directory to be made will have.
fn craft(lab: &Lab) {
    // It is made anew.
    fs::remove_dir(lab.state_path("etc/upper")).unwrap();
    let tmp = lab.state_path("var/tmp");
    fs::create_dir(&tmp).unwrap();
    let number = fs::metadata(&tmp).unwrap().ino();
    rustix::fs::sync();
    lab.detach();
    let mut disk = fs::read(DISK_FILE).unwrap();
    let mut changed = 0;
    for at in 0..disk.len() - 33 {
        let item = &disk[at..at + 33];
        if item[..8] == number.to_le_bytes() && item[8..17] == INODE_KEY && item[25..] == TMP {
            disk[at..at + 8].copy_from_slice(&(number + 1).to_le_bytes());
            let node = at / NODE * NODE;
            let sum = crc32c(&disk[node + CHECKSUM..node + NODE]);
            disk[node..node + 4].copy_from_slice(&sum.to_le_bytes());
            changed += 1;
        }
    }
    // By its name and by its index.
    assert!(changed >= 2, "{changed} entries of inode {number}");
    fs::write(DISK_FILE, &disk).unwrap();
    lab.attach();
}

#[test]
fn a_directory_of_var_is_the_layer_of_a_persistent_etc() {
    lab::with_disk(Disk::Btrfs, "sha512", |lab| {
        craft(lab);
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        let bypasses = report["bypasses"].as_array().unwrap();
        assert!(bypasses.contains(&"writable-etc".into()), "{bypasses:?}");
        fs::write("/sysroot/var/tmp/ld.so.preload", "/var/x.so").unwrap();
        assert_eq!(fs::read_to_string("/sysroot/etc/ld.so.preload").unwrap(), "/var/x.so");
    });
}

#[test]
fn nothing_comes_to_an_etc_that_is_in_memory() {
    for line in ["keep = [\"machine-id\"]", "mount = \"transient\"", "mount = \"none\""] {
        lab::with_disk(Disk::Btrfs, "sha512", move |lab| {
            craft(lab);
            lab.config(&format!("[etc]\n{line}\n"));
            let report = lab.expect_sealed(&lab.boot(), lab.digest());
            let bypasses = report["bypasses"].as_array().unwrap();
            assert!(!bypasses.contains(&"writable-etc".into()), "{bypasses:?}");
            // If the inode is anybody's, it is that of what is kept on the disk.
            let _ = fs::write("/sysroot/var/tmp/ld.so.preload", "/var/x.so");
            let _ = fs::write("/sysroot/var/tmp/machine-id", "planted");
            assert!(!Path::new("/sysroot/etc/ld.so.preload").exists());
            assert!(!Path::new("/sysroot/etc/machine-id").exists());
        });
    }
}
