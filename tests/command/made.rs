//! Unified kernel images that were never built by anybody, with what `sealroot uki` looks at and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::golden::GOLDEN;
use crate::run::{Said, said, sealroot};

const REGULAR: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
const UNITS: &str = "usr/lib/systemd/system";
/// In a file, and in memory.
const ALIGNMENT: usize = 512;
const PAGE: usize = 4096;

/// A kernel, and sections beside those that every image has.
type Ours = (Vec<u8>, Vec<(&'static str, &'static [u8])>);

/// An image that is being made, and the disk that it boots from.
pub struct Made {
    folder: TempDir,
    line: String,
    /// Of each profile.
    profiles: Vec<String>,
    kernel: Vec<u8>,
    files: Vec<(String, u32, Vec<u8>)>,
    /// The kernel and further sections of an image with sealroot's stub.
    ours: Option<Ours>,
}

impl Made {
    /// Complete, and for an image of the repository with SHA-512.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut made = Self {
            folder,
            line: GOLDEN.karg(),
            profiles: Vec::new(),
            kernel: b"a kernel".to_vec(),
            files: Vec::new(),
            ours: None,
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd-units");
        made.units(&shipped, UNITS);
        for unit in
            ["initrd-root-fs.target", "initrd-switch-root.service", "initrd-switch-root.target", "initrd.target"]
        {
            made = made.file(&format!("{UNITS}/{unit}"), "[Unit]");
        }
        made.link(&format!("{UNITS}/initrd-root-fs.target.requires/sealroot.service"), "../sealroot.service")
            .link(&format!("{UNITS}/initrd.target.wants/sealroot-guard.service"), "../sealroot-guard.service")
            .link("usr/lib/systemd/system-generators/sealroot-generator", "/usr/lib/sealroot/sealroot-initrd")
            .file("usr/lib/sealroot/sealroot-initrd", "a program")
            .file("usr/lib/modules/1/modules.builtin", "kernel/fs/erofs/erofs.ko\nkernel/fs/overlayfs/overlay.ko\n")
    }

    fn units(&mut self, folder: &Path, place: &str) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{place}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                self.units(&path, &name);
            } else {
                self.files.push((name, REGULAR, fs::read(&path).unwrap()));
            }
        }
    }

    /// With another command line.
    pub fn line(mut self, line: &str) -> Self {
        self.line = line.into();
        self
    }

    /// With sealroot's stub, a kernel, and further sections.
    pub fn ours(mut self, kernel: Vec<u8>, more: &[(&'static str, &'static [u8])]) -> Self {
        self.ours = Some((kernel, more.to_vec()));
        self
    }

    /// With another kernel and systemd's stub.
    pub fn kernel(mut self, kernel: Vec<u8>) -> Self {
        self.kernel = kernel;
        self
    }

    /// With one profile more, which has this command line.
    pub fn profile(mut self, line: &str) -> Self {
        self.profiles.push(line.into());
        self
    }

    /// With one file more in the initramfs.
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.into(), REGULAR, content.into()));
        self
    }

    /// With one link more in the initramfs.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.files.push((path.into(), LINK, target.into()));
        self
    }

    /// With this configuration.
    pub fn config(self, text: &str) -> Self {
        self.file("usr/lib/sealroot/sealroot.toml", text)
    }

    /// A path in a folder of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same, for an argument.
    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    /// Writes the image, unsigned, and gives its name.
    pub fn written(&self) -> String {
        let archive: Vec<u8> =
            self.files.iter().flat_map(|(path, mode, content)| entry(path, *mode, content)).collect();
        let mut sections = match &self.ours {
            None => vec![
                (".linux", &self.kernel[..]),
                (".initrd", &archive),
                (".cmdline", self.line.as_bytes()),
                (".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####"),
            ],
            Some((kernel, more)) => {
                let mut sections = vec![
                    (".text", &b"the stub"[..]),
                    (".sbat", b"sbat,1,x\nsealroot-stub,1,sealroot,sealroot-stub,0.1.0,x\n"),
                    (".osrel", b"ID=test\n"),
                    (".cmdline", self.line.as_bytes()),
                    (".initrd", &archive),
                    (".linux", kernel),
                ];
                sections.extend(more);
                sections
            }
        };
        for line in &self.profiles {
            sections.extend([(".profile", &b"ID=one"[..]), (".cmdline", line.as_bytes())]);
        }
        fs::write(self.path("uki.efi"), pe(&sections)).unwrap();
        self.name("uki.efi")
    }

    /// A copy of a repository on a disk of its own, and beside it the state of an image in there.
    pub fn disk(&self, algorithm: &str, digest: &str) -> Disk {
        let root = self.path("disk");
        fs::create_dir(&root).unwrap();
        let (from, to) = (GOLDEN.repository(algorithm), root.join("composefs"));
        let copied = said(Command::new("cp").arg("-a").arg(from).arg(to));
        assert_eq!(copied.status, Some(0), "{copied:?}");
        let deployment = root.join("state/deploy").join(digest);
        for name in ["etc", "var"] {
            fs::create_dir_all(deployment.join(name)).unwrap();
        }
        Disk { root, deployment: format!("state/deploy/{digest}") }
    }

    /// What `sealroot uki` says of it, with these arguments.
    pub fn asked(&self, arguments: &[&str]) -> Uki {
        let written = self.written();
        Uki::asked(&[arguments, &[&written]].concat())
    }
}

/// The root of a disk.
pub struct Disk {
    root: PathBuf,
    /// The path of the deployment's state, from there.
    pub deployment: String,
}

impl Disk {
    /// For `--repo`.
    pub fn repository(&self) -> String {
        self.root.join("composefs").to_str().unwrap().into()
    }

    /// Something in the deployment's state.
    pub fn state(&self, name: &str) -> PathBuf {
        self.root.join(&self.deployment).join(name)
    }
}

/// What was said of an image.
#[derive(Debug)]
pub struct Uki {
    pub status: i32,
    pub result: Value,
}

impl Uki {
    /// Asks, for an answer in JSON.
    #[track_caller]
    pub fn asked(arguments: &[&str]) -> Self {
        let Said { status, out, err } = sealroot(&[&["--json", "uki"], arguments].concat());
        let answer: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
        assert!(answer["error"].is_null(), "{answer}");
        let fields = crate::documented::fields(&answer);
        assert_eq!(crate::documented::undocumented(&fields), [""; 0]);
        Self { status: status.unwrap(), result: answer["result"].clone() }
    }

    /// What keeps the first profile from a sealed boot.
    pub fn problems(&self) -> Vec<String> {
        self.list("problems")
    }

    /// What else is said of it.
    pub fn warnings(&self) -> Vec<String> {
        self.list("warnings")
    }

    fn list(&self, field: &str) -> Vec<String> {
        let list = self.result["profiles"][0][field].as_array().unwrap();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }
}

/// One file of an archive in the format newc.
fn entry(path: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let header = [1, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
    let mut bytes =
        [b"070701", header.map(|field| format!("{field:08x}")).concat().as_bytes(), path.as_bytes(), &[0]].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A kernel, as far as a boot stub looks at it.
pub fn kernel() -> Vec<u8> {
    let mut file = pe(&[(".text", b"code")]);
    let entry = 64 + 24 + 16;
    file[entry..entry + 4].copy_from_slice(&(PAGE as u32).to_le_bytes());
    let table = 64 + 24 + 112 + 16 * 8;
    file[table + 36..table + 40].copy_from_slice(&0x6000_0020_u32.to_le_bytes());
    file
}

/// A PE executable, as far as tools that sign look at one.
pub fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let number = |value: usize| (value as u32).to_le_bytes();
    let (optional, directories) = (112, 16);
    let mut head = [&b"MZ"[..], &[0; 58], &number(64), b"PE\0\0"].concat();
    head.extend([0x64, 0x86, sections.len() as u8, 0]);
    head.extend([&[0; 12][..], &[optional + directories * 8, 0, 0x2e, 2]].concat());
    let size = (head.len() + usize::from(optional + directories * 8) + 40 * sections.len()).next_multiple_of(ALIGNMENT);
    let (mut table, mut body, mut address) = (Vec::new(), Vec::new(), PAGE);
    for (name, content) in sections {
        let length = content.len().next_multiple_of(ALIGNMENT);
        let mut padded = name.as_bytes().to_vec();
        padded.resize(8, 0);
        table.extend(padded);
        for value in [content.len(), address, length, size + body.len(), 0, 0, 0, 0x4000_0040] {
            table.extend(number(value));
        }
        body.extend_from_slice(content);
        body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
        address += content.len().next_multiple_of(PAGE);
    }
    // `IMAGE_OPTIONAL_HEADER64`
    let mut fields = [&[0x0b, 2][..], &[0; 30], &number(PAGE), &number(ALIGNMENT), &[0; 16]].concat();
    fields.extend([&number(address)[..], &number(size), &[0; 4], &[10, 0, 0, 0]].concat());
    fields.resize(usize::from(optional) - 4, 0);
    fields.extend(number(usize::from(directories)));
    fields.resize(usize::from(optional + directories * 8), 0);
    let mut bytes = [head, fields, table].concat();
    bytes.resize(size, 0);
    bytes.extend(body);
    bytes
}
