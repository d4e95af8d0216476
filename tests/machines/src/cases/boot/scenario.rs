//! One boot: what is done to the machine, and what must come of it. Built up like a sentence, for the tables.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::expect::{Answer, Expected, Must};
use super::world::{Debian, Place, World};
use crate::console::Console;
use crate::disk::Twin;
use crate::firmware::Vendor;
use crate::trial::{Need, Tier, Trial};

pub(super) const ROOT: &str = "PARTUUID=5ea17007-0000-4000-8000-000000000003";

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
pub(super) enum Step {
    FlipImage(Place),
    FlipObject(&'static str),
    Replay,
    Partitions,
    Twin(Twin),
    Hidden(String, &'static str, String),
    HybridMbr,
    Grow,
    Debugfs(Vec<String>),
    Write(Content, Vec<String>),
    OnEsp(fn(&World, &Scenario, &Path) -> Result<PathBuf>, &'static str),
}

/// What an initramfs has that somebody else put in front of the signed one.
#[derive(Clone, Copy, Debug)]
pub enum Added {
    /// A file with this text.
    File(&'static str),
    /// A symbolic link.
    Link(&'static str),
    /// A program of this machine.
    Program(&'static str),
    /// What is no archive. The kernel unpacks nothing behind it.
    Garbage,
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
    /// What this makes in a folder.
    Made(fn(&World, &Scenario, &Path) -> Result<PathBuf>),
}

/// One boot and what must come of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, the same on every machine.
    pub name: &'static str,
    pub(super) initramfs: Initramfs,
    /// On which native kernel; none where only firmware shows it.
    pub(super) native: Option<&'static str>,
    /// When the same boots with firmware; never where that says nothing about it.
    pub(super) firmware: Option<Tier>,
    pub(super) debian: Debian,
    pub(super) algorithm: &'static str,
    /// A disk of `qemu/disk`.
    pub(super) filesystem: &'static str,
    /// Whether its second half is there, if it has one.
    pub(super) halved: bool,
    /// In place of the usual options of the physical root.
    pub(super) root_flags: Option<&'static str>,
    /// When it boots natively.
    pub(super) native_tier: Tier,
    pub(super) kargs: Vec<String>,
    pub(super) open: bool,
    pub(super) config: Vec<String>,
    pub(super) etc: Vec<String>,
    pub(super) root: String,
    pub(super) luks: bool,
    pub(super) uki: Vec<&'static str>,
    /// Whether the initramfs has the list of its own files.
    pub(super) manifest: bool,
    pub(super) in_front: Vec<(&'static str, Added)>,
    /// Whether the boot loader has a file for that.
    pub(super) by_loader: bool,
    pub(super) without: Option<&'static str>,
    /// Credentials, `NAME=BASE64`.
    pub(super) credentials: Vec<String>,
    /// Whole SMBIOS strings.
    pub(super) strings: Vec<String>,
    pub(super) structures: &'static [&'static [u8]],
    /// Credentials by QEMU's fw_cfg.
    pub(super) fw_cfg: Vec<(&'static str, &'static str)>,
    /// What is planted in the firmware, by name.
    pub(super) variables: Vec<(Vendor, &'static str, &'static str)>,
    pub(super) steps: Vec<Step>,
    pub(super) loader: Option<&'static str>,
    pub(super) secure_boot: bool,
    pub(super) reboots: bool,
    pub(super) limit: u64,
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
    /// Files that are on the disk afterwards, with their text.
    pub(super) left: Vec<(&'static str, &'static str)>,
    /// The names of its partitions afterwards.
    pub(super) partitions: Option<&'static [&'static str]>,
    /// Whether the filesystem of the root fills its partition afterwards.
    pub(super) grown: bool,
    /// Further attacks in the same boot.
    pub(super) also: Vec<&'static str>,
    /// Those that only firmware, boot loader or stub could let through.
    pub(super) also_with_firmware: Vec<&'static str>,
}

/// A boot that is shown natively with each push, by an initramfs without systemd, and with firmware before a release.
pub fn case(name: &'static str) -> Scenario {
    Scenario {
        name,
        initramfs: Initramfs::Small,
        native: Some("newest"),
        firmware: Some(Tier::All),
        debian: Debian::Plain,
        algorithm: "sha512",
        filesystem: "ext4",
        halved: false,
        root_flags: None,
        native_tier: Tier::Push,
        kargs: vec!["{karg}".into()],
        open: false,
        config: Vec::new(),
        etc: Vec::new(),
        root: ROOT.into(),
        luks: false,
        uki: Vec::new(),
        manifest: false,
        in_front: Vec::new(),
        by_loader: false,
        without: None,
        credentials: Vec::new(),
        strings: Vec::new(),
        structures: &[],
        fw_cfg: Vec::new(),
        variables: Vec::new(),
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
        left: Vec::new(),
        partitions: None,
        grown: false,
        also: Vec::new(),
        also_with_firmware: Vec::new(),
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

    /// Natively before a release only.
    pub fn seldom(mut self) -> Self {
        self.native_tier = Tier::All;
        self
    }

    /// The physical root has another filesystem, and these options; the kernel of Debian has no part in that.
    pub fn filesystem(mut self, name: &'static str, options: &'static str) -> Self {
        self.filesystem = name;
        self.root_flags = Some(options);
        self.native_only().systemd()
    }

    /// The physical root is what `cfsctl oci prepare-boot` wrote.
    pub fn prepared(mut self) -> Self {
        self.filesystem = "prepared";
        self.native_only().systemd()
    }

    /// Of the two devices of a mirror, the second is not there.
    pub fn halved(mut self) -> Self {
        self.halved = true;
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

    /// SELinux enforces Debian's policy, in a system whose files have its labels.
    pub fn selinux(mut self) -> Self {
        self.debian = Debian::Selinux;
        self.firmware_only().and_karg("security=selinux").and_karg("clearcpuid=erms,rep_good")
    }

    /// The next Debian, with its systemd and its dracut, on a disk with room for the partition that it adds.
    pub fn forky(mut self) -> Self {
        self.debian = Debian::Forky;
        self.larger_partition().native_only().systemd().seldom()
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
        self.config.push(line.into());
        self
    }

    /// A line of `[etc]`.
    pub fn etc(mut self, line: &str) -> Self {
        self.etc.push(line.into());
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
        self.systemd().says("Finished systemd-cryptsetup@sealed").says("- Cryptography Setup for sealed.")
    }

    /// An option of `qemu/uki`, for firmware only.
    pub fn uki(mut self, option: &'static str) -> Self {
        self.uki.push(option);
        self
    }

    /// The initramfs has the list of its own files; with firmware, that of its command line, too.
    pub fn manifest(mut self) -> Self {
        self.manifest = true;
        self.systemd().uki("--manifest")
    }

    /// In front of the signed initramfs comes another, as a boot loader adds one.
    pub fn in_front(mut self, path: &'static str, added: Added) -> Self {
        self.in_front.push((path, added));
        let scenario = if self.by_loader { self } else { self.native_only() };
        scenario.systemd()
    }

    /// It is the boot loader that adds it: an entry that nobody signed names it, and the stub is one that takes it.
    pub fn by_loader(mut self) -> Self {
        self.by_loader = true;
        self.firmware = Some(Tier::All);
        self.firmware_only().uki("--stub").uki("forky").loader("default attack.conf\n")
    }

    /// With firmware, and with systemd's boot stub, which adds what nobody signed.
    pub fn systemd_stub(self) -> Self {
        self.firmware_only().uki("--stub").uki("systemd")
    }

    /// The initramfs lacks a file.
    pub fn without(mut self, path: &'static str) -> Self {
        self.without = Some(path);
        self.systemd()
    }

    /// A drop-in for a unit, as whoever sets the machine's SMBIOS strings can give it in a credential, with a config that lets it
    /// come that far. Where there is no SMBIOS, the same credential comes by the command line.
    pub fn drop_in(self, unit: &str, text: &str) -> Self {
        let reported = "firmware-strings = \"report\"";
        let scenario = if self.config.iter().any(|line| line == reported) { self } else { self.policy(reported) };
        scenario.refused_drop_in(unit, text)
    }

    /// The same with a config that lets no such string be.
    pub fn refused_drop_in(mut self, unit: &str, text: &str) -> Self {
        self.credentials.push(format!("systemd.unit-dropin.{unit}~zz={}", STANDARD.encode(text)));
        self.systemd()
    }

    /// An SMBIOS string of type 11.
    pub fn smbios(mut self, string: &str) -> Self {
        self.strings.push(string.into());
        self
    }

    /// A file of the disk has this name, too, in a directory that does not list it.
    pub fn hidden(mut self, directory: &str, name: &'static str, target: &str) -> Self {
        self.steps.push(Step::Hidden(directory.into(), name, target.into()));
        self
    }

    /// Further SMBIOS structures, byte by byte.
    pub fn structures(mut self, structures: &'static [&'static [u8]]) -> Self {
        self.structures = structures;
        self
    }

    /// A credential by QEMU's fw_cfg.
    pub fn fw_cfg(mut self, name: &'static str, content: &'static str) -> Self {
        self.fw_cfg.push((name, content));
        self
    }

    /// A variable that is planted in the firmware so that it outlives the boot.
    pub fn planted(mut self, vendor: Vendor, name: &'static str, content: &'static str) -> Self {
        self.variables.push((vendor, name, content));
        self
    }

    /// The disk has further partitions, for /home, /srv and /var/tmp, each with a setuid program, and one for swap.
    pub fn further_partitions(mut self) -> Self {
        self.steps.push(Step::Partitions);
        self
    }

    /// A partition that has all names of the root's, and an operating system of its own.
    pub fn twin(mut self, twin: Twin) -> Self {
        self.steps.push(Step::Twin(twin));
        self.systemd()
    }

    /// The root partition is larger than its filesystem, marked as one that is to grow, and there is room behind it.
    pub fn larger_partition(mut self) -> Self {
        self.steps.push(Step::Grow);
        self
    }

    /// The protective MBR names the root partition, too.
    pub fn hybrid_mbr(mut self) -> Self {
        self.steps.push(Step::HybridMbr);
        self
    }

    /// The journal overwrites a block of the image when the filesystem is mounted.
    pub fn journal_replayed(mut self) -> Self {
        self.steps.push(Step::Replay);
        self
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

    /// A file on the EFI system partition, made in a folder of the boot's own or found in the cache.
    pub fn on_esp(mut self, make: fn(&World, &Self, &Path) -> Result<PathBuf>, path: &'static str) -> Self {
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
        self.musts.push(Must { on: None, key: key.into(), answer: Answer::Like(answer.into()) });
        self
    }

    /// What it must say, as it stands.
    pub fn must_be(mut self, key: &str, answer: &str) -> Self {
        self.musts.push(Must { on: None, key: key.into(), answer: Answer::Exactly(answer.into()) });
        self
    }

    /// The same on one kind of machine, `native` or `firmware`.
    pub fn must_be_on(mut self, machine: &'static str, key: &str, answer: &str) -> Self {
        self.musts.push(Must { on: Some(machine), key: key.into(), answer: Answer::Exactly(answer.into()) });
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

    /// A file that is on the disk in the end, and has this text.
    pub fn leaves(mut self, path: &'static str, text: &'static str) -> Self {
        self.left.push((path, text));
        self
    }

    /// What partitions the disk has in the end, by name.
    pub fn partitions(mut self, names: &'static [&'static str]) -> Self {
        self.partitions = Some(names);
        self
    }

    /// The filesystem of the root fills its partition in the end.
    pub fn grown(mut self) -> Self {
        self.grown = true;
        self
    }

    /// Further attacks that are made in the same boot.
    pub fn also(mut self, names: &[&'static str]) -> Self {
        self.also.extend(names);
        self
    }

    /// Further attacks in the same boot that are none where there is neither firmware nor boot loader.
    pub fn also_with_firmware(mut self, names: &[&'static str]) -> Self {
        self.also_with_firmware.extend(names);
        self
    }

    /// The tests of it, in a part: one for each machine.
    pub fn trials(self, part: &'static str) -> Vec<Trial> {
        let mut trials = Vec::new();
        let mut add = |on: On, tier: Tier, needs: &[Need]| {
            // What is attacked in the same boot is a test of its own: it has a name that can be looked for.
            let boot = Arc::new((self.clone(), OnceLock::<Result<String, String>>::new()));
            let more: &[&str] = if on == On::Firmware { &self.also_with_firmware } else { &[] };
            for name in [self.name].iter().chain(&self.also).chain(more) {
                let boot = Arc::clone(&boot);
                let run = move || {
                    let (scenario, outcome) = &*boot;
                    let outcome = outcome.get_or_init(|| scenario.run(part, on).map_err(|error| format!("{error:#}")));
                    outcome.clone().map_err(|error| anyhow!(error))
                };
                let trial = Trial::new(format!("{part}::{}::{name}", on.label()), run).tier(tier).needs(needs);
                trials.push(if *name == self.name { trial } else { trial.waits() });
            }
        };
        if let Some(release) = self.native {
            add(On::Native(release), self.native_tier, &[Need::Root]);
        }
        if let Some(tier) = self.firmware {
            add(On::Firmware, tier, &[Need::Root, Need::Qemu]);
        }
        trials
    }
}
