//! How many instructions pure parts of the boot program execute, against `tests/instructions/figures`.
//!
//! callgrind counts, on a processor that it simulates: however fast the machine is and whatever else it does, the figures
//! are the same. More than 10 % above is a failure, and so is more than 10 % below, until the figures are lowered:
//! otherwise what became cheaper could become dearer again unnoticed. `SEALROOT_UPDATE=1` writes them anew.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::builders::{ensure_target, project, scratch};
use crate::trial::{Need, Trial, find_program};

const PARTS: [&str; 5] = ["command-line", "sealroot.toml", "setup-root-conf.toml", "policy", "image"];
/// The C library is part of what is counted, and glibc's chooses its functions by the processor.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// In per cent.
const TOLERANCE: u64 = 10;
const COMPILER: &str = "# compiler: ";

/// A test for each part.
pub fn trials() -> Vec<Trial> {
    PARTS.map(|part| Trial::new(format!("instructions::{part}"), || judge(part)).needs(&[Need::Valgrind])).into()
}

fn judge(part: &'static str) -> Result<String> {
    let found = instructions(part)?;
    let compiler = output(Command::new("rustc").arg("-V"))?.trim_end().to_owned();
    // The tests of the other parts may write to the file.
    static FILE: Mutex<()> = Mutex::new(());
    let _only = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if env::var_os("SEALROOT_UPDATE").is_some_and(|value| !value.is_empty()) {
        update(part, found, &compiler)?;
    }
    let figures = Figures::read()?;
    compare(figures.count(part)?, found).map_err(|error| {
        if figures.compiler == compiler {
            return error;
        }
        anyhow!("{error}; the figures are those of {}, and this is {compiler}", figures.compiler)
    })?;
    Ok(found.to_string())
}

/// Fails unless a count is near its figure.
fn compare(expected: u64, found: u64) -> Result<()> {
    if found * 100 > expected * (100 + TOLERANCE) {
        bail!("expected {expected} instructions, found {found}: more than {TOLERANCE} % above");
    }
    if found * 100 < expected * (100 - TOLERANCE) {
        bail!(
            "expected {expected} instructions, found {found}: more than {TOLERANCE} % below, lower the figures \
             (SEALROOT_UPDATE=1)"
        );
    }
    Ok(())
}

/// How many a part takes.
fn instructions(part: &str) -> Result<u64> {
    static PROGRAM: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| build().map_err(|error| format!("{error:#}")));
    let program = PROGRAM.as_ref().map_err(|error| anyhow!("{error}"))?;
    let (with, without) = (executed(program, part, "1")?, executed(program, part, "0")?);
    ensure!(with > without && without > 0, "{part}: callgrind counted {with} with it and {without} without it");
    Ok(with - without)
}

/// Builds what is counted as the boot program is built, and gives the path of the file.
fn build() -> Result<PathBuf> {
    ensure_target(TARGET)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--locked", "--example", "instructions", "--target", TARGET]);
    output(cargo.current_dir(project()).env_remove("RUSTFLAGS"))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release/examples/instructions"))
}

/// How many instructions the program executes that does a part so often. Without an environment, which it would find on
/// its stack.
fn executed(program: &Path, part: &str, times: &str) -> Result<u64> {
    let folder = scratch()?;
    let counts = folder.path().join("counts");
    let mut valgrind = Command::new(find_program("valgrind").context("valgrind: not found")?);
    valgrind.env_clear().arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", counts.display()));
    output(valgrind.arg(program).args([part, times]))?;
    let text = fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.context("callgrind: expected a line 'totals:', found none")?.parse().context("callgrind: totals")
}

/// What a command prints.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, said.trim_end());
    Ok(String::from_utf8(output.stdout)?)
}

/// The file of the figures.
#[derive(Default)]
struct Figures {
    compiler: String,
    counts: Vec<(String, u64)>,
}

impl Figures {
    fn path() -> PathBuf {
        project().join("tests/instructions/figures")
    }

    fn read() -> Result<Self> {
        let path = Self::path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut figures = Self::default();
        for line in text.lines() {
            if let Some(compiler) = line.strip_prefix(COMPILER) {
                figures.compiler = compiler.to_owned();
            } else if !line.starts_with('#') {
                let (part, count) = line.split_once(' ').with_context(|| format!("figures: '{line}'"))?;
                figures.counts.push((part.into(), count.parse().with_context(|| format!("figures: '{line}'"))?));
            }
        }
        Ok(figures)
    }

    fn count(&self, part: &str) -> Result<u64> {
        let found: Vec<_> = self.counts.iter().filter(|(name, _)| name == part).map(|(_, count)| *count).collect();
        match found.as_slice() {
            [count] if *count > 0 => Ok(*count),
            _ => bail!("expected one figure of '{part}' in tests/instructions/figures, found {found:?}"),
        }
    }
}

/// Writes one figure anew.
fn update(part: &'static str, found: u64, compiler: &str) -> Result<()> {
    let old = Figures::read()?;
    let mut text =
        format!("# The instructions of each part, as SEALROOT_UPDATE=1 had them counted.\n{COMPILER}{compiler}\n");
    for name in PARTS {
        let known = old.counts.iter().find(|(known, _)| known == name).map(|(_, count)| *count);
        if let Some(count) = if name == part { Some(found) } else { known } {
            writeln!(text, "{name} {count}")?;
        }
    }
    Ok(fs::write(Figures::path(), text)?)
}
