//! Enables fs-verity on everything in composefs repositories, in one process.
//!
//! `verity-enabler sha256|sha512:REPOSITORY...` enables it on each object and on `meta.json`, then has the kernel
//! measure each object and compares with the object's name. One process for all: a process per file takes ten times
//! as long in an emulated machine.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::Path,
    process::ExitCode,
};

/// `FS_IOC_ENABLE_VERITY` and `FS_IOC_MEASURE_VERITY` of the kernel's `linux/fsverity.h`.
const ENABLE: libc::c_ulong = 0x4080_6685;
const MEASURE: libc::c_ulong = 0xc004_6686;

/// `struct fsverity_enable_arg`.
#[repr(C)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<EnableArg>() == 128);

/// `struct fsverity_digest` with room for the longest digest.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

fn main() -> ExitCode {
    let mut count = 0_usize;
    for argument in std::env::args().skip(1) {
        match enable_repository(&argument) {
            Ok(objects) => count += objects,
            Err(error) => {
                eprintln!("verity-enabler: {argument}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("verity-enabler: {count} objects");
    ExitCode::SUCCESS
}

fn enable_repository(argument: &str) -> io::Result<usize> {
    let (name, repository) =
        argument.split_once(':').ok_or_else(|| io::Error::other("expected ALGORITHM:REPOSITORY"))?;
    let algorithm = match name {
        "sha256" => 1,
        "sha512" => 2,
        _ => return Err(io::Error::other("unknown algorithm")),
    };
    let repository = Path::new(repository);
    enable(&File::open(repository.join("meta.json"))?, algorithm)?;
    let mut count = 0;
    for prefix in fs::read_dir(repository.join("objects"))? {
        let prefix = prefix?;
        for object in fs::read_dir(prefix.path())? {
            let object = object?;
            let expected = [prefix.file_name(), object.file_name()].map(|part| part.into_string().unwrap_or_default());
            let file = File::open(object.path())?;
            enable(&file, algorithm)?;
            let measured = measure(&file)?;
            if measured != expected.concat() {
                return Err(io::Error::other(format!("object {}: measured {measured}", expected.concat())));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Enables fs-verity with 4096-byte blocks and no salt, the only form that composefs knows.
fn enable(file: &File, algorithm: u32) -> io::Result<()> {
    let argument = EnableArg {
        version: 1,
        hash_algorithm: algorithm,
        block_size: 4096,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the descriptor is open and the argument is a complete fsverity_enable_arg that the kernel only reads.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), ENABLE as _, &raw const argument) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            error => Err(error),
        },
    }
}

/// What the kernel measures, in hex.
fn measure(file: &File) -> io::Result<String> {
    let mut measured = Measured { algorithm: 0, size: 64, digest: [0; 64] };
    // SAFETY: the descriptor is open and `size` names the room that `digest` has.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE as _, &raw mut measured) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(measured.digest[..usize::from(measured.size)].iter().map(|byte| format!("{byte:02x}")).collect())
}
