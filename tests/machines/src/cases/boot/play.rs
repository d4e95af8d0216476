//! How a scenario is played: the disk is changed, the machine started, and what came of it judged.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::expect;
use super::scenario::{Added, Content, Initramfs, On, ROOT, Scenario, Step};
use super::world::{LUKS_KEY, World};
use crate::archive::{self, Archive};
use crate::builders;
use crate::console::{Console, Until};
use crate::disk::{self, Block, Change, Disk};
use crate::firmware::{Firmware, Kind};
use crate::native::{Drive, Native};
use crate::process;

impl Scenario {
    /// Boots, and says what was seen.
    ///
    /// # Errors
    /// It did not come out as it must.
    pub fn run(&self, part: &str, on: On) -> Result<String> {
        self.shown(part, on).map(|(seen, _)| seen)
    }

    /// The same, with the console.
    ///
    /// # Errors
    /// It did not come out as it must.
    pub fn shown(&self, part: &str, on: On) -> Result<(String, Console)> {
        let world = World::of(self.debian)?;
        let log = builders::logs(part)?.join(format!("{}-{}.log", on.label(), self.name));
        let (console, disk) = self.boot(world, on, &log)?;
        let problems = expect::problems(self, world, on, &console, &disk)?;
        ensure!(problems.is_empty(), "{}\n{}", problems.join("\n"), tail(&console));
        Ok((expect::seen(self, &console), console))
    }

    fn boot(&self, world: &World, on: On, log: &Path) -> Result<(Console, Disk)> {
        let disk = Disk::copy_of(&world.disk(self.algorithm, self.filesystem)?)?;
        let scratch = builders::scratch()?;
        let on_disk = |step: &&Step| on == On::Firmware || !matches!(step, Step::OnEsp(..));
        for step in self.steps.iter().filter(on_disk) {
            disk.change(&self.change(world, step, scratch.path())?)?;
        }
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
        let other_half = (self.filesystem == "mirror" && !self.halved)
            .then(|| Disk::copy_of(&world.disk(self.algorithm, self.filesystem)?.with_file_name("disk2")))
            .transpose()?;
        let drives = [Some(&disk), other_half.as_ref()].map(|disk| disk.map(Disk::path));
        let drives: Vec<_> = drives.into_iter().flatten().map(|file| Drive { file, writable: true }).collect();
        let machine: process::Machine = match on {
            On::Native(kernel) => {
                let initramfs = self.native_initramfs(scratch.path())?;
                let arguments = self.native_arguments(world)?;
                let machine = Native {
                    kernel,
                    memory: 768,
                    cpus: 1,
                    initramfs: &initramfs,
                    drives: &drives,
                    arguments: &arguments,
                    scratch: scratch.path(),
                };
                machine.command(limit)?
            }
            On::Firmware => {
                let credential = |text: &String| format!("io.systemd.credential.binary:{text}");
                let mut strings: Vec<_> = self.credentials.iter().map(credential).collect();
                for string in &self.strings {
                    strings.push(world.fill(string)?);
                }
                let (secure_boot, reboots) = (self.secure_boot, self.reboots);
                let machine = Firmware {
                    kind: Kind::Installed,
                    forbidden: None,
                    disk: &disk,
                    secure_boot,
                    reboots,
                    variables: &self.variables,
                    strings: &strings,
                    structures: self.structures,
                    fw_cfg: &self.fw_cfg,
                    tpm: false,
                    scratch: scratch.path(),
                };
                machine.command(limit)?.into()
            }
        };
        let mut heard = Until::new(if self.reboots { ends_for_good } else { ends });
        let mut file = fs::File::create(log).with_context(|| log.display().to_string())?;
        let ended = process::run(machine, limit, &mut file, &mut heard)?;
        Ok((Console { text: heard.text, ended, log: log.into() }, disk))
    }

    fn change(&self, world: &World, step: &Step, scratch: &Path) -> Result<Change> {
        let fill = |texts: &[String]| texts.iter().map(|text| world.fill(text)).collect::<Result<Vec<_>>>();
        let change = match step {
            Step::FlipImage(place) => {
                let (block, byte) = world.place(*place)?;
                Change::Flip { object: world.fill("{image_object}")?, block: Block::Number(block), byte }
            }
            Step::Partitions => Change::Partitions,
            Step::Twin(twin) => Change::Twin(*twin),
            Step::Hidden(directory, name, target) => {
                Change::Hidden { directory: world.fill(directory)?, name, target: world.fill(target)? }
            }
            Step::HybridMbr => Change::HybridMbr,
            Step::Grow => Change::Grow,
            Step::Replay => Change::Replay { object: world.fill("{image_object}")?, block: 2 },
            Step::FlipObject(object) => Change::Flip { object: world.fill(object)?, block: Block::Middle, byte: 8 },
            Step::Debugfs(commands) => Change::Debugfs(fill(commands)?),
            Step::Write(content, commands) => {
                let content = match content {
                    Content::Text(text) => world.fill(text)?.into_bytes(),
                    Content::Sealed(path) => fs::read(world.rootfs.join(path.trim_start_matches('/')))?,
                    Content::Image(zeros) => [fs::read(world.image_file()?)?, vec![0; *zeros]].concat(),
                    Content::File(path) => fs::read(path)?,
                    Content::Made(make) => fs::read(make(world, self, scratch)?)?,
                    Content::Built(script, arguments) => fs::read(builders::built(script, arguments)?)?,
                };
                let commands = commands.iter().map(|text| text.replace("{file}", "\u{0}"));
                let commands = fill(&commands.collect::<Vec<_>>())?;
                Change::Write(content, commands.iter().map(|text| text.replace('\u{0}', "{file}")).collect())
            }
            Step::OnEsp(make, path) => {
                let file = make(world, self, scratch)?;
                Change::OnEsp(file, (*path).into())
            }
        };
        Ok(change)
    }

    fn filled_kargs(&self, world: &World) -> Result<Vec<String>> {
        self.kargs.iter().map(|karg| world.fill(karg)).collect()
    }

    /// The text of sealroot.toml. Nobody is there to read: no delay.
    fn config_text(&self) -> String {
        format!("[policy]\nfailure-delay = 0\n{}\n[etc]\n{}\n", self.config.join("\n"), self.etc.join("\n"))
    }

    /// The command line that the signed image of this boot would have, for a native machine: its console is another one, and
    /// what comes in a credential comes here.
    fn native_arguments(&self, world: &World) -> Result<Vec<String>> {
        let line = self.make_uki(world, &["--print-command-line"])?;
        let line = line.to_str().context("a command line that is no text")?;
        let mut arguments: Vec<_> =
            line.split(' ').filter(|argument| !argument.starts_with("console=")).map(str::to_owned).collect();
        if let Some(flags) = self.root_flags {
            arguments.retain(|argument| !argument.starts_with("rootflags="));
            arguments.push(format!("rootflags={flags}"));
        }
        for string in &self.credentials {
            let (name, value) = string.split_once('=').context("a credential without a value")?;
            arguments.push(format!("systemd.set_credential_binary={name}:{value}"));
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
                let mut options = self.debian.option().to_vec();
                if self.luks {
                    options.push("--crypt");
                }
                if let Some(path) = self.without {
                    options.extend(["--without", path]);
                }
                // As dracut's module for btrfs has it, which needs programs that this Debian has not: no disk is ready before all are.
                if ["btrfs", "mirror"].contains(&self.filesystem) {
                    let rules = "usr/lib/udev/rules.d/64-btrfs.rules";
                    more.file(&World::of(self.debian)?.rootfs.join(rules), rules)?;
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
        let base = fs::read(&base).with_context(|| base.display().to_string())?;
        let mut parts = vec![base, more.finish()?];
        if self.manifest {
            archive::join(&parts, &initramfs)?;
            let manifest = scratch.join("manifest");
            let mut command = Command::new(builders::built("program", &["sealroot"])?);
            disk::run(command.arg("manifest").arg(&initramfs).arg("--output").arg(&manifest))?;
            parts.push(fs::read(&manifest).with_context(|| manifest.display().to_string())?);
        }
        parts.insert(0, self.front()?);
        archive::join(&parts, &initramfs)?;
        Ok(initramfs)
    }

    /// What is put in front of the signed initramfs.
    ///
    /// # Errors
    /// A file that it is to have cannot be read.
    pub fn front(&self) -> Result<Vec<u8>> {
        let (mut front, mut garbage) = (Archive::default(), Vec::new());
        for (path, added) in &self.in_front {
            match added {
                Added::File(text) => front.text(path, text.as_bytes(), 0o755)?,
                Added::Link(target) => front.link(path, target)?,
                Added::Program(from) => front.file(Path::new(from), path)?,
                Added::Garbage => garbage = b"no archive".repeat(100),
            }
        }
        if self.in_front.is_empty() { Ok(garbage) } else { Ok([front.finish()?, garbage].concat()) }
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
        if !(self.config.is_empty() && self.etc.is_empty()) {
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
        let loader = scratch.join("loader.efi");
        fs::write(&loader, world.signed_loader()?)?;
        disk.change(&Change::OnEsp(loader, start.into()))?;
        disk.change(&Change::OnEsp(settings, "loader/loader.conf".into()))
    }
}

/// The release of Linux that a scenario starts.
///
/// # Errors
/// A kernel cannot be built.
pub fn release(scenario: &Scenario, on: On) -> Result<String> {
    let folder = match on {
        On::Native(kernel) => builders::built("native-kernel", &[kernel])?,
        On::Firmware => match scenario.uki[..] {
            ["--kernel", kernel, ..] => builders::built("kernel", &[kernel])?,
            _ => {
                let modules = World::get()?.rootfs.join("usr/lib/modules");
                let entry = fs::read_dir(&modules)?.next().context("the Debian root has no kernel")??;
                return entry.file_name().into_string().ok().context("a release that is no text");
            }
        },
    };
    Ok(fs::read_to_string(folder.join("release"))?.trim().to_owned())
}

fn tail(console: &Console) -> String {
    let lines: Vec<_> = console.text.lines().collect();
    let end = lines[lines.len().saturating_sub(25)..].join("\n");
    format!("{} ({:?}):\n{end}", console.log.display(), console.ended)
}

/// What ends a boot: the report from inside, a stopped machine, a prompt, the firmware giving up.
fn ends(line: &str) -> ControlFlow<()> {
    let restarts = ["reboot: Restarting system", "reboot: machine restart"].iter().any(|end| line.contains(end));
    if restarts || line.starts_with("sealroot-probe: end") { ControlFlow::Break(()) } else { ends_for_good(line) }
}

/// The same, where a machine may restart, and switches itself off after its report. A login is none: it comes before the report.
fn ends_for_good(line: &str) -> ControlFlow<()> {
    let ends = [
        "reboot: System halted",
        "reboot: Power down",
        "Press Enter",
        "No bootable option",
        "Kernel panic",
        "sh-5.2# ",
        "job control turned off",
    ];
    if ends.iter().any(|end| line.contains(end)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
