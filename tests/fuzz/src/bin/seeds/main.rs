//! Writes the seeds that are no text: `seeds FOLDER elf|stub|uki`, `seeds FOLDER image REPOSITORY_WRITER`.
//!
//! The folder is there. `REPOSITORY_WRITER` is the program of `qemu/repository-writer`; gzip and zstd compress.

mod bytes;
mod elf;
mod image;
mod stub;
mod tree;
mod uki;

use std::error::Error;
use std::path::Path;
use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [folder, "elf"] => elf::write(Path::new(folder)),
        [folder, "stub"] => stub::write(Path::new(folder)),
        [folder, "uki"] => uki::write(Path::new(folder)),
        [folder, "image", writer] => image::write(Path::new(folder), writer),
        _ => Err("usage: seeds FOLDER elf|stub|uki, or seeds FOLDER image REPOSITORY_WRITER".into()),
    }
}

/// What a command prints; its failure is one.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(output.stdout)
}
