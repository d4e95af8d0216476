//! Checks a composefs repository with composefs-rs's own library, as `cfsctl fsck` does.
//!
//! `repository-fsck sha256|sha512 REPOSITORY` prints how much was checked; status 0 when all is well.

use anyhow::{Result, bail};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use composefs::repository::Repository;
use rustix::fs::CWD;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [algorithm, repository] = args.as_slice() else { bail!("usage: repository-fsck sha256|sha512 REPOSITORY") };
    let runtime = tokio::runtime::Runtime::new()?;
    match algorithm.as_str() {
        "sha256" => runtime.block_on(fsck::<Sha256HashValue>(repository)),
        "sha512" => runtime.block_on(fsck::<Sha512HashValue>(repository)),
        _ => bail!("unknown algorithm '{algorithm}'"),
    }
}

async fn fsck<ObjectID: FsVerityHashValue>(path: &str) -> Result<()> {
    let result = Repository::<ObjectID>::open_path(CWD, path)?.fsck().await?;
    println!("{} objects, {} images", result.objects_checked, result.images_checked);
    if !result.is_ok() {
        bail!("{:?}", result.errors);
    }
    Ok(())
}
