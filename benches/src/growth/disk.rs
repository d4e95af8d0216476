//! A disk whose second partition has images of 10 to 1,000,000 files in one repository.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use machines::native::Drive;
use serde::{Deserialize, Serialize};

use crate::machine::{Clock, Job, Kind};
use crate::process::{output, run};
use crate::{cache, programs};

const FILES: [u32; 4] = [10, 10_000, 100_000, 1_000_000];
/// That many different contents at most, about as a Debian root has. Files of the same content share an object, and in the
/// image the xattrs that name it: with an object for each file, a large image would be about four times as large.
const OBJECTS: u32 = 8000;
/// All files of the tree are from then.
const TIME: Duration = Duration::from_secs(1_700_000_000);
/// Where the partition begins, in MiB.
const START: u64 = 2;

/// An image on the disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// How many regular files it has.
    pub files: u32,
    /// How many different contents.
    pub objects: u32,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub digest: String,
}

/// The disk with all images, the smallest first.
///
/// # Errors
/// It cannot be made.
pub fn disk() -> Result<(PathBuf, Vec<Image>)> {
    let (writer, enabler) = (programs::repository_writer()?, programs::verity_enabler()?);
    let key = [include_bytes!("disk.rs").as_slice(), &fs::read(&writer)?, &fs::read(&enabler)?];
    let folder = cache::cached("growth", &key, |new| build(new, &writer, enabler))?;
    let images = serde_json::from_reader(File::open(folder.join("images.json"))?).context("images.json")?;
    Ok((folder.join("disk"), images))
}

/// For a while this takes 4 GiB more.
fn build(new: &Path, writer: &Path, enabler: PathBuf) -> Result<()> {
    let tree = new.join("tree");
    fs::create_dir(&tree)?;
    let mut images = Vec::new();
    for files in FILES {
        eprintln!("making an image of {files} files …");
        images.push(add_image(&new.join("root"), &tree, writer, files)?);
    }
    serde_json::to_writer(File::create(new.join("images.json"))?, &images)?;
    let disk = new.join("disk");
    make_filesystem(&tree, &disk)?;
    fs::remove_dir_all(&tree)?;
    eprintln!("enabling fs-verity …");
    let kind = Kind::Native;
    let job = Job {
        kind,
        kernel: "newest",
        disk: Drive { file: disk.clone(), writable: true },
        files: vec![(enabler, "/verity-enabler".to_owned())],
        cpus: 1,
        clock: Clock::Time,
        limit: Duration::from_secs(600),
    };
    let script = r#"mount -t ext4 "$root" /mnt && /verity-enabler sha512:/mnt/composefs && umount /mnt"#;
    job.run(script, &[("root", &kind.partition(2))])?;
    run(Command::new("fallocate").arg("--dig-holes").arg(&disk))
}

/// Writes an image of so many files to the repository, with its state.
fn add_image(root: &Path, tree: &Path, writer: &Path, files: u32) -> Result<Image> {
    fill(root, files).with_context(|| root.display().to_string())?;
    let repository = tree.join("composefs");
    let said = output(Command::new(writer).arg("sha512").args([root, &repository]).arg("v1"))?;
    fs::remove_dir_all(root)?;
    let digest =
        said.trim_end().strip_prefix("v1 ").with_context(|| format!("expected 'v1 DIGEST', found '{said}'"))?;
    let state = tree.join("state/deploy").join(digest);
    for folder in ["etc/upper", "etc/work", "var"] {
        fs::create_dir_all(state.join(folder))?;
    }
    let bytes = fs::metadata(repository.join("images").join(digest))?.len();
    Ok(Image { files, objects: files.min(OBJECTS), bytes, digest: digest.to_owned() })
}

/// A root that can be booted, of so many regular files. All of them are too large to lie in the image.
fn fill(root: &Path, files: u32) -> Result<()> {
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o755);
    for folder in ["dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "var", "usr/lib/systemd", "usr/share"] {
        folders.create(root.join(folder))?;
    }
    // Without an interpreter and a C library, whose hashes would take most of a start's time.
    let (source, init) = (root.with_extension("c"), root.join("usr/lib/systemd/systemd"));
    fs::write(&source, "void _start(void) { for (;;); }\n")?;
    run(Command::new("cc").args(["-O2", "-nostdlib", "-static", "-s", "-o"]).args([&init, &source]))?;
    date(&File::open(&init)?)?;
    let release: String = (1..=20).map(|line| format!("# line {line} of the release\n")).collect();
    write(&root.join("usr/lib/os-release"), &format!("ID=growing\n{release}"))?;
    // The init and the os-release are two of them.
    let (files, contents) = (files - 2, files.min(OBJECTS) - 2);
    // 100 files in a directory, and 100 directories in another.
    for file in 0..files {
        let folder = root.join(format!("usr/share/{:02}/{:02}", file / 10_000, file / 100 % 100));
        if file % 100 == 0 {
            folders.create(&folder)?;
        }
        write(&folder.join(format!("file-{:02}", file % 100)), &content(file, files, contents))?;
    }
    date_folders(root)
}

/// The copies of a content lie beside each other: their common xattrs are read one after the other, as in any image.
fn content(file: u32, files: u32, contents: u32) -> String {
    let number = u64::from(file) * u64::from(contents) / u64::from(files);
    format!("content {number}\n{}\n", " ".repeat(80 + (number % 3900) as usize))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    date(&file)
}

fn date(file: &File) -> Result<()> {
    Ok(file.set_modified(SystemTime::UNIX_EPOCH + TIME)?)
}

/// Folders change with each file in them: they come last.
fn date_folders(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            date_folders(&entry.path())?;
        }
    }
    date(&File::open(folder)?)
}

/// A disk with this tree on an ext4 in its second partition.
fn make_filesystem(tree: &Path, disk: &Path) -> Result<()> {
    let usage = output(Command::new("du").arg("-sm").arg(tree))?;
    let used: u64 = usage.split_whitespace().next().unwrap_or_default().parse().context("du")?;
    // MiB: the content, what fs-verity adds to each object, and the file system's own tables.
    let size = used * 3 / 2 + 96;
    File::create(disk)?.set_len((START + size + 1) << 20)?;
    let layout = format!("label: gpt\nstart=1MiB, size=1MiB\nstart={START}MiB, size={size}MiB\n");
    let mut partitioning =
        Command::new("sfdisk").arg("-q").arg(disk).stdin(Stdio::piped()).spawn().context("sfdisk")?;
    partitioning.stdin.take().context("sfdisk takes no input")?.write_all(layout.as_bytes())?;
    let status = partitioning.wait()?;
    ensure!(status.success(), "sfdisk: expected success, found {status}");
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "verity", "-b", "4096", "-m", "0", "-d"])
        .arg(tree)
        .args(["-E", &format!("offset={}", START << 20)])
        .arg(disk)
        .arg(format!("{size}M")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_as_many_contents_as_objects() {
        for files in [10, 7999, 8000, 8001, 100_000] {
            let contents = files.min(OBJECTS) - 2;
            let found: BTreeSet<_> = (0..files - 2).map(|file| content(file, files - 2, contents)).collect();
            assert_eq!(found.len() as u32, contents, "{files}");
            // What is 64 bytes long or shorter lies in the image.
            assert!(found.iter().all(|text| text.len() > 64));
        }
    }

    #[test]
    fn a_tree_has_as_many_files_as_it_should() {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder.path().join("root"), 205).unwrap();
        let list = output(Command::new("find").arg(folder.path().join("root")).args(["-type", "f"])).unwrap();
        assert_eq!(list.lines().count(), 205);
        assert!(list.contains("/usr/share/00/02/file-02\n"));
    }
}
