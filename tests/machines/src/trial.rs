//! A test: its name, when it runs, what it needs, and what it does.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

/// When a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// With each push.
    Push,
    /// Before a release.
    All,
}

impl Tier {
    /// The tier that was asked for: `SEALROOT_TIER`, `push` or `all`.
    ///
    /// # Errors
    /// Another word.
    pub fn chosen() -> Result<Self> {
        match env::var("SEALROOT_TIER").as_deref() {
            Err(_) | Ok("" | "push") => Ok(Self::Push),
            Ok("all") => Ok(Self::All),
            Ok(other) => bail!("SEALROOT_TIER: expected push or all, found '{other}'"),
        }
    }
}

/// What a test cannot do without. Where it is missing the test is ignored, and counted so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root: building a Debian, and mounting.
    Root,
    /// QEMU for this architecture.
    Qemu,
    /// A TPM for QEMU.
    Swtpm,
    /// QEMU for arm64.
    QemuArm,
    /// What counts instructions.
    Valgrind,
    /// Another program that computes digests.
    Fsverity,
}

impl Need {
    fn is_there(self) -> bool {
        let program = |name: &str| find_program(name).is_some();
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Qemu => program("qemu-system-x86_64") && Path::new("/usr/share/OVMF").is_dir(),
            Self::Swtpm => program("swtpm"),
            Self::QemuArm => program("qemu-system-aarch64"),
            Self::Valgrind => program("valgrind"),
            Self::Fsverity => program("fsverity"),
        }
    }
}

/// Where a program of this machine is.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// One test. Its name is `part::machine::case`; what it returns is a line about what was seen.
pub struct Trial {
    name: String,
    tier: Tier,
    waits: bool,
    needs: Vec<Need>,
    run: Box<dyn FnOnce() -> Result<String> + Send>,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").field("name", &self.name).field("tier", &self.tier).finish_non_exhaustive()
    }
}

impl Trial {
    /// A test that runs with each push and needs nothing.
    pub fn new(name: impl Into<String>, run: impl FnOnce() -> Result<String> + Send + 'static) -> Self {
        Self { name: name.into(), tier: Tier::Push, waits: false, needs: Vec::new(), run: Box::new(run) }
    }

    /// The same, run in another tier.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    /// The same, where that is there.
    #[must_use]
    pub fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    /// Whether it is one of this tier's.
    pub fn is_in(&self, tier: Tier) -> bool {
        self.tier <= tier
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, where it only looks at what another test does.
    #[must_use]
    pub fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// When it has its turn: long ones first, so that all processors are busy to the end, and at the end those that would only
    /// wait for others.
    pub fn turn(&self) -> u32 {
        if self.waits { 2 } else { u32::from(!self.name.contains("::firmware::")) }
    }

    /// For the harness.
    pub fn into_libtest(self) -> libtest_mimic::Trial {
        let Self { name, needs, run, .. } = self;
        let missing = needs.iter().any(|need| !need.is_there());
        let shown = name.clone();
        libtest_mimic::Trial::test(name, move || {
            let started = Instant::now();
            let outcome = run();
            let seen = outcome.as_deref().unwrap_or("not as it must be");
            println!("     {shown} ({:.1} s): {seen}", started.elapsed().as_secs_f32());
            outcome.map(drop).map_err(|error| format!("{error:#}").into())
        })
        .with_ignored_flag(missing)
    }
}
