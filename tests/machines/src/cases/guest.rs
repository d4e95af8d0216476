//! The guest tests (`tests/kernel`): one program, run as root in machines of several kernels, one machine or two for each. Each
//! of its tests is a test here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::builders;
use crate::emulated::{self, Known};
use crate::guest::{Guest, Kind};
use crate::native::{Drive, RELEASES};
use crate::trial::{Need, Tier, Trial};

/// The fixture's disks, in the order in which the tests expect them.
const DISKS: [&str; 11] =
    ["disk", "btrfs", "plain", "xfs", "f2fs", "tiny", "blocks", "casefold", "names", "mirror-a", "mirror-b"];
/// What the names of the library's unit tests begin with.
const LIB: &str = "lib::";
/// Variables that reach the tests.
const PASSED_ON: [&str; 2] = ["SEALROOT_SEED", "RUST_BACKTRACE"];
/// The same in native machines only: emulated ones take ten times as long.
const COUNTS: [&str; 2] = ["SEALROOT_DISKS", "SEALROOT_CUTS"];

/// A kernel, and what runs on it.
#[derive(Clone, Debug)]
struct On {
    /// Part of the tests' names.
    name: String,
    kind: Kind,
    target: &'static str,
    tests: String,
    tier: Tier,
    needs: &'static [Need],
}

/// The machines, natively with each push and with Debian's own kernels before a release.
fn machines() -> Result<Vec<On>> {
    let native = RELEASES.map(|release| On {
        name: format!("native-{release}"),
        kind: Kind::Native(release.into()),
        target: "x86_64-unknown-linux-musl",
        tests: "native".into(),
        tier: Tier::Push,
        needs: &[],
    });
    let emulated = |known: Known| {
        let arm = known.architecture == "arm64";
        On {
            name: format!("stock-{}", known.name),
            kind: Kind::Emulated(known.name),
            target: if arm { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" },
            tests: known.tests,
            tier: Tier::All,
            needs: if arm { &[Need::QemuArm] } else { &[Need::Qemu] },
        }
    };
    Ok(native.into_iter().chain(emulated::kernels()?.into_iter().map(emulated)).collect())
}

/// The modules of tests that are meant for one kernel only, by `qemu/kernel --list`.
fn special() -> Result<Vec<String>> {
    Ok(emulated::kernels()?.into_iter().map(|known| known.tests).filter(|tests| tests != "all").collect())
}

impl On {
    /// Whether a test is meant for this kernel.
    fn runs(&self, test: &str, special: &[String]) -> bool {
        let module = test.split("::").next().unwrap_or_default();
        match self.tests.as_str() {
            // A native kernel has every filesystem built in: no modules, and it is never too old.
            "native" => !["too_old", "modules"].contains(&module),
            // The device mapper is not among the modules that `qemu/guest` loads.
            "all" => !["hanging", "power_cuts"].contains(&module) && !special.iter().any(|own| own == module),
            own => module == own,
        }
    }
}

/// What came of each test of a machine, or of the machine.
type Results = Result<BTreeMap<String, Outcome>, String>;

#[derive(Clone, Debug)]
struct Outcome {
    word: String,
    /// What the test printed.
    said: String,
}

/// All tests of one kernel, run at once when the first of them is asked for.
struct Batch {
    on: On,
    tests: Vec<String>,
    results: OnceLock<Results>,
}

impl Batch {
    fn outcome(&self, test: &str) -> Result<String> {
        let results = self.results.get_or_init(|| self.run().map_err(|error| format!("{error:#}")));
        let results = results.as_ref().map_err(|error| anyhow!("{error}"))?;
        let outcome = results.get(test).context("the machine has no result of it")?;
        ensure!(outcome.word == "ok", "{}\n{}", outcome.word, outcome.said);
        Ok(outcome.said.clone())
    }

    /// The release that must be running.
    fn release(&self) -> Result<String> {
        let folder = match &self.on.kind {
            Kind::Native(kernel) => builders::built("native-kernel", &[kernel])?,
            Kind::Emulated(kernel) => builders::built("kernel", &[kernel])?,
        };
        Ok(std::fs::read_to_string(folder.join("release"))?.trim().to_owned())
    }

    fn run(&self) -> Result<BTreeMap<String, Outcome>> {
        let On { name, kind, target, .. } = &self.on;
        let fixture = builders::built("fixture", &[])?;
        let programs = programs(target)?;
        let mut guest = Guest::new(kind.clone(), builders::logs("kernel")?.join(format!("{name}.log")));
        guest.memory = 2048;
        guest.limit = Duration::from_secs(2400);
        guest.drives = DISKS.map(|disk| Drive { file: fixture.join(disk), writable: false }).into();
        guest.files = vec![
            (programs.kernel, "/test".into()),
            (programs.lib, "/unit".into()),
            (fixture.join("env"), "/fixture.env".into()),
            (builders::built("program", &["sealroot-initrd", target])?, "/usr/lib/sealroot/sealroot-initrd".into()),
            (builders::built("program", &["sealroot", target])?, "/usr/bin/sealroot".into()),
        ];
        let variable = |name: &&str| Some((name.to_string(), std::env::var(name).ok()?));
        let counts: &[&str] = if matches!(kind, Kind::Native(_)) { &COUNTS } else { &[] };
        guest.environment = PASSED_ON.iter().chain(counts).filter_map(variable).collect();
        let script = "/test $OPTIONS $KERNEL; status=$?; echo lib tests; /unit $OPTIONS $LIB && exit $status";
        let (lib, kernel): (Vec<_>, Vec<_>) =
            self.tests.iter().map(String::as_str).partition(|test| test.starts_with(LIB));
        let lib: Vec<_> = lib.iter().filter_map(|test| test.strip_prefix(LIB)).collect();
        // A filter that there is not lets all through.
        let named = |tests: Vec<&str>| if tests.is_empty() { "none".into() } else { tests.join(" ") };
        for (name, value) in [
            ("OPTIONS", "--test-threads=1 --show-output --exact".into()),
            ("KERNEL", named(kernel)),
            ("LIB", named(lib)),
        ] {
            guest.environment.push((name.into(), value));
        }
        let output = guest.run(&["sh", "-c", script], &mut crate::guest::silently)?;
        let (kernel, lib) = output.text.split_once("\nlib tests\n").context("the tests of the library did not run")?;
        let mut results = parse(kernel);
        results.extend(parse(lib).into_iter().map(|(name, outcome)| (format!("{LIB}{name}"), outcome)));
        // A status that no result explains must not go unnoticed.
        let explained = output.status == 0 || results.values().any(|outcome| outcome.word != "ok");
        ensure!(explained, "the tests ended with status {}: {}", output.status, output.text);
        let release = self.release()?;
        let started = format!("Linux version {release} ");
        ensure!(output.console.contains(&started), "expected '{started}' on the console of {name}");
        Ok(results)
    }
}

/// The results in what a test program of Rust's own harness printed.
fn parse(text: &str) -> BTreeMap<String, Outcome> {
    let mut results = BTreeMap::new();
    for line in text.lines() {
        let Some((name, word)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { continue };
        let name = name.split(" - ").next().unwrap_or(name);
        let start = format!("---- {name} stdout ----\n");
        let said = text.split_once(&start).map(|(_, rest)| rest.split("\n\n").next().unwrap_or(rest));
        results.insert(name.to_owned(), Outcome { word: word.into(), said: said.unwrap_or_default().into() });
    }
    results
}

/// The programs of the guest tests and of the unit tests of the library, which here run on the C library that the boot program
/// has.
#[derive(Clone, Debug)]
struct Programs {
    kernel: PathBuf,
    lib: PathBuf,
}

/// Both, built once for each target. Without debug information: it would have to be loaded into the guest's memory.
fn programs(target: &'static str) -> Result<Programs> {
    static BUILT: Mutex<BTreeMap<&'static str, Programs>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(programs) = built.get(target) {
        return Ok(programs.clone());
    }
    builders::ensure_target(target)?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(builders::project()).env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_STRIP", "true");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld").env_remove("RUSTFLAGS");
    cargo.args(["test", "--quiet", "--locked", "--no-run", "--message-format=json", "--target", target]);
    cargo.args(["--package", "sealroot", "--features", "guest", "--test", "kernel", "--lib"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), "the guest tests for {target} cannot be built: {}", output.status);
    let messages = String::from_utf8(output.stdout)?;
    let executable = |wanted: &str| {
        let named = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            (message["target"]["name"] == wanted).then(|| message["executable"].as_str().map(PathBuf::from))?
        };
        messages.lines().find_map(named).with_context(|| format!("cargo built no tests of '{wanted}'"))
    };
    let programs = Programs { kernel: executable("kernel")?, lib: executable("sealroot")? };
    built.insert(target, programs.clone());
    Ok(programs)
}

/// The names of the tests, from programs that this machine can start.
fn names(programs: &Programs) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (program, prefix) in [(&programs.kernel, ""), (&programs.lib, LIB)] {
        let output = Command::new(program).args(["--list", "--format", "terse"]).output().context("the guest tests")?;
        let text = String::from_utf8(output.stdout)?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        let before = all.len();
        all.extend(names.map(|name| format!("{prefix}{name}")));
        ensure!(all.len() > before, "there are no tests in {}", program.display());
    }
    Ok(all)
}

/// Every test on every kernel that it is meant for, as far as a filter lets them through. The machines take turns, so that
/// as many run at once as there are threads.
///
/// # Errors
/// The test program cannot be built.
pub fn trials(tier: Tier, filter: Option<&str>) -> Result<Vec<Trial>> {
    let (special, all) = (special()?, names(&programs("x86_64-unknown-linux-musl")?)?);
    let mut columns = Vec::new();
    for on in machines()?.into_iter().filter(|on| on.tier <= tier) {
        let full = |test: &str| format!("kernel::{}::{test}", on.name);
        let chosen = |test: &&String| on.runs(test, &special) && filter.is_none_or(|word| full(test).contains(word));
        let tests: Vec<_> = all.iter().filter(chosen).cloned().collect();
        let batch = Arc::new(Batch { on: on.clone(), tests: tests.clone(), results: OnceLock::new() });
        let trial = |test: String| {
            let batch = Arc::clone(&batch);
            Trial::new(full(&test), move || batch.outcome(&test)).tier(on.tier).needs(on.needs)
        };
        columns.push(tests.into_iter().map(trial).collect::<Vec<_>>().into_iter());
    }
    let mut trials = Vec::new();
    while columns.iter().any(|column| column.len() > 0) {
        trials.extend(columns.iter_mut().filter_map(Iterator::next));
    }
    Ok(trials)
}
