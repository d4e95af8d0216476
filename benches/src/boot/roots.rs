//! The roots that are booted: the same Debian, sealed, on dm-verity, and on plain ext4.
//!
//! What mounts the root differs, and what goes with it: the initramfs of dm-verity has dracut's modules systemd-veritysetup
//! and dm (1 MB of drivers), that of ext4 nothing. dm-verity is the ext4 image of the third with a hash tree beside it.
//! The sealed one has the default config (`check = "image"`) and so a writable /etc, the others have a read-only one. /var
//! is empty and in memory, so that a read-only root comes up without complaints, and nothing is made anew as on a first
//! boot, which an empty /var looks like. composefs has SHA-512 by default and dm-verity SHA-256: the seal with SHA-256
//! tells what the algorithm costs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use machines::builders::{built, values};

use crate::machine::Kind;
use crate::start::SEALED;

/// Of qemu/disk and qemu/peer-disk.
const ROOT: &str = "PARTUUID=5ea17007-0000-4000-8000-000000000003";
const HASHES: &str = "PARTUUID=5ea17007-0000-4000-8000-000000000004";

/// What the booted system runs, as a part of the command line: without double quotes, and systemd makes $ of $$. It waits
/// until the drivers that come late are loaded. Files are read in the order of their names, which is the order of no disk.
const GUEST: &str = "systemctl start multi-user.target; udevadm settle; sleep 1; echo 3 >/proc/sys/vm/drop_caches;
  read from idle </proc/uptime;
  find /usr -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 cat >/dev/null; read to idle </proc/uptime;
  echo boot-times: kernel=$$(uname -r) root=$$(findmnt -no SOURCE /) from=$$from to=$$to
  $$(systemctl show -p InitRDTimestampMonotonic,UserspaceTimestampMonotonic)
  multi-user=$$(systemctl show --value -p ActiveEnterTimestampMonotonic multi-user.target) >/dev/console";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Sealed, with SHA-512 or SHA-256.
    Sealed(&'static str),
    /// dm-verity below ext4.
    DmVerity,
    /// ext4 alone.
    Ext4,
}

/// In the order of the table; the last is what all are compared with.
pub const ROOTS: [Root; 4] = [Root::Sealed("sha512"), Root::Sealed("sha256"), Root::DmVerity, Root::Ext4];

impl Root {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sealed("sha512") => "sealed-sha512",
            Self::Sealed(_) => "sealed-sha256",
            Self::DmVerity => "dm-verity",
            Self::Ext4 => "ext4",
        }
    }

    /// The disk that has it. Its ESP is empty.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn disk(self) -> Result<PathBuf> {
        match self {
            Self::Sealed(algorithm) => built("disk", &[algorithm]),
            Self::DmVerity | Self::Ext4 => Ok(built("peer-disk", &[])?.join("disk")),
        }
    }

    /// What the system says that its / is mounted from.
    ///
    /// # Errors
    /// The image's digest is not known.
    pub fn source(self, kind: Kind) -> Result<String> {
        Ok(match self {
            Self::Sealed(algorithm) => format!("composefs:{}", digest(algorithm)?),
            Self::DmVerity => "/dev/mapper/root".to_owned(),
            Self::Ext4 => kind.partition(2),
        })
    }

    /// The initramfs without firmware's image around it.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn initramfs(self) -> Result<PathBuf> {
        built("initramfs", self.peer())
    }

    /// The signed image that firmware starts.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn uki(self) -> Result<PathBuf> {
        let arguments = self.arguments()?;
        let mut options = self.peer().to_vec();
        // A sealed command line begins with the digest, which is what qemu/uki takes.
        if !matches!(self, Self::Sealed(_)) {
            options.extend(["--root", self.device()]);
        }
        options.extend(arguments.iter().map(String::as_str));
        built("uki", &options)
    }

    /// The command line without what a machine needs.
    ///
    /// # Errors
    /// A digest is not known.
    pub fn command_line(self) -> Result<Vec<String>> {
        let mut line = vec![format!("root={}", self.device()), "rw".to_owned(), "systemd.show_status=yes".to_owned()];
        line.extend(SEALED.split(' ').map(str::to_owned));
        line.extend(self.arguments()?);
        Ok(line)
    }

    fn device(self) -> &'static str {
        if self == Self::DmVerity { "/dev/mapper/root" } else { ROOT }
    }

    fn peer(self) -> &'static [&'static str] {
        match self {
            Self::Sealed(_) => &[],
            Self::DmVerity => &["--peer", "dm-verity"],
            Self::Ext4 => &["--peer", "plain"],
        }
    }

    /// What makes this root, and what is the same for all.
    fn arguments(self) -> Result<Vec<String>> {
        let mut arguments = match self {
            Self::Sealed(algorithm) => vec![format!("composefs.digest=v1-{algorithm}-12:{}", digest(algorithm)?)],
            Self::DmVerity => {
                let hash = fs::read_to_string(built("peer-disk", &[])?.join("roothash")).context("roothash")?;
                vec![
                    format!("roothash={}", hash.trim_end()),
                    format!("systemd.verity_root_data={ROOT}"),
                    format!("systemd.verity_root_hash={HASHES}"),
                    "ro".to_owned(),
                ]
            }
            Self::Ext4 => vec!["ro".to_owned()],
        };
        let common = [
            "systemd.volatile=state",
            "systemd.condition_needs_update=no",
            "systemd.wants=multi-user.target",
            "systemd.mask=sealroot-probe.service",
            "systemd.run_success_action=poweroff-force",
            "systemd.run_failure_action=poweroff-force",
        ];
        arguments.extend(common.map(str::to_owned));
        let words: Vec<_> = GUEST.split_whitespace().collect();
        arguments.push(format!("systemd.run=\"/bin/sh -ec '{}'\"", words.join(" ")));
        Ok(arguments)
    }
}

/// The digest of the image that is booted.
fn digest(algorithm: &str) -> Result<String> {
    let name = format!("{}_V1", algorithm.to_uppercase());
    let mut values = values(&built("repository", &[])?.join("env"))?;
    values.remove(&name).with_context(|| format!("the repository: expected a value {name}, found none"))
}
