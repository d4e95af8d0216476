//! The command `sealroot` as it is shipped: what needs root, and what would take the program of `cargo test` minutes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::builders::{built, scratch};
use crate::trial::{Need, Trial};

// Which fields the man page has; the quick tests look that up, too.
#[path = "../../../command/documented.rs"]
mod documented;

/// All tests; the others of the command are in `tests/command`, and with unified kernel images in [`super::uki`].
pub fn trials() -> Vec<Trial> {
    let digest = |algorithm: &'static str| {
        let name = format!("command::digest_{algorithm}_of_a_gigabyte");
        Trial::new(name, move || digest_of_a_gigabyte(algorithm)).needs(&[Need::Fsverity])
    };
    let probe = Trial::new("command::probe_without_fs_verity", probe_without_fs_verity).needs(&[Need::Root]);
    ["sha256", "sha512"].into_iter().map(digest).chain([probe]).collect()
}

/// What the command said.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The path of the command.
pub fn path() -> Result<PathBuf> {
    built("program", &["sealroot"])
}

/// Runs it.
pub fn sealroot(arguments: &[&str]) -> Result<Said> {
    run(&path()?, arguments)
}

/// Runs it, for an answer in JSON with this status. Each field of that must be in the man page.
pub fn answer(status: i32, arguments: &[&str]) -> Result<Value> {
    let said = sealroot(&[&["--json"], arguments].concat())?;
    ensure!(said.status == Some(status), "status: expected {status}, found {said:?}");
    let answer = serde_json::from_str(&said.out).with_context(|| format!("{arguments:?}: no JSON: {said:?}"))?;
    let fields = documented::fields(&answer);
    ensure!(!fields.is_empty(), "{arguments:?}: expected fields in the answer, found none");
    let missing = documented::undocumented(&fields);
    ensure!(missing.is_empty(), "man/sealroot.1: expected all fields of {arguments:?}, found none of {missing:?}");
    Ok(answer)
}

fn run(program: &Path, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    Ok(Said {
        status: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

/// Of SHA-512, such a file needs a fourth level of hashes, by one byte.
fn digest_of_a_gigabyte(algorithm: &str) -> Result<String> {
    let folder = scratch()?;
    let file = folder.path().join("file");
    let written = File::create(&file)?;
    written.set_len(1 << 30 | 1)?;
    // Something else in each MiB, so that no two hashes of the upper levels are alike; most of it is a hole.
    for number in 0..1024_u64 {
        written.write_all_at(&number.to_le_bytes(), number << 20)?;
    }
    let file = file.to_str().context("a path in UTF-8")?;
    let ours = sealroot(&["digest", "--algorithm", algorithm, file])?;
    let theirs = run(Path::new("fsverity"), &["digest", &format!("--hash-alg={algorithm}"), file])?;
    ensure!(theirs.status == Some(0), "fsverity: {}", theirs.err);
    ensure!(
        ours.status == Some(0) && ours.out == theirs.out,
        "expected {}, found {} (status {:?}) {}",
        theirs.out.trim_end(),
        ours.out.trim_end(),
        ours.status,
        ours.err
    );
    Ok(String::new())
}

/// No kernel has fs-verity on a tmpfs.
fn probe_without_fs_verity() -> Result<String> {
    let folder = tempfile::tempdir_in("/dev/shm").context("/dev/shm")?;
    let answer = answer(1, &["probe", "--repo", folder.path().to_str().context("a path in UTF-8")?])?;
    let feature = &answer["result"]["features"][0];
    ensure!(feature["needed"] == true && feature["found"] == false, "expected it needed and not found: {feature}");
    Ok(feature["feature"].to_string())
}
