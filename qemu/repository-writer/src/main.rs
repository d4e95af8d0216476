//! Turns a root folder into a composefs repository, with composefs-rs's own library.
//!
//! `repository-writer sha256|sha512 ROOT REPOSITORY FORMAT...` adds the files of `ROOT` to `REPOSITORY` (made when
//! missing) and writes one image for each `FORMAT` (`v1`, `v2`), as `cfsctl create-image` does. Prints one line
//! `FORMAT DIGEST` per image. fs-verity is not needed here: a machine that has it enables it later.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use composefs::{
    erofs::format::{FormatConfig, FormatVersion},
    fs::{is_allowed_container_xattr, read_container_root, read_filesystem_filtered},
    fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    generic_tree::OciTransformOptions,
    repository::{Repository, RepositoryConfig},
};
use rustix::fs::{CWD, Mode, OFlags, openat};

/// A root with this has labels on its files.
const POLICY: &str = "etc/selinux/config";
const LABEL: &str = "security.selinux";
const USAGE: &str = "usage: repository-writer sha256|sha512 ROOT REPOSITORY v1|v2...";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [algorithm, root, repository, formats @ ..] = args.as_slice() else {
        bail!(USAGE);
    };
    if formats.is_empty() {
        bail!(USAGE);
    }
    let formats = formats.iter().map(|name| parse_format(name)).collect::<Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (root, repository) = (Path::new(root), Path::new(repository));
    match algorithm.as_str() {
        "sha256" => runtime.block_on(write::<Sha256HashValue>(Algorithm::SHA256, root, repository, &formats)),
        "sha512" => runtime.block_on(write::<Sha512HashValue>(Algorithm::SHA512, root, repository, &formats)),
        _ => bail!(USAGE),
    }
}

fn parse_format(name: &str) -> Result<FormatVersion> {
    match name {
        "v1" => Ok(FormatVersion::V1),
        "v2" => Ok(FormatVersion::V2),
        _ => bail!("unknown image format '{name}': expected v1 or v2"),
    }
}

fn format_name(format: FormatVersion) -> &'static str {
    match format {
        FormatVersion::V0 => "v0",
        FormatVersion::V1 => "v1",
        FormatVersion::V2 => "v2",
    }
}

async fn write<ObjectID: FsVerityHashValue>(
    algorithm: Algorithm,
    root: &Path,
    repository: &Path,
    formats: &[FormatVersion],
) -> Result<()> {
    let repository = Arc::new(open_or_init::<ObjectID>(algorithm, repository, formats)?);
    let here: OwnedFd = openat(CWD, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (path, objects) = (PathBuf::from(root), Some(Arc::clone(&repository)));
    let tree = if root.join(POLICY).exists() {
        // The labels are the policy's. Those of a container would be the host's.
        let kept = |name: &OsStr| is_allowed_container_xattr(name) || name == LABEL;
        read_filesystem_filtered(here, path, objects, kept).await
    } else {
        read_container_root(here, path, objects, &OciTransformOptions::default()).await
    };
    let tree = tree.with_context(|| format!("reading root {}", root.display()))?;
    for &format in formats {
        let digest = tree.commit_image_version(&repository, format, None)?;
        println!("{} {}", format_name(format), digest.to_hex());
    }
    Ok(())
}

/// Opens the repository, or makes it with the formats asked for, the first of them the default.
fn open_or_init<ObjectID: FsVerityHashValue>(
    algorithm: Algorithm,
    path: &Path,
    formats: &[FormatVersion],
) -> Result<Repository<ObjectID>> {
    if path.join("meta.json").exists() {
        return Ok(Repository::open_path(CWD, path)?);
    }
    let mut config = RepositoryConfig::new(algorithm).set_insecure();
    let default = formats.first().copied().unwrap_or_default();
    config.erofs_formats = FormatConfig {
        default,
        extra: BTreeSet::from_iter(formats.iter().copied().filter(|&format| format != default)),
    };
    Ok(Repository::init_path(CWD, path, config)?.0)
}
