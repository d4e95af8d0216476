//! One boot: what is done to the machine, and what must come of it. Built up like a sentence, for the tables.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::expect::{self, Expected, Must};
use super::world::{LUKS_KEY, Place, World};
use crate::archive::{self, Archive};
use crate::builders;
use crate::console::{Console, Until};
use crate::disk::{Block, Change, Disk};
use crate::firmware::Firmware;
use crate::native::{Drive, Native};
use crate::process;
use crate::trial::{Need, Tier, Trial};

/// What is on the command line of every sealed system: no credentials from outside, no mounts from a writable /etc/fstab, no
/// shell in the initrd, no hibernation image.
const SEALED: [&str; 6] =
    ["systemd.import_credentials=no", "fstab=no", "rd.fstab=no", "rd.shell=0", "rd.emergency=halt", "noresume"];
const ROOT: &str = "PARTUUID=5ea17007-0000-4000-8000-000000000003";

/// What runs in the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initramfs {
    /// The boot program and the gate, started as systemd would; real systemd has no part in what is tested.
    Small,
    /// dracut's, with systemd and sealroot's units.
    Dracut,
}

/// Which machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A native one.
    Native(&'static str),
    /// One with firmware.
    Firmware,
}

impl On {
    /// Part of the names of tests.
    pub fn label(self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Firmware => "firmware",
        }
    }
}

/// What is done before the boot. Texts are filled by [`World::fill`].
#[derive(Clone, Debug)]
enum Step {
    FlipImage(Place),
    FlipObject(&'static str),
    Debugfs(Vec<String>),
    Write(Content, Vec<String>),
    OnEsp(fn(&World, &Scenario) -> Result<(PathBuf, tempfile::TempDir)>, &'static str),
}

/// What a file is made of.
#[derive(Clone, Debug)]
pub enum Content {
    /// This text.
    Text(String),
    /// A file of the sealed Debian.
    Sealed(&'static str),
    /// The image, as it was written, with so many zeros behind it.
    Image(usize),
    /// Any file of this machine.
    File(PathBuf),
    /// What a script of `qemu/` builds.
    Built(&'static str, &'static [&'static str]),
}

/// One boot and what must come of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, the same on every machine.
    pub name: &'static str,
    pub(super) initramfs: Initramfs,
    /// On which native kernel; none where only firmware shows it.
    native: Option<&'static str>,
    /// When the same boots with firmware; never where that says nothing about it.
    firmware: Option<Tier>,
    pub(super) algorithm: &'static str,
    kargs: Vec<String>,
    open: bool,
    config: Option<String>,
    root: String,
    luks: bool,
    uki: Vec<&'static str>,
    without: Option<&'static str>,
    strings: Vec<String>,
    steps: Vec<Step>,
    loader: Option<&'static str>,
    pub(super) secure_boot: bool,
    pub(super) reboots: bool,
    limit: u64,
    pub(super) expected: Expected,
    pub(super) musts: Vec<Must>,
    /// Files that cannot be read afterwards, beside the one that tests damage.
    pub(super) unreadable: &'static [&'static str],
    /// What the console has, and what it must not have.
    pub(super) said: Vec<&'static str>,
    pub(super) unsaid: Vec<&'static str>,
    pub(super) judge: Option<fn(&Console) -> Vec<String>>,
    /// What is in `EFI/Linux` afterwards.
    pub(super) entries: Option<&'static [&'static str]>,
    /// Further attacks in the same boot.
    pub(super) also: Vec<&'static str>,
}

/// A boot that is shown natively with each push, by an initramfs without systemd, and with firmware before a release.
pub fn case(name: &'static str) -> Scenario {
    Scenario {
        name,
        initramfs: Initramfs::Small,
        native: Some("newest"),
        firmware: Some(Tier::All),
        algorithm: "sha512",
        kargs: vec!["{karg}".into()],
        open: false,
        config: None,
        root: ROOT.into(),
        luks: false,
        uki: Vec::new(),
        without: None,
        strings: Vec::new(),
        steps: Vec::new(),
        loader: None,
        secure_boot: true,
        reboots: false,
        limit: 300,
        expected: Expected::Sealed,
        musts: Vec::new(),
        unreadable: &[],
        said: Vec::new(),
        unsaid: Vec::new(),
        judge: None,
        entries: None,
        also: Vec::new(),
    }
}

impl Scenario {
    /// systemd and sealroot's units take part.
    pub fn systemd(mut self) -> Self {
        self.initramfs = Initramfs::Dracut;
        self
    }

    /// On another native kernel.
    pub fn kernel(mut self, release: &'static str) -> Self {
        self.native = Some(release);
        self
    }

    /// Only a native machine shows it, or firmware has nothing to do with it.
    pub fn native_only(mut self) -> Self {
        self.firmware = None;
        self
    }

    /// With firmware on each push: one of the boundaries that nothing else shows.
    pub fn boundary(mut self) -> Self {
        self.firmware = Some(Tier::Push);
        self
    }

    /// Only with firmware: without it there is nothing to see.
    pub fn firmware_only(mut self) -> Self {
        self.native = None;
        self.initramfs = Initramfs::Dracut;
        self
    }

    /// The repository of another algorithm.
    pub fn algorithm(mut self, algorithm: &'static str) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// In place of the usual karg.
    pub fn kargs(mut self, kargs: &[&str]) -> Self {
        self.kargs = kargs.iter().map(ToString::to_string).collect();
        self
    }

    /// Beside the kargs there are.
    pub fn and_karg(mut self, karg: &str) -> Self {
        self.kargs.push(karg.into());
        self
    }

    /// On a command line that leaves the ways around the seal open, but for a shell in the initrd.
    pub fn open(mut self) -> Self {
        self.open = true;
        self.and_karg("rd.shell=0").and_karg("rd.emergency=halt")
    }

    /// On a command line that leaves all of them open.
    pub fn wide_open(mut self) -> Self {
        self.open = true;
        self
    }

    /// A line of `[policy]`.
    pub fn policy(mut self, line: &str) -> Self {
        self.config = Some(line.into());
        self
    }

    /// Another device for `root=`.
    pub fn root(mut self, device: &str) -> Self {
        self.root = device.into();
        self
    }

    /// The partition is encrypted, and opened in the initramfs before sealroot has its turn.
    pub fn luks(mut self) -> Self {
        self.luks = true;
        self.root = "/dev/mapper/sealed".into();
        // An emulated CPU takes its time to decrypt.
        self.limit = 600;
        self.systemd()
    }

    /// An option of `qemu/uki`, for firmware only.
    pub fn uki(mut self, option: &'static str) -> Self {
        self.uki.push(option);
        self
    }

    /// The initramfs lacks a file.
    pub fn without(mut self, path: &'static str) -> Self {
        self.without = Some(path);
        self.systemd()
    }

    /// A drop-in for a unit, as whoever sets the machine's SMBIOS strings can give it in a credential. Where there is no
    /// SMBIOS, the same credential comes by the command line.
    pub fn drop_in(mut self, unit: &str, text: &str) -> Self {
        self.strings.push(format!("systemd.unit-dropin.{unit}~zz={}", STANDARD.encode(text)));
        self.systemd()
    }

    /// A byte of the image, or of what fs-verity keeps behind it.
    pub fn flip_image(mut self, place: Place) -> Self {
        self.steps.push(Step::FlipImage(place));
        self
    }

    /// A byte in the middle of an object.
    pub fn flip_object(mut self, object: &'static str) -> Self {
        self.steps.push(Step::FlipObject(object));
        self
    }

    /// Commands of debugfs(8).
    pub fn debugfs(mut self, commands: &[&str]) -> Self {
        self.steps.push(Step::Debugfs(commands.iter().map(ToString::to_string).collect()));
        self
    }

    /// A file on the disk: commands of debugfs(8), which name it `{file}`.
    pub fn write(mut self, content: Content, commands: &[&str]) -> Self {
        self.steps.push(Step::Write(content, commands.iter().map(ToString::to_string).collect()));
        self
    }

    /// The image's name leads to a file with this content, without fs-verity.
    pub fn image_is(self, content: Content) -> Self {
        self.write(content, &["cd /composefs/images", "rm {digest}", "write {file} {digest}"])
    }

    /// The image's name leads to the other image, a good one.
    pub fn image_replaced(self) -> Self {
        self.debugfs(&["rm /composefs/images/{digest}", "symlink /composefs/images/{digest} ../{other_object}"])
    }

    /// A file on the EFI system partition.
    pub fn on_esp(
        mut self,
        make: fn(&World, &Self) -> Result<(PathBuf, tempfile::TempDir)>,
        path: &'static str,
    ) -> Self {
        self.steps.push(Step::OnEsp(make, path));
        self
    }

    /// The firmware starts systemd-boot, which starts this entry; the image is `EFI/sealed.efi`.
    pub fn loader(mut self, image: &'static str) -> Self {
        self.loader = Some(image);
        self
    }

    /// The firmware has no keys.
    pub fn no_secure_boot(mut self) -> Self {
        self.secure_boot = false;
        self
    }

    /// Goes on when the machine restarts; what it writes stays.
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// How long it may take, in seconds.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }

    /// What must come of it.
    pub fn comes(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }

    /// Refused with exactly this reason.
    pub fn refused(self, reason: &str) -> Self {
        self.comes(Expected::Refused { reason: reason.into(), action: "halt" })
    }

    /// Refused with exactly this reason, and something else than a halt follows.
    pub fn refused_and(self, reason: &str, action: &'static str) -> Self {
        self.comes(Expected::Refused { reason: reason.into(), action })
    }

    /// Refused with a reason of which a part is not known.
    pub fn refused_like(self, reason: &str) -> Self {
        self.comes(Expected::RefusedLike(reason.into()))
    }

    /// What the booted system must say about itself: the whole answer, as a pattern.
    pub fn must(mut self, key: &str, answer: &str) -> Self {
        self.musts.push(Must { on: None, key: key.into(), answer: answer.into() });
        self
    }

    /// The same on one kind of machine, `native` or `firmware`.
    pub fn must_on(mut self, machine: &'static str, key: &str, answer: &str) -> Self {
        self.musts.push(Must { on: Some(machine), key: key.into(), answer: answer.into() });
        self
    }

    /// What else is wrong with the console of the booted system.
    pub fn judged(mut self, judge: fn(&Console) -> Vec<String>) -> Self {
        self.judge = Some(judge);
        self
    }

    /// Files that cannot be read afterwards, beside the one that tests damage.
    pub fn unreadable(mut self, files: &'static [&'static str]) -> Self {
        self.unreadable = files;
        self
    }

    /// What must be said on the console.
    pub fn says(mut self, text: &'static str) -> Self {
        self.said.push(text);
        self
    }

    /// What must not be said on the console.
    pub fn never_says(mut self, text: &'static str) -> Self {
        self.unsaid.push(text);
        self
    }

    /// The boot entries that are left at the end.
    pub fn entries(mut self, names: &'static [&'static str]) -> Self {
        self.entries = Some(names);
        self
    }

    /// Further attacks that are made in the same boot.
    pub fn also(mut self, names: &[&'static str]) -> Self {
        self.also.extend(names);
        self
    }

    /// The tests of it, in a part: one for each machine.
    pub fn trials(self, part: &'static str) -> Vec<Trial> {
        let mut trials = Vec::new();
        let mut add = |on: On, tier: Tier, needs: &[Need]| {
            // What is attacked in the same boot is a test of its own: it has a name that can be looked for.
            let boot = Arc::new((self.clone(), OnceLock::<Result<String, String>>::new()));
            for name in [self.name].iter().chain(&self.also) {
                let boot = Arc::clone(&boot);
                let run = move || {
                    let (scenario, outcome) = &*boot;
                    let outcome = outcome.get_or_init(|| scenario.run(part, on).map_err(|error| format!("{error:#}")));
                    outcome.clone().map_err(|error| anyhow!(error))
                };
                trials.push(Trial::new(format!("{part}::{}::{name}", on.label()), run).tier(tier).needs(needs));
            }
        };
        if let Some(release) = self.native {
            add(On::Native(release), Tier::Push, &[Need::Root]);
        }
        if let Some(tier) = self.firmware {
            add(On::Firmware, tier, &[Need::Root, Need::Qemu]);
        }
        trials
    }

    /// Boots, and says what was seen.
    ///
    /// # Errors
    /// It did not come out as it must.
    pub fn run(&self, part: &str, on: On) -> Result<String> {
        let world = World::get()?;
        let log = builders::logs(part)?.join(format!("{}-{}.log", on.label(), self.name));
        let (console, disk) = self.boot(world, on, &log)?;
        let problems = expect::problems(self, world, on, &console, &disk)?;
        ensure!(problems.is_empty(), "{}\n{}", problems.join("\n"), tail(&console));
        Ok(expect::seen(self, &console))
    }

    fn boot(&self, world: &World, on: On, log: &Path) -> Result<(Console, Disk)> {
        let disk = Disk::copy_of(&world.disk(self.algorithm)?)?;
        let on_disk = |step: &&Step| on == On::Firmware || !matches!(step, Step::OnEsp(..));
        for step in self.steps.iter().filter(on_disk) {
            let (change, _held) = self.change(world, step)?;
            disk.change(&change)?;
        }
        let scratch = builders::scratch()?;
        if on == On::Firmware {
            self.fill_esp(world, &disk, scratch.path())?;
        }
        if self.luks {
            let key = scratch.path().join("luks-key");
            fs::write(&key, LUKS_KEY)?;
            disk.change(&Change::Encrypt(key))?;
            ensure!(!disk.contains("decoy: the physical root")?, "the root partition is not encrypted");
        }
        let limit = Duration::from_secs(self.limit);
        let drive = [Drive { file: disk.path(), writable: true }];
        let machine: process::Machine = match on {
            On::Native(kernel) => {
                let initramfs = self.native_initramfs(scratch.path())?;
                let arguments = self.native_arguments(world)?;
                let machine = Native {
                    kernel,
                    memory: 768,
                    cpus: 1,
                    initramfs: &initramfs,
                    drives: &drive,
                    arguments: &arguments,
                    scratch: scratch.path(),
                };
                machine.command(limit)?
            }
            On::Firmware => {
                let strings: Vec<_> =
                    self.strings.iter().map(|string| format!("io.systemd.credential.binary:{string}")).collect();
                let (secure_boot, reboots) = (self.secure_boot, self.reboots);
                let machine =
                    Firmware { disk: &disk, secure_boot, reboots, strings: &strings, scratch: scratch.path() };
                machine.command(limit)?.into()
            }
        };
        let mut heard = Until::new(if self.reboots { ends_for_good } else { ends });
        let mut file = fs::File::create(log).with_context(|| log.display().to_string())?;
        let ended = process::run(machine, limit, &mut file, &mut heard)?;
        Ok((Console { text: heard.text, ended, log: log.into() }, disk))
    }

    fn change(&self, world: &World, step: &Step) -> Result<(Change, Option<tempfile::TempDir>)> {
        let fill = |texts: &[String]| texts.iter().map(|text| world.fill(text)).collect::<Result<Vec<_>>>();
        let change = match step {
            Step::FlipImage(place) => {
                let (block, byte) = world.place(*place)?;
                Change::Flip { object: world.fill("{image_object}")?, block: Block::Number(block), byte }
            }
            Step::FlipObject(object) => Change::Flip { object: world.fill(object)?, block: Block::Middle, byte: 8 },
            Step::Debugfs(commands) => Change::Debugfs(fill(commands)?),
            Step::Write(content, commands) => {
                let content = match content {
                    Content::Text(text) => world.fill(text)?.into_bytes(),
                    Content::Sealed(path) => fs::read(world.rootfs.join(path.trim_start_matches('/')))?,
                    Content::Image(zeros) => [fs::read(world.image_file()?)?, vec![0; *zeros]].concat(),
                    Content::File(path) => fs::read(path)?,
                    Content::Built(script, arguments) => fs::read(builders::built(script, arguments)?)?,
                };
                let commands = commands.iter().map(|text| text.replace("{file}", "\u{0}"));
                let commands = fill(&commands.collect::<Vec<_>>())?;
                Change::Write(content, commands.iter().map(|text| text.replace('\u{0}', "{file}")).collect())
            }
            Step::OnEsp(make, path) => {
                let (file, folder) = make(world, self)?;
                return Ok((Change::OnEsp(file, (*path).into()), Some(folder)));
            }
        };
        Ok((change, None))
    }

    fn filled_kargs(&self, world: &World) -> Result<Vec<String>> {
        self.kargs.iter().map(|karg| world.fill(karg)).collect()
    }

    /// The text of sealroot.toml. Nobody is there to read: no delay.
    fn config_text(&self) -> String {
        format!("[policy]\nfailure-delay = 0\n{}\n", self.config.as_deref().unwrap_or_default())
    }

    fn native_arguments(&self, world: &World) -> Result<Vec<String>> {
        // `rw` first: what a scenario says about it comes later, and the last one holds.
        let mut arguments = vec![format!("root={}", self.root), "rw".into(), "systemd.show_status=yes".into()];
        if !self.open {
            arguments.extend(SEALED.map(str::to_owned));
        }
        arguments.extend(self.filled_kargs(world)?);
        for string in &self.strings {
            let (name, value) = string.split_once('=').context("a credential without a value")?;
            arguments.push(format!("systemd.set_credential_binary={name}:{value}"));
        }
        if arguments.iter().any(|argument| argument == "ro") {
            arguments.retain(|argument| argument != "rw");
        }
        Ok(arguments)
    }

    fn native_initramfs(&self, scratch: &Path) -> Result<PathBuf> {
        let mut more = Archive::default();
        let base = match self.initramfs {
            Initramfs::Small => {
                let program = builders::built("program", &["sealroot-initrd"])?;
                more.file(&program, "usr/lib/sealroot/sealroot-initrd")?;
                builders::built("guest", &["--boot"])?
            }
            Initramfs::Dracut => {
                let mut options = Vec::new();
                if self.luks {
                    options.push("--crypt");
                }
                if let Some(path) = self.without {
                    options.extend(["--without", path]);
                }
                builders::built("initramfs", &options)?
            }
        };
        more.text("usr/lib/sealroot/sealroot.toml", self.config_text().as_bytes(), 0o644)?;
        if self.luks {
            more.text("etc/sealed.key", LUKS_KEY, 0o600)?;
            let table = format!("sealed {ROOT} /etc/sealed.key luks,x-initrd.attach\n");
            more.text("etc/crypttab", table.as_bytes(), 0o644)?;
        }
        let initramfs = scratch.join("initramfs");
        archive::join(&base, more, &initramfs)?;
        Ok(initramfs)
    }

    /// The signed image of this boot.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_uki(&self, world: &World, more: &[&str]) -> Result<PathBuf> {
        let folder = builders::scratch()?;
        let (config, key) = (folder.path().join("config.toml"), folder.path().join("luks-key"));
        fs::write(&config, self.config_text())?;
        fs::write(&key, LUKS_KEY)?;
        let (config, key) = (config.to_string_lossy(), key.to_string_lossy());
        let mut options: Vec<&str> = self.uki.clone();
        if self.config.is_some() {
            options.extend(["--config", &config]);
        }
        if self.luks {
            options.extend(["--luks", &key]);
        } else if self.root != ROOT {
            options.extend(["--root", &self.root]);
        }
        if let Some(path) = self.without {
            options.extend(["--without", path]);
        }
        if self.open {
            options.push("--open");
        }
        options.extend(more);
        let kargs = self.filled_kargs(world)?;
        options.extend(kargs.iter().map(String::as_str));
        builders::built_anew("uki", &options)
    }

    fn fill_esp(&self, world: &World, disk: &Disk, scratch: &Path) -> Result<()> {
        let start = "EFI/BOOT/BOOTX64.EFI";
        let Some(entry) = self.loader else {
            return disk.change(&Change::OnEsp(self.make_uki(world, &[])?, start.into()));
        };
        let settings = scratch.join("loader.conf");
        fs::write(&settings, format!("timeout 0\n{entry}"))?;
        disk.change(&Change::OnEsp(world.signed_loader()?, start.into()))?;
        disk.change(&Change::OnEsp(settings, "loader/loader.conf".into()))
    }
}

fn tail(console: &Console) -> String {
    let lines: Vec<_> = console.text.lines().collect();
    let end = lines[lines.len().saturating_sub(25)..].join("\n");
    format!("{} ({:?}):\n{end}", console.log.display(), console.ended)
}

/// What ends a boot: the report from inside, a stopped machine, a prompt, the firmware giving up.
fn ends(line: &str) -> ControlFlow<()> {
    let restarts = ["reboot: Restarting", "reboot: machine restart"].iter().any(|end| line.contains(end));
    if restarts || line.starts_with("sealroot-probe: end") { ControlFlow::Break(()) } else { ends_for_good(line) }
}

/// The same, where a machine may restart, and switches itself off after its report.
fn ends_for_good(line: &str) -> ControlFlow<()> {
    let ends = ["reboot: System halted", "reboot: Power down", "Press Enter", "No bootable option", "Kernel panic"];
    let over = ends.iter().any(|end| line.contains(end)) || line.ends_with("login: ") || line.contains("sh-5.2# ");
    if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
