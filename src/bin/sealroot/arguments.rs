//! The command line of `sealroot`, as clap parses it and as its documentation is made from.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use sealroot::ask::bypasses::Bypass;
use sealroot::verity::digest::{Algorithm, ImageDigest};

/// The repository of a booted sealed system.
pub const BOOTED_REPOSITORY: &str = "/sysroot/composefs";

/// Asks and checks what a sealed boot decides on: images, repositories, digests.
///
/// Exit status: 0 yes or done, 1 no or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "sealroot", version, max_term_width = 120)]
pub struct Arguments {
    /// Answer with one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Digest(DigestArguments),
    Enable(EnableArguments),
    Inspect(InspectArguments),
    Karg(KargArguments),
    Keep(KeepArguments),
    Manifest(ManifestArguments),
    Probe(ProbeArguments),
    Status(StatusArguments),
    Uki(UkiArguments),
    Verify(VerifyArguments),
}

impl Command {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Digest(_) => "digest",
            Self::Enable(_) => "enable",
            Self::Inspect(_) => "inspect",
            Self::Karg(_) => "karg",
            Self::Keep(_) => "keep",
            Self::Manifest(_) => "manifest",
            Self::Probe(_) => "probe",
            Self::Status(_) => "status",
            Self::Uki(_) => "uki",
            Self::Verify(_) => "verify",
        }
    }
}

/// Compute fs-verity digests in user space
///
/// The digest that the kernel would measure with blocks of 4096 bytes and no salt. Prints what `fsverity digest` prints.
#[derive(Debug, clap::Args)]
pub struct DigestArguments {
    /// Hash algorithm
    #[arg(long, value_enum, default_value = "sha256")]
    pub algorithm: AlgorithmName,
    /// Files to read
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Enable fs-verity where it is missing
///
/// On files, or on every image and every object of a repository; those must have the digest that their name says. What
/// has fs-verity already is measured and left alone, so this can be interrupted and started again.
#[derive(Debug, clap::Args)]
pub struct EnableArguments {
    /// Hash algorithm for FILEs
    #[arg(long, value_enum, default_value = "sha256")]
    pub algorithm: AlgorithmName,
    /// Files
    #[arg(value_name = "FILE", required_unless_present = "repository", conflicts_with = "repository")]
    pub files: Vec<PathBuf>,
    /// A repository's directory
    #[arg(long = "repo", value_name = "DIR")]
    pub repository: Option<PathBuf>,
}

/// Look inside a composefs image
///
/// Without PATH: format, digest, counts and sizes. With PATH: that entry, with its xattrs and its object.
#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// List every entry
    #[arg(long, conflicts_with = "path")]
    pub list: bool,
    /// An absolute path inside the image
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
}

/// Print the kernel command line argument that boots an image
#[derive(Debug, clap::Args)]
pub struct KargArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Who looks for the argument
    #[arg(long = "for", value_name = "TOOL", value_enum, default_value = "sealroot")]
    pub reader: KargReader,
    /// Also print what closes the ways around the seal, for a physical root with ext4: the whole sealed command line
    #[arg(long)]
    pub sealed: bool,
}

/// Write to the disk what changes in the listed files of /etc
///
/// For sealroot-keep.service: with etc.keep (see sealroot.toml(5)), /etc is in memory. Runs until it is told to end (SIGTERM), in the system that the
/// boot program booted. What cannot be written is said, and tried again.
#[derive(Debug, clap::Args)]
pub struct KeepArguments {}

/// Make the sealed list of an initramfs's files
///
/// An archive that becomes the last part of the initramfs, before the image is signed. With it, the boot program refuses an
/// initramfs in which a file was added, changed or left out, and another kernel command line, before systemd starts any unit.
#[derive(Debug, clap::Args)]
pub struct ManifestArguments {
    /// The parts of the initramfs, microcode too, in the order in which the image has them
    #[arg(required = true, value_name = "INITRD")]
    pub initrds: Vec<PathBuf>,
    /// Where to write the archive
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// The kernel command line; of an image with several profiles, that of each
    #[arg(long = "cmdline", value_name = "TEXT")]
    pub command_lines: Vec<String>,
    /// A directory that something fills before units start, and that is to be left alone
    #[arg(long = "ignore", value_name = "DIR")]
    pub ignored: Vec<String>,
}

/// Tell what this kernel and a filesystem can do for a sealed root
///
/// Needs root. Nothing is mounted.
#[derive(Debug, clap::Args)]
pub struct ProbeArguments {
    /// A directory on the filesystem that has the repository, or is to have it [default: /sysroot/composefs, else /]
    #[arg(long = "repo", value_name = "DIR")]
    pub repository: Option<PathBuf>,
}

/// Tell whether this system runs on a sealed root, and on which
///
/// By the kernel's word first; the boot program's report and the command line must agree with it.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {}

/// Tell what a unified kernel image would boot, before it is released or booted
///
/// Yes means: it is signed, its command line names an image, its initramfs has sealroot with all its parts, nothing
/// there overrides or masks them, and the policy in there requires verification. What the boot program would refuse of command
/// line and configuration is told in its words. Without a certificate, only the presence of a signature is checked.
#[derive(Debug, clap::Args)]
pub struct UkiArguments {
    /// The unified kernel image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Also require a signature that a certificate in this file vouches for
    #[arg(long = "cert", value_name = "CERTIFICATE")]
    pub certificate: Option<PathBuf>,
    /// Also require that the repository in this directory has the image with what a boot needs of it, and that the state beside
    /// the repository is what a boot takes
    #[arg(long = "repo", value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// Also require that no way around the seal is open
    #[arg(long)]
    pub strict: bool,
    /// With --strict, let this one be open; may be given more than once
    #[arg(long = "accept", value_name = "BYPASS", requires = "strict", value_parser = bypass)]
    pub accepted: Vec<Bypass>,
    /// Print what forbids this program to start, in base64, and nothing else: a list for the firmware's variable dbx
    #[arg(long, conflicts_with_all = ["certificate", "repository", "strict", "accepted"])]
    pub dbx: bool,
}

/// A way around the seal by its name.
fn bypass(name: &str) -> Result<Bypass, String> {
    let found = Bypass::ALL.iter().copied().find(|bypass| bypass.name() == name);
    found.ok_or_else(|| {
        format!("expected one of {}", Bypass::ALL.iter().map(|bypass| bypass.name()).collect::<Vec<_>>().join(", "))
    })
}

/// Check the images of a repository and every object that they refer to
///
/// Nothing is written. Each broken object is listed with all files that have it as their content. What an image lacks that a
/// boot needs is a warning: not each image is one to boot.
#[derive(Debug, clap::Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    pub repository: RepositoryArgument,
    #[command(flatten)]
    pub images: Selection,
    /// Read every object to its end
    #[arg(long)]
    pub data: bool,
    /// List the objects that no image of the repository refers to
    #[arg(long)]
    pub list_unused: bool,
}

/// Which images of a repository are meant.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// The image with this digest [default: the one that this system runs on]
    #[arg(value_name = "DIGEST")]
    pub digest: Option<ImageDigest>,
    /// Every image
    #[arg(long, conflicts_with = "digest")]
    pub all: bool,
}

/// Which image is meant.
#[derive(Debug, clap::Args)]
pub struct ImageArguments {
    /// An image file, or the digest of an image of the repository
    #[arg(value_name = "IMAGE|DIGEST")]
    pub image: PathBuf,
    #[command(flatten)]
    pub repository: RepositoryArgument,
    /// Hash algorithm of the digest of an image file without fs-verity [default: its objects' one]
    #[arg(long, value_enum)]
    pub algorithm: Option<AlgorithmName>,
}

/// Which repository is meant.
#[derive(Debug, clap::Args)]
pub struct RepositoryArgument {
    /// The repository's directory
    #[arg(long = "repo", value_name = "DIR", default_value = BOOTED_REPOSITORY)]
    pub directory: PathBuf,
}

/// Who looks for a karg on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KargReader {
    /// The boot program alone: the format of the image is named, too, if it is v1
    Sealroot,
    /// bootc and the composefs tools, too: composefs=<hex>, whatever the format
    Bootc,
}

/// An algorithm by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AlgorithmName {
    Sha256,
    Sha512,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::Sha256 => Self::Sha256,
            AlgorithmName::Sha512 => Self::Sha512,
        }
    }
}
