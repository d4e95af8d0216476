//! The repositories that `qemu/golden` makes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

pub struct Golden {
    folder: PathBuf,
    values: HashMap<String, String>,
}

pub static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/golden");
    let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("qemu/golden");
    assert!(output.status.success(), "qemu/golden: {}", output.status);
    let folder = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim_end());
    let text = fs::read_to_string(folder.join("env")).expect("env");
    let values = text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into()));
    Golden { values: values.collect(), folder }
});

impl Golden {
    /// A value of `env`: `SHA512_V1`.
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("qemu/golden gives no value '{name}'"))
    }

    /// The path of the repository with this algorithm.
    pub fn repository(&self, algorithm: &str) -> String {
        self.folder.join(algorithm).to_str().expect("UTF-8").to_owned()
    }

    /// The path of an image of the repository with SHA-512, as an ordinary file.
    pub fn image(&self, name: &str) -> String {
        let (start, rest) = self.value(name).split_at(2);
        format!("{}/objects/{start}/{rest}", self.repository("sha512"))
    }

    /// The karg of the image that most tests are about.
    pub fn karg(&self) -> String {
        format!("composefs.digest=v1-sha512-12:{}", self.value("SHA512_V1"))
    }

    /// How answers name it.
    pub fn requested(&self) -> String {
        format!("v1 sha512:{}", self.value("SHA512_V1"))
    }
}
