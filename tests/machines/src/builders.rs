//! What the scripts of `qemu/` build and keep in the cache. Each prints the path of what it built.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

/// The folder of the project.
pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

type Memory = Mutex<HashMap<Vec<String>, Arc<OnceLock<Result<String, String>>>>>;

/// Runs a script of `qemu/` with arguments, once in this process however often it is asked for, and gives what it prints.
///
/// # Errors
/// The script fails.
pub fn built(script: &str, arguments: &[&str]) -> Result<PathBuf> {
    static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::default);
    let key: Vec<String> = [script].iter().chain(arguments).map(ToString::to_string).collect();
    let cell = Arc::clone(MEMORY.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
    let printed = cell.get_or_init(|| run(script, arguments).map_err(|error| format!("{error:#}")));
    printed.clone().map(PathBuf::from).map_err(|error| anyhow!(error))
}

/// Runs a script of `qemu/` with arguments that name files of a test's own.
///
/// # Errors
/// The script fails.
pub fn built_anew(script: &str, arguments: &[&str]) -> Result<PathBuf> {
    run(script, arguments).map(PathBuf::from)
}

fn run(script: &str, arguments: &[&str]) -> Result<String> {
    let path = project().join("qemu").join(script);
    let output = Command::new(&path)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| path.display().to_string())?;
    ensure!(output.status.success(), "qemu/{script} {}: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Has rustup add what programs for a compilation target need, where it is not there.
///
/// # Errors
/// It cannot be had.
pub fn ensure_target(target: &str) -> Result<()> {
    let output =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output().context("rustc")?;
    ensure!(output.status.success(), "rustc knows no target {target}: {}", String::from_utf8_lossy(&output.stderr));
    if Path::new(String::from_utf8(output.stdout)?.trim_end()).is_dir() {
        return Ok(());
    }
    let status = Command::new("rustup").args(["target", "add", target]).status().context("rustup")?;
    ensure!(status.success(), "rustup target add {target}: {status}");
    Ok(())
}

/// A file of `NAME=VALUE` lines.
///
/// # Errors
/// It cannot be read.
pub fn values(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect())
}

/// The folder in which everything is kept that is worth building once.
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".cache"))
        .join("sealroot")
}

/// A folder that goes when it is dropped.
///
/// # Errors
/// It cannot be made.
pub fn scratch() -> Result<TempDir> {
    let parent = cache().join("tmp");
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    tempfile::Builder::new().prefix("test.").tempdir_in(&parent).with_context(|| parent.display().to_string())
}

/// Where the consoles of a part's machines are kept.
///
/// # Errors
/// The folder cannot be made.
pub fn logs(part: &str) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let folder = target.join("machines").join(part);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}
