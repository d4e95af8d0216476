//! A copy of a disk image, and what someone can do to it who has the disk but no key.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::builders;
use crate::hidden::Hidden;

const MIB: u64 = 1 << 20;
/// Where `qemu/disk` puts the partitions.
const ESP: &str = "@@1M";
const ROOT: u64 = 97 * MIB;
const BLOCK: u64 = 4096;
const ROOT_UUID: &str = "5ea17007-0000-4000-8000-000000000002";
/// The partition of [`Disk::with_esp`].
pub const ESP_PARTUUID: &str = "5EA17007-0000-4000-8000-000000000004";
const ROOT_PARTUUID: &str = "5ea17007-0000-4000-8000-000000000003";
const ROOT_TYPE: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// A disk image of a test's own: GPT, an EFI system partition, and the root partition, an ext4 with a repository.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

/// A partition; bytes.
#[derive(Clone, Debug)]
pub struct Partition {
    /// What the table calls it.
    pub name: String,
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
}

/// Where a byte is changed.
#[derive(Clone, Debug)]
pub enum Block {
    /// In the middle of the file.
    Middle,
    /// In this block of the file. Blocks behind its end count: fs-verity keeps its Merkle tree and its descriptor there.
    Number(u64),
}

/// One change to a disk.
#[derive(Clone, Debug)]
pub enum Change {
    /// Inverts a byte of a file of the repository, below the filesystem.
    Flip {
        /// `objects/…`
        object: String,
        /// Which block of it.
        block: Block,
        /// Which byte of the block.
        byte: u64,
    },
    /// Has the journal overwrite a block of a file of the repository when the filesystem is mounted.
    Replay {
        /// `objects/…`
        object: String,
        /// Which block of it.
        block: u64,
    },
    /// Further partitions of the types that are mounted at /home, /srv and /var/tmp, each with a setuid program, and one for swap.
    Partitions,
    /// One more partition with the PARTUUID, UUID and label of the root, which has an operating system and no repository.
    Twin(Twin),
    /// The protective MBR names the root partition, too, as a Linux one.
    HybridMbr,
    /// Makes the root partition larger than its filesystem, says in the table that this is to grow (flag 59), and leaves room behind it.
    Grow,
    /// A file of the disk has this name, too, in a directory that is made anew and does not list it.
    Hidden {
        /// The directory.
        directory: String,
        /// The name in it.
        name: &'static str,
        /// The file.
        target: String,
    },
    /// Commands of debugfs(8).
    Debugfs(Vec<String>),
    /// Makes a file with this content; commands of debugfs(8) name it `{file}`.
    Write(Vec<u8>, Vec<String>),
    /// Encrypts the root partition with LUKS; the last change, since afterwards nothing in it can be found.
    Encrypt(PathBuf),
    /// Puts a file on the EFI system partition.
    OnEsp(PathBuf, String),
}

/// What the partition table says of the root partition where another has its PARTUUID.
#[derive(Clone, Copy, Debug)]
pub enum Twin {
    /// Both have it.
    Beside,
    /// The root partition has another.
    Instead,
    /// The first table is as it was; so says its copy at the end of the disk.
    InTheCopy,
}

impl Disk {
    /// A copy of a disk image. Where it is empty it takes no place.
    ///
    /// # Errors
    /// The copy fails.
    pub fn copy_of(image: &Path) -> Result<Self> {
        let folder = builders::scratch()?;
        let copy = folder.path().join("disk");
        run(Command::new("cp").args(["--sparse=auto", "--reflink=auto"]).args([image, &copy]))?;
        Ok(Self { folder })
    }

    /// An empty disk that has an EFI system partition and nothing else.
    ///
    /// # Errors
    /// A tool fails.
    pub fn with_esp() -> Result<Self> {
        const SIZE: u64 = 96 * MIB;
        let disk = Self { folder: builders::scratch()? };
        File::create(disk.path())?.set_len(SIZE + 2 * MIB)?;
        let mut table = Command::new("sfdisk").arg("-q").arg(disk.path()).stdin(Stdio::piped()).spawn()?;
        let esp = "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
        let lines = format!("label: gpt\nstart=1MiB, size=96MiB, {esp}, uuid={ESP_PARTUUID}\n");
        table.stdin.take().context("no input")?.write_all(lines.as_bytes())?;
        ensure!(table.wait()?.success(), "sfdisk: no table of partitions");
        let esp = format!("{}{ESP}", disk.path().display());
        run(Command::new("mformat").args(["-i", &esp, "-v", "ESP", "-F", "-T", &(SIZE / 512).to_string(), "::"]))?;
        for folder in ["::EFI", "::EFI/BOOT"] {
            run(Command::new("mmd").args(["-i", &esp, folder]))?;
        }
        Ok(disk)
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Makes a change.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn change(&self, change: &Change) -> Result<()> {
        match change {
            Change::Flip { object, block, byte } => self.flip(object, block, *byte),
            Change::Partitions => self.add_partitions(),
            Change::Twin(twin) => self.add_twin(*twin),
            Change::HybridMbr => self.make_hybrid(),
            Change::Grow => self.grow(),
            Change::Replay { object, block } => self.replay(object, *block),
            Change::Hidden { directory, name, target } => self.hide(directory, name, target),
            Change::Debugfs(commands) => self.debugfs(commands),
            Change::Write(content, commands) => {
                let file = self.folder.path().join("written");
                fs::write(&file, content)?;
                let name = file.to_str().context("a path that is no text")?;
                self.debugfs(&commands.iter().map(|command| command.replace("{file}", name)).collect::<Vec<_>>())
            }
            Change::Encrypt(key) => self.encrypt(key),
            Change::OnEsp(file, path) => self.put_on_esp(file, path),
        }
        .with_context(|| format!("{change:?}"))
    }

    fn partition(&self) -> String {
        format!("{}?offset={ROOT}", self.path().display())
    }

    /// The text of a file on the root partition; nothing if there is none.
    ///
    /// # Errors
    /// debugfs cannot be started.
    pub fn text_of(&self, path: &str) -> Result<String> {
        self.ask_debugfs(&format!("cat {path}"))
    }

    fn ask_debugfs(&self, command: &str) -> Result<String> {
        let output = Command::new("debugfs").args(["-R", command, &self.partition()]).output().context("debugfs")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// debugfs fails silently: whatever it says beside its version and the commands is an error.
    fn debugfs(&self, commands: &[String]) -> Result<()> {
        let mut process = Command::new("debugfs");
        process.args(["-w", "-f", "-", &self.partition()]);
        let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no input")?.write_all((commands.join("\n") + "\n").as_bytes())?;
        let output = child.wait_with_output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let usual = |line: &&str| {
            ["debugfs:", "debugfs ", "Allocated inode", "Filesystem features"]
                .iter()
                .any(|start| line.starts_with(start))
        };
        let errors: Vec<_> = said.lines().filter(|line| !usual(line) && !line.is_empty()).collect();
        ensure!(errors.is_empty() && output.status.success(), "debugfs: {}", errors.join("; "));
        Ok(())
    }

    /// The size of a file of the repository.
    fn size_of(&self, object: &str) -> Result<u64> {
        let found = self.ask_debugfs(&format!("stat /composefs/{object}"))?;
        let size = found.split("Size: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        size.and_then(|size| size.parse().ok()).with_context(|| format!("no '{object}' on the disk"))
    }

    fn flip(&self, object: &str, block: &Block, byte: u64) -> Result<()> {
        let number = match block {
            Block::Middle => self.size_of(object)?.div_ceil(BLOCK) / 2,
            Block::Number(number) => *number,
        };
        let physical = self.physical_block(object, number)?;
        let disk = File::options().read(true).write(true).open(self.path())?;
        let position = ROOT + physical * BLOCK + byte;
        let mut content = [0];
        disk.read_exact_at(&mut content, position)?;
        disk.write_all_at(&[content[0] ^ 0xff], position)?;
        Ok(())
    }

    /// Where on the filesystem a block of a file of the repository is.
    fn physical_block(&self, object: &str, number: u64) -> Result<u64> {
        let found = self.ask_debugfs(&format!("bmap /composefs/{object} {number}"))?;
        let physical: u64 = found.trim().parse().map_err(|_| anyhow!("bmap of '{object}': found '{found}'"))?;
        ensure!(physical > 0, "'{object}' has no block {number}");
        Ok(physical)
    }

    fn inode(&self, path: &str) -> Result<u32> {
        let found = self.ask_debugfs(&format!("stat {path}"))?;
        let number = found.split("Inode: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).with_context(|| format!("no '{path}' on the disk"))
    }

    /// The word behind a name in what `debugfs stats` says.
    fn superblock(&self, name: &str) -> Result<String> {
        let found = self.ask_debugfs("show_super_stats -h")?;
        let line = found.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().to_owned())
    }

    fn hide(&self, directory: &str, name: &'static str, target: &str) -> Result<()> {
        // As a file first, whose blocks are then written.
        let placeholder = self.folder.path().join("directory");
        fs::write(&placeholder, vec![0xff; 3 * BLOCK as usize])?;
        self.debugfs(&[format!("rmdir {directory}"), format!("write {} {directory}", placeholder.display())])?;
        let parent = directory.rsplit_once('/').map_or("/", |(parent, _)| parent);
        let uuid = self.superblock("Filesystem UUID:")?.replace('-', "");
        let uuid = u128::from_str_radix(&uuid, 16).context("UUID")?.to_be_bytes();
        let hash =
            self.ask_debugfs(&format!("dx_hash -h half_md4 -s {} {name}", self.superblock("Directory Hash Seed:")?))?;
        let hash = hash.split("is 0x").nth(1).and_then(|rest| rest.split_whitespace().next()).context("dx_hash")?;
        let hidden = Hidden {
            inode: self.inode(directory)?,
            parent: self.inode(parent)?,
            uuid,
            name,
            hash: u32::from_str_radix(hash, 16)? & !1,
            target: self.inode(target)?,
        };
        let disk = File::options().write(true).open(self.path())?;
        for (number, block) in hidden.blocks().chunks(BLOCK as usize).enumerate() {
            let found = self.ask_debugfs(&format!("bmap {directory} {number}"))?;
            let physical: u64 = found.trim().parse().with_context(|| format!("bmap: {found}"))?;
            disk.write_all_at(block, ROOT + physical * BLOCK)?;
        }
        // A directory with extents and an index, whose inode has no generation.
        let fields = ["mode 040755", "flags 0x81000", "links_count 2", "generation 0"];
        self.debugfs(&fields.map(|field| format!("set_inode_field {directory} {field}")))
    }

    fn add_partitions(&self) -> Result<()> {
        const MOUNTED: [&str; 3] = [
            "933AC7E1-2EB4-4F13-B844-0E14E2AEF915",
            "3B8F8425-20E0-4F3B-907F-1A25A76F98E8",
            "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1",
        ];
        const SWAP: &str = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";
        let (tree, content) = (self.folder.path().join("planted.d"), self.folder.path().join("planted"));
        fs::create_dir_all(&tree)?;
        fs::copy("/usr/bin/id", tree.join("planted-setuid"))?;
        fs::set_permissions(tree.join("planted-setuid"), Permissions::from_mode(0o4755))?;
        for kind in MOUNTED {
            make_filesystem(&content, 8, &tree, &[])?;
            self.append(&content, &format!("type={kind}"))?;
        }
        File::create(&content)?.set_len(8 * MIB)?;
        run(Command::new("mkswap").arg(&content))?;
        self.append(&content, &format!("type={SWAP}"))
    }

    fn add_twin(&self, twin: Twin) -> Result<()> {
        const INIT: &str = "#!/bin/busybox sh\necho \"decoy: a twin of the root is running\" >/dev/console\n";
        let (tree, content) = (self.folder.path().join("twin.d"), self.folder.path().join("twin"));
        for folder in ["bin", "sbin", "dev", "etc", "proc", "run", "sys", "tmp", "sysroot", "var", "usr/lib/systemd"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::copy("/usr/bin/busybox", tree.join("bin/busybox"))?;
        symlink("busybox", tree.join("bin/sh"))?;
        for init in ["sbin/init", "init", "usr/lib/systemd/systemd"] {
            fs::write(tree.join(init), INIT)?;
            fs::set_permissions(tree.join(init), Permissions::from_mode(0o755))?;
        }
        fs::write(tree.join("usr/lib/os-release"), "PRETTY_NAME=\"decoy: a twin of the root\"\n")?;
        make_filesystem(&content, 16, &tree, &["-U", ROOT_UUID, "-L", "sealed"])?;
        let disk = File::options().read(true).write(true).open(self.path())?;
        // Behind the protective MBR come the header and the table.
        let mut table = vec![0; 33 * 512];
        disk.read_exact_at(&mut table, 512)?;
        if !matches!(twin, Twin::Beside) {
            let other = "5ea17007-0000-4000-8000-00000000beef";
            run(Command::new("sfdisk").args(["-q", "--part-uuid"]).arg(self.path()).args(["2", other]))?;
        }
        self.append(&content, &format!("type={ROOT_TYPE}, uuid={ROOT_PARTUUID}"))?;
        if matches!(twin, Twin::InTheCopy) {
            disk.write_all_at(&table, 512)?;
        }
        Ok(())
    }

    /// Gives the disk this size, and the root partition what else a line of sfdisk(8) says.
    fn enlarge(&self, size: u64, line: &str) -> Result<()> {
        let disk = self.path();
        File::options().write(true).open(&disk)?.set_len(size)?;
        run(Command::new("sfdisk").args(["-q", "--relocate", "gpt-bak-std"]).arg(&disk))?;
        let mut change = Command::new("sfdisk").args(["-q", "-N", "2"]).arg(&disk).stdin(Stdio::piped()).spawn()?;
        change.stdin.take().context("no input")?.write_all(format!("{line}\n").as_bytes())?;
        ensure!(change.wait()?.success(), "sfdisk: the partition does not change");
        Ok(())
    }

    fn grow(&self) -> Result<()> {
        const MORE: u64 = 64 * MIB;
        let Partition { start, size, .. } = self.root_partition()?;
        let (size, room) = (size + MORE, MORE);
        self.enlarge(start + size + room, &format!("size={}", size / 512))?;
        run(Command::new("sfdisk").args(["-q", "--part-attrs"]).arg(self.path()).args(["2", "GUID:59"]))
    }

    /// Its partitions, in the order of the table.
    ///
    /// # Errors
    /// sfdisk finds no table.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let table = Command::new("sfdisk").arg("--json").arg(self.path()).output().context("sfdisk")?;
        let table: serde_json::Value = serde_json::from_slice(&table.stdout).context("sfdisk")?;
        let partitions = table["partitiontable"]["partitions"].as_array().context("no partitions")?;
        let partition = |entry: &serde_json::Value| {
            let number = |key: &str| Some(entry[key].as_u64()? * 512);
            let name = entry["name"].as_str().unwrap_or_default().to_owned();
            Some(Partition { name, start: number("start")?, size: number("size")? })
        };
        partitions.iter().map(partition).collect::<Option<_>>().context("a partition without a place")
    }

    /// The partition with the repository.
    ///
    /// # Errors
    /// There is none.
    pub fn root_partition(&self) -> Result<Partition> {
        self.partitions()?.into_iter().nth(1).context("no second partition")
    }

    /// What the ext4 of the root partition takes for its size, in bytes.
    ///
    /// # Errors
    /// It has no superblock.
    pub fn filesystem_size(&self) -> Result<u64> {
        Ok(self.superblock("Block count:")?.parse::<u64>()? * BLOCK)
    }

    fn make_hybrid(&self) -> Result<()> {
        const LINUX: u8 = 0x83;
        const SECOND: u64 = 446 + 16;
        let disk = File::options().write(true).open(self.path())?;
        let (start, end) = (u32::try_from(ROOT / 512)?, u32::try_from(fs::metadata(self.path())?.len() / 512)?);
        let entry =
            [[0x80, 0xff, 0xff, 0xff], [LINUX, 0xff, 0xff, 0xff], start.to_le_bytes(), (end - start).to_le_bytes()];
        disk.write_all_at(&entry.concat(), SECOND)?;
        Ok(())
    }

    /// A partition behind the last one, and a MiB for the table's copy.
    fn append(&self, content: &Path, what: &str) -> Result<()> {
        let (disk, size) = (self.path(), fs::metadata(content)?.len());
        let start = (fs::metadata(&disk)?.len() - MIB).next_multiple_of(MIB);
        File::options().write(true).open(&disk)?.set_len(start + size + MIB)?;
        run(Command::new("sfdisk").args(["-q", "--relocate", "gpt-bak-std"]).arg(&disk))?;
        let mut append = Command::new("sfdisk").args(["-q", "--append"]).arg(&disk).stdin(Stdio::piped()).spawn()?;
        let line = format!("start={}, size={}, {what}\n", start / 512, size / 512);
        append.stdin.take().context("no input")?.write_all(line.as_bytes())?;
        ensure!(append.wait()?.success(), "sfdisk: there is no place for a partition");
        copy_into(content, &disk, start)
    }

    fn replay(&self, object: &str, block: u64) -> Result<()> {
        let physical = self.physical_block(object, block)?;
        let content = self.folder.path().join("replayed");
        fs::write(&content, vec![0x5a; usize::try_from(BLOCK)?])?;
        let write = format!("journal_write -b {physical} {}", content.display());
        self.debugfs(&["journal_open".into(), write, "journal_close".into()])
    }

    /// Puts a file on the EFI system partition.
    fn put_on_esp(&self, file: &Path, path: &str) -> Result<()> {
        let esp = format!("{}{ESP}", self.path().display());
        let folders = path.match_indices('/').map(|(end, _)| format!("::{}", &path[..end]));
        for folder in folders {
            // Those that are there are left as they are.
            if Command::new("mdir").args(["-i", &esp, &folder]).output()?.status.success() {
                continue;
            }
            run(Command::new("mmd").args(["-i", &esp, &folder]))?;
        }
        run(Command::new("mcopy").args(["-o", "-i", &esp]).arg(file).arg(format!("::{path}")))
    }

    /// The names in a folder of the EFI system partition, in order.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn esp_folder(&self, folder: &str) -> Result<Vec<String>> {
        let esp = format!("{}{ESP}", self.path().display());
        let output = Command::new("mdir").args(["-b", "-i", &esp, &format!("::{folder}")]).output()?;
        ensure!(output.status.success(), "mdir: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let mut names: Vec<_> = text.lines().filter_map(|line| line.rsplit('/').next()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Encrypts the root partition, which keeps its place and its PARTUUID and grows by LUKS's header. QEMU's own
    /// implementation does it: neither the device mapper nor a mount is needed.
    fn encrypt(&self, key: &Path) -> Result<()> {
        let disk = self.path();
        let Partition { start, size, .. } = self.root_partition()?;
        let luks = self.folder.path().join("luks");
        // Few iterations: deriving a key slowly only matters for keys that people can guess.
        let source = format!("driver=raw,offset={start},size={size},file.driver=file,file.filename={}", disk.display());
        let secret = format!("secret,id=key,file={}", key.display());
        let mut attempts = 0;
        loop {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "--object", &secret, "--image-opts", &source, "-O", "luks"]);
            convert.args(["-o", "key-secret=key,iter-time=10,hash-alg=sha512"]).arg(&luks);
            match run(&mut convert) {
                Ok(()) => break,
                // QEMU gives up where it finds the hash too quick to be timed.
                Err(error) if attempts < 5 && error.to_string().contains("Unable to get accurate CPU usage") => {
                    attempts += 1
                }
                Err(error) => return Err(error),
            }
        }
        // The partition is the last one; behind it, a MiB for the table's copy.
        let end = start + fs::metadata(&luks)?.len().next_multiple_of(MIB) + MIB;
        self.enlarge(end, "size=+")?;
        copy_into(&luks, &disk, start)?;
        fs::remove_file(luks)?;
        Ok(())
    }

    /// Whether these bytes are anywhere on it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn contains(&self, text: &str) -> Result<bool> {
        match Command::new("grep").args(["-qaF", text]).arg(self.path()).status()?.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            other => bail!("grep in '{}': status {other:?}", self.path().display()),
        }
    }
}

/// An ext4 of so many MiB with what is in a folder.
fn make_filesystem(file: &Path, size: u64, tree: &Path, options: &[&str]) -> Result<()> {
    File::create(file)?.set_len(size * MIB)?;
    run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).args(options).arg("-d").args([tree, file]))
}

fn copy_into(from: &Path, disk: &Path, mut position: u64) -> Result<()> {
    let disk = File::options().write(true).open(disk)?;
    let mut from = File::open(from)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        disk.write_all_at(&chunk[..count], position)?;
        position += count as u64;
    }
}

/// Runs a command that succeeds, or fails with what it says.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?}: {}: {}", command.get_program(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
