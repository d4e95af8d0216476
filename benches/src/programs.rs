//! The programs that are measured, ours and those of others, and what measures them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use machines::builders::{self, project};
use serde_json::Value;

use crate::cache;
use crate::process::{output, run};

const PEER: &str = "composefs-setup-root";
const PEER_VERSION: &str = "0.9.4";
const GNU: &str = "x86_64-unknown-linux-gnu";
const MUSL: &str = "x86_64-unknown-linux-musl";

/// Which C library a program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// This machine's, as distributions build programs.
    Dynamically,
    /// One of its own.
    Statically,
}

/// The boot program, static, for an initramfs.
///
/// # Errors
/// It cannot be built.
pub fn boot_program() -> Result<PathBuf> {
    builders::built("program", &["sealroot-initrd"])
}

/// The command `sealroot`, as distributions build it.
///
/// # Errors
/// It cannot be built.
pub fn command() -> Result<PathBuf> {
    cargo(&["--profile", "cli", "--features", "cli", "--bin", "sealroot"], Linked::Dynamically, project())
}

/// What measures starts in a machine.
///
/// # Errors
/// It cannot be built.
pub fn start_meter() -> Result<PathBuf> {
    cargo(&["--release", "--package", "start-meter"], Linked::Statically, project())
}

/// composefs-rs's check of a repository.
///
/// # Errors
/// It cannot be built.
pub fn repository_fsck() -> Result<PathBuf> {
    cargo(&["--release"], Linked::Dynamically, &project().join("benches/repository-fsck"))
}

/// What turns a tree into a composefs repository.
///
/// # Errors
/// It cannot be built.
pub fn repository_writer() -> Result<PathBuf> {
    cargo(&["--release"], Linked::Dynamically, &project().join("qemu/repository-writer"))
}

/// What enables fs-verity on the objects of a repository.
///
/// # Errors
/// It cannot be built.
pub fn verity_enabler() -> Result<PathBuf> {
    cargo(&["--release"], Linked::Statically, &project().join("qemu/verity-enabler"))
}

/// The peer of the boot program.
///
/// # Errors
/// It cannot be built.
pub fn peer(linked: Linked) -> Result<PathBuf> {
    let flags = if linked == Linked::Statically { "-Ctarget-feature=+crt-static" } else { "" };
    let compiler = output(Command::new("rustc").arg("--version"))?;
    let folder = cache::cached("peer", &[PEER_VERSION, &compiler, flags].map(str::as_bytes), |new| {
        eprintln!("building {PEER} {PEER_VERSION} …");
        run(Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--target", GNU, &format!("{PEER}@{PEER_VERSION}")])
            .args([Path::new("--root"), new, Path::new("--target-dir"), &new.join("target")])
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_TARGET_DIR"))?;
        fs::remove_dir_all(new.join("target"))?;
        run(Command::new("strip").arg(new.join("bin").join(PEER)))
    })?;
    Ok(folder.join("bin").join(PEER))
}

/// The floor: the system calls of the mount, and no check. It goes with `folder`.
///
/// # Errors
/// It cannot be built.
pub fn floor(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("floor");
    let source = project().join("benches/floor.c");
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"])
        .args([&program, &source]))?;
    Ok(program)
}

/// The libraries that programs are linked to, each with its path in a machine that runs them.
///
/// # Errors
/// ldd fails.
pub fn libraries(programs: &[&Path]) -> Result<Vec<(PathBuf, String)>> {
    let mut paths: Vec<String> = output(Command::new("ldd").args(programs))?
        .split_whitespace()
        .filter(|word| word.starts_with('/') && word.contains(".so"))
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths.into_iter().map(|path| (PathBuf::from(&path), path)).collect())
}

/// Builds the one program that the arguments name, of the workspace at `folder`.
fn cargo(arguments: &[&str], linked: Linked, folder: &Path) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--quiet", "--message-format=json-render-diagnostics"]).args(arguments);
    command.current_dir(folder).env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    if folder != project() {
        // As the scripts of qemu/ do: they find it built, and the project keeps nothing of it.
        let name = folder.file_name().context("a crate without a name")?;
        command.arg("--target-dir").arg(builders::cache().join("target").join(name));
    }
    if linked == Linked::Statically {
        let target = static_target()?;
        command.args(["--target", target]);
        if target == GNU {
            command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
        }
    }
    let messages = output(&mut command).with_context(|| format!("building in {}", folder.display()))?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next_back().with_context(|| format!("cargo build {}: expected a program, found none", arguments.join(" ")))
}

/// The target for static programs: musl, or glibc where that is not installed and rustup cannot add it.
fn static_target() -> Result<&'static str> {
    let system = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(system.trim_end()).join("lib/rustlib").join(MUSL).join("lib");
    let added = || run(Command::new("rustup").args(["target", "add", MUSL])).is_ok();
    Ok(if library.is_dir() || added() { MUSL } else { GNU })
}
