//! What is done to a root before dracut runs in it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

use super::root::Root;
use super::{PROGRAM, UNITS};

/// Where the root is that `--sysroot` names.
pub const TARGET: &str = "/target";

/// One change; paths as they are in the root.
pub enum Change {
    /// Takes a file away.
    Remove(&'static str),
    /// Sets the mode of a file.
    Mode(&'static str, u32),
    /// Makes an empty file.
    Empty(&'static str),
    /// Makes a file with this content, and its folder.
    Write(&'static str, &'static str),
    /// Makes a folder.
    Folder(&'static str),
    /// Makes a link that leads nowhere.
    DanglingLink(&'static str),
    /// As if the kernel had been built without these.
    LoseModules(Vec<&'static str>),
    /// As if these were in the kernel itself.
    BuiltIn(&'static [&'static str]),
    /// Makes [`TARGET`]: the same root, with another folder for sealroot, which has the program and no config.
    Target,
    /// Makes an empty file below that.
    EmptyInTarget(&'static str),
}

impl Change {
    /// Makes it.
    pub fn make(&self, root: &Root) -> Result<()> {
        let at = |path: &str| root.path(path);
        match self {
            Self::Remove(path) => fs::remove_file(at(path)).with_context(|| (*path).to_owned()),
            Self::Mode(path, mode) => Ok(fs::set_permissions(at(path), Permissions::from_mode(*mode))?),
            Self::Empty(path) => Ok(fs::write(at(path), "")?),
            Self::Write(path, content) => {
                fs::create_dir_all(at(path).parent().unwrap_or(Path::new("/")))?;
                Ok(fs::write(at(path), content)?)
            }
            Self::Folder(path) => Ok(fs::create_dir(at(path))?),
            Self::DanglingLink(path) => Ok(symlink("nowhere", at(path))?),
            Self::LoseModules(modules) => lose_modules(root, modules),
            Self::BuiltIn(modules) => {
                let mut list = OpenOptions::new().append(true).open(root.modules().join("modules.builtin"))?;
                modules.iter().try_for_each(|module| Ok(writeln!(list, "kernel/built-in/{module}.ko")?))
            }
            Self::Target => make_target(root),
            Self::EmptyInTarget(path) => Ok(fs::write(at(TARGET).join(path.trim_start_matches('/')), "")?),
        }
    }
}

/// Whether a path is that of a kernel module, compressed or not.
pub fn is_module(path: &str, module: &str) -> bool {
    let name =
        path.rsplit('/').next().and_then(|name| name.strip_prefix(module)).and_then(|rest| rest.strip_prefix(".ko"));
    let compressed = |kind: &str| kind.len() > 1 && kind[1..].chars().all(|c| c.is_ascii_lowercase());
    name.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') && compressed(rest))
}

fn lose_modules(root: &Root, modules: &[&str]) -> Result<()> {
    let lost = |path: &str| modules.iter().any(|module| is_module(path, module));
    remove_files(&root.modules(), &lost)?;
    let kept: String = root.built_in()?.lines().filter(|line| !lost(line)).flat_map(|line| [line, "\n"]).collect();
    fs::write(root.modules().join("modules.builtin"), kept)?;
    root.depmod()
}

fn remove_files(folder: &Path, which: &impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_files(&entry.path(), which)?;
        } else if which(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make_target(root: &Root) -> Result<()> {
    let ours = root.folder_beside("sealroot")?;
    let program = Path::new(PROGRAM);
    fs::copy(root.path(PROGRAM), ours.join(program.file_name().context(PROGRAM)?))?;
    fs::create_dir(root.path(TARGET))?;
    root.bind(&root.path("/"), TARGET)?;
    root.bind(&ours, &format!("{TARGET}/usr/lib/sealroot"))?;
    // dracut 059 has to be told where systemd lies in there.
    let settings = format!(
        "systemdutildir=/usr/lib/systemd\nsystemdsystemunitdir={UNITS}\nsystemdsystemconfdir=/etc/systemd/system\n"
    );
    fs::create_dir_all(root.path("/etc/dracut.conf.d"))?;
    Ok(fs::write(root.path("/etc/dracut.conf.d/systemd.conf"), settings)?)
}
