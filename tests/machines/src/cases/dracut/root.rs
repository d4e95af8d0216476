//! A Debian with sealroot installed, as dracut finds it, for one test.

use std::fs::{self, File};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Suite;
use super::image::Image;
use crate::builders::{built, project, scratch};

/// What takes the time and is nothing of ours: most drivers and other kinds of disks.
const OMITTED: &str = "kernel-modules qemu btrfs crypt dm lvm mdraid multipath";

/// The root, with nothing mounted below it that anybody else sees.
pub struct Root {
    place: PathBuf,
    kernel: String,
}

/// What dracut, or another program in the root, did.
pub struct Run {
    /// Whether it says that it succeeded.
    pub succeeded: bool,
    /// What it said.
    pub said: String,
}

/// Gives a test a root as after the installation of sealroot, without config.
///
/// # Errors
/// The root cannot be made, or the test fails.
pub fn with<T: Send>(suite: Suite, test: impl FnOnce(&Root) -> Result<T> + Send) -> Result<T> {
    let base = built("dracut-root", &[suite.name()])?;
    let place = scratch()?;
    // A thread of its own has a mount namespace of its own, which goes with all that is in it when the thread ends.
    thread::scope(|scope| {
        let thread = scope.spawn(|| test(&Root::set_up(&base, place.path())?));
        thread.join().unwrap_or_else(|failure| panic::resume_unwind(failure))
    })
}

fn mount_at(source: &str, target: &Path, kind: Option<&str>, flags: MsFlags, options: &str) -> Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(source), target, kind, flags, options).with_context(|| format!("mount {source} at {}", target.display()))
}

impl Root {
    fn set_up(base: &Path, place: &Path) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        mount_at("none", Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
        mount_at("sealroot", place, Some("tmpfs"), MsFlags::empty(), "")?;
        let root = Self { place: place.into(), kernel: only_entry(&base.join("lib/modules"))? };
        for folder in ["upper", "work", "root"] {
            fs::create_dir(place.join(folder))?;
        }
        let [upper, work] = ["upper", "work"].map(|folder| place.join(folder).display().to_string());
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", base.display());
        mount_at("overlay", &root.path("/"), Some("overlay"), MsFlags::empty(), &options)?;
        mount_at("proc", &root.path("/proc"), Some("proc"), MsFlags::empty(), "")?;
        for folder in ["/sys", "/dev"] {
            mount_at(folder, &root.path(folder), None, MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
        }
        root.install()?;
        Ok(root)
    }

    fn install(&self) -> Result<()> {
        fs::create_dir_all(self.path("/usr/lib/composefs"))?;
        let program = built("program", &["sealroot-initrd"])?;
        // What is in the command does not matter to dracut, which leaves it alone.
        let command = self.path("/usr/bin/true");
        let mut make = Command::new("make");
        make.args(["-s", "install"]).arg(format!("DESTDIR={}", self.path("/").display())).current_dir(project());
        make.arg(format!("BOOT_PROGRAM={}", program.display())).arg(format!("COMMAND={}", command.display()));
        // An initramfs has no boot stub.
        make.arg(format!("STUB={}", program.display()));
        let made = make.output().context("make")?;
        ensure!(made.status.success(), "make install: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    /// Where a path of the root is for this thread.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.place.join("root").join(inside.trim_start_matches('/'))
    }

    /// The folder of the kernel's modules.
    pub fn modules(&self) -> PathBuf {
        self.path("/usr/lib/modules").join(&self.kernel)
    }

    /// The list of what is in the kernel instead of being a module.
    pub fn built_in(&self) -> Result<String> {
        let file = self.modules().join("modules.builtin");
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// Makes a folder appear in the root, too.
    pub fn bind(&self, source: &Path, target: &str) -> Result<()> {
        mount_at(&source.display().to_string(), &self.path(target), None, MsFlags::MS_BIND, "")
    }

    /// A folder beside the root, empty.
    pub fn folder_beside(&self, name: &str) -> Result<PathBuf> {
        let folder = self.place.join(name);
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Runs a program in the root.
    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        let log = self.place.join("log");
        let file = File::create(&log)?;
        let status = Command::new("chroot")
            .arg(self.path("/"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("chroot")?;
        Ok(Run { succeeded: status.success(), said: String::from_utf8_lossy(&fs::read(&log)?).into_owned() })
    }

    /// Tells the kernel's tools which modules there are now.
    pub fn depmod(&self) -> Result<()> {
        let run = self.run(&["depmod", &self.kernel])?;
        ensure!(run.succeeded, "depmod: {}", run.said);
        Ok(())
    }

    /// Runs dracut for this root's kernel, with all that it adds by itself; gives the initramfs that it made, if it did.
    pub fn dracut(&self, options: &[&str]) -> Result<(Run, Option<Image>)> {
        let mut command = vec!["dracut", "--force", "--quiet", "--no-hostonly", "--compress", "cat"];
        command.extend(["--kver", &self.kernel]);
        command.extend(options);
        command.push("/image");
        let run = self.run(&command)?;
        let file = self.path("/image");
        let image = file.exists().then(|| Image::read(&file)).transpose()?;
        Ok((run, image))
    }

    /// The same without what takes the time.
    pub fn dracut_without_drivers(&self, options: &[&str]) -> Result<(Run, Option<Image>)> {
        self.dracut(&[&["--omit", OMITTED], options].concat())
    }
}

/// The name of the only thing in a folder.
fn only_entry(folder: &Path) -> Result<String> {
    let mut names = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let first = names.next().ok_or_else(|| anyhow!("{}: expected one entry, found none", folder.display()))??;
    ensure!(names.next().is_none(), "{}: expected one entry, found several", folder.display());
    first.file_name().into_string().map_err(|name| anyhow!("{}: expected UTF-8, found {name:?}", folder.display()))
}
