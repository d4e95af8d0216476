//! What all boots share: the sealed Debian, the digests of its images, and the names that a table uses for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use regex::Regex;

use crate::builders;
use crate::disk;

/// Which Debian is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debian {
    /// As it comes.
    Plain,
    /// With its SELinux policy, enforced.
    Selinux,
    /// The next one, with a newer systemd.
    Forky,
}

impl Debian {
    /// What the scripts of `qemu/` are told to take it.
    pub fn option(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Selinux => &["--debian", "selinux"],
            Self::Forky => &["--debian", "forky"],
        }
    }
}

/// The sealed Debian and its repository.
#[derive(Debug)]
pub struct World {
    debian: Debian,
    values: BTreeMap<String, String>,
    repository: PathBuf,
    /// The Debian root that was sealed.
    pub rootfs: PathBuf,
}

/// What encrypts a disk in tests; no secret, and always the same, so that the initramfs that has it need not be made again.
pub const LUKS_KEY: &[u8] = b"a key that everyone knows";

impl World {
    /// The one that most boots share, built when it is asked for.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn get() -> Result<&'static Self> {
        Self::of(Debian::Plain)
    }

    /// That of a Debian.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn of(debian: Debian) -> Result<&'static Self> {
        static PLAIN: OnceLock<Result<World, String>> = OnceLock::new();
        static SELINUX: OnceLock<Result<World, String>> = OnceLock::new();
        static FORKY: OnceLock<Result<World, String>> = OnceLock::new();
        let world = match debian {
            Debian::Plain => &PLAIN,
            Debian::Selinux => &SELINUX,
            Debian::Forky => &FORKY,
        };
        let world = world.get_or_init(|| Self::build(debian).map_err(|error| format!("{error:#}")));
        world.as_ref().map_err(|error| anyhow!("{error}"))
    }

    fn build(debian: Debian) -> Result<Self> {
        let repository = builders::built("repository", debian.option())?;
        let values = builders::values(&repository.join("env"))?;
        let rootfs = builders::built("rootfs", debian.option())?.join("root");
        Ok(Self { debian, values, repository, rootfs })
    }

    /// A value by the name that the repository has for it: `SHA512_V1`.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self, name: &str) -> Result<&str> {
        if name.starts_with("PREPARED") {
            static PREPARED: OnceLock<Result<BTreeMap<String, String>, String>> = OnceLock::new();
            let read = || builders::values(&builders::built("prepared", &[])?.join("env"));
            let values = PREPARED.get_or_init(|| read().map_err(|error| format!("{error:#}")));
            let values = values.as_ref().map_err(|error| anyhow!("{error}"))?;
            return values.get(name).map(String::as_str).with_context(|| format!("there is no value {name}"));
        }
        self.values.get(name).map(String::as_str).with_context(|| format!("the repository has no value {name}"))
    }

    /// The image that most tests boot, as it was written, without fs-verity.
    ///
    /// # Errors
    /// The repository lacks it.
    pub fn image_file(&self) -> Result<PathBuf> {
        Ok(self.repository.join("sha512/composefs").join(object(self.value("SHA512_V1")?)))
    }

    /// Puts what they stand for in the place of names in braces:
    ///
    /// - `{digest}` the digest of the image that most tests boot, `{other}` of another good one, `{half}` of none
    /// - `{karg}` what asks for the first, `{image}` how messages name it, `{image_object}` its object
    /// - `{state}` the state directory of its deployment, `{canary}` a file that no boot reads, `{canary_object}`
    /// - `{object:/path}` the object of a file of the sealed Debian, `{measured:/path}` its digest, `{measured_hex:/path}` the
    ///   same without the algorithm,
    ///   `{expected:/path}` how messages say what is expected of it
    /// - `{other_object}` the object of the other image, `{grown_size}` the size of the image and one block more
    ///
    /// Any other name is one of the repository's: `{SHA512_V2}`.
    ///
    /// # Errors
    /// There is no such name.
    pub fn fill(&self, text: &str) -> Result<String> {
        static NAME: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\{([A-Za-z][A-Za-z0-9_]*)(?::([^}]*))?\}").expect("a pattern"));
        let mut filled = String::new();
        let mut end = 0;
        for found in NAME.captures_iter(text) {
            let (whole, name) = (found.get(0).context("a match")?, &found[1]);
            filled += &text[end..whole.start()];
            filled += &self.named(name, found.get(2).map(|argument| argument.as_str()).unwrap_or_default())?;
            end = whole.end();
        }
        Ok(filled + &text[end..])
    }

    fn named(&self, name: &str, argument: &str) -> Result<String> {
        let digest = self.value("SHA512_V1")?;
        Ok(match name {
            "digest" => digest.into(),
            "other" => self.value("SHA512_OTHER")?.into(),
            "half" => digest[..64].repeat(2),
            "karg" => format!("composefs.digest=v1-sha512-12:{digest}"),
            "image" => format!("image 'images/{digest}'"),
            "image_object" => object(digest),
            "grown_size" => (self.image_file()?.metadata()?.len() + 4096).to_string(),
            "other_object" => object(self.value("SHA512_OTHER")?),
            "state" => format!("state/deploy/{digest}"),
            "canary" => self.value("CANARY")?.into(),
            "canary_object" => self.value("CANARY_OBJECT_SHA512")?.into(),
            "object" => object(&self.digest_of(argument)?),
            "measured" => format!("sha512:{}", self.digest_of(argument)?),
            "measured_hex" => self.digest_of(argument)?,
            "expected" => {
                let digest = self.digest_of(argument)?;
                format!("object '{}': expected sha512:{digest}", object(&digest))
            }
            other => self.value(other)?.into(),
        })
    }

    /// The fs-verity digest of a file of the sealed Debian, SHA-512.
    fn digest_of(&self, path: &str) -> Result<String> {
        let file = self.rootfs.join(path.trim_start_matches('/'));
        let mut command = Command::new("fsverity");
        command.args(["digest", "--compact", "--hash-alg=sha512", "--block-size=4096"]).arg(&file);
        let output = command.output().context("fsverity")?;
        ensure!(output.status.success(), "fsverity: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().into())
    }

    /// The disk image with the repository of an algorithm.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn disk(&self, algorithm: &str, filesystem: &str) -> Result<PathBuf> {
        builders::built("disk", &[algorithm, self.debian.option().last().copied().unwrap_or(filesystem)])
    }

    /// systemd-boot of the sealed Debian, signed with the key that the firmware knows.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn signed_loader(&self) -> Result<&'static [u8]> {
        static LOADER: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
        let loader = LOADER.get_or_init(|| self.sign_loader().map_err(|error| format!("{error:#}")));
        loader.as_deref().map_err(|error| anyhow!("{error}"))
    }

    fn sign_loader(&self) -> Result<Vec<u8>> {
        let folder = builders::scratch()?;
        let (key, path) = (folder.path().join("key"), folder.path().join("loader.efi"));
        let mut decrypt = Command::new("openssl");
        decrypt.args(["rsa", "-in", "/usr/share/ovmf/PkKek-1-snakeoil.key", "-passin", "pass:snakeoil", "-out"]);
        disk::run(decrypt.arg(&key))?;
        let unsigned = self.rootfs.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
        sign(&unsigned, &key, Path::new("/usr/share/ovmf/PkKek-1-snakeoil.pem"), &path)?;
        Ok(fs::read(path)?)
    }

    /// Where in the image something is, as a block of the file and a byte of the block.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn place(&self, place: Place) -> Result<(u64, u64)> {
        let image = File::open(self.image_file()?)?;
        let size = image.metadata()?.len();
        // struct erofs_super_block, which begins at byte 1024.
        let field = |offset: u64, bytes: usize| -> Result<u64> {
            let mut number = [0; 8];
            image.read_exact_at(&mut number[..bytes], 1024 + offset)?;
            Ok(u64::from_le_bytes(number))
        };
        // fs-verity keeps its Merkle tree behind the file, from the next multiple of 64 KiB on, and its descriptor behind
        // that.
        let merkle = size.next_multiple_of(65536) / 4096;
        Ok(match place {
            Place::Header => (0, 1030),
            Place::InodeTable => (field(40, 4)? + field(14, 2)? * 32 / 4096, 100),
            Place::Xattrs => (field(44, 4)?, 20),
            Place::LastByte => ((size - 1) / 4096, (size - 1) % 4096),
            Place::Merkle => (merkle, 5),
            Place::Descriptor(byte) => {
                let (mut level, mut blocks) = (size.div_ceil(4096), 0);
                while level > 1 {
                    level = level.div_ceil(64);
                    blocks += level;
                }
                (merkle + blocks, byte)
            }
        })
    }
}

/// Part of the image file, or of what fs-verity keeps behind it.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The EROFS superblock.
    Header,
    /// The block of the root's inode.
    InodeTable,
    /// Shared extended attributes.
    Xattrs,
    /// The last byte of the file.
    LastByte,
    /// The first block of the Merkle tree.
    Merkle,
    /// A byte of the fs-verity descriptor.
    Descriptor(u64),
}

/// Where the repository keeps what has this digest.
pub fn object(digest: &str) -> String {
    let (folder, name) = digest.split_at(2);
    format!("objects/{folder}/{name}")
}

/// Signs a program for UEFI.
///
/// # Errors
/// sbsign fails.
pub fn sign(program: &Path, key: &Path, certificate: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("sbsign");
    command.arg("--key").arg(key).arg("--cert").arg(certificate).arg("--output").args([to, program]);
    disk::run(&mut command)
}
