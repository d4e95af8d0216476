//! What lies beside a repository on a disk: the state of its deployments, and whether a boot would take it.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sealroot::ask::policy::Settings;
use sealroot::disk::repository::{REPOSITORY, Repository};
use sealroot::kernel::lookup::{self, Links, LookupError};
use sealroot::refusal::{Refusal, chain};
use sealroot::steps::look_at_state::{look_at_state, needs_state};
use sealroot::verity::digest::ImageDigest;

use crate::contents::Contents;

/// Where the state of all deployments is, on the physical root.
const STATE: &str = "state/deploy";

/// What a boot would refuse, and what is to be looked at by people.
#[derive(Debug, Default)]
pub struct Told {
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

/// Looks at the state of the deployment that an image is for, on the disk that the repository is on.
pub fn look(repository: &Repository, digest: ImageDigest, settings: &Settings, contents: &Contents<'_>) -> Told {
    let mut told = Told::default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Whatever link led to the repository: the boot program looks from the root of the disk.
    let physical = match rustix::fs::openat(repository, "..", flags, Mode::empty()) {
        Ok(physical) => physical,
        Err(reason) => {
            told.warnings.push(chain(&Refusal::of("physical root").because(reason)));
            return told;
        }
    };
    match lookup::directory(&physical, STATE, Links::Beneath) {
        // No disk to boot from yet, or not at all.
        Err(LookupError::Kernel(Errno::NOENT)) => {
            let expected = format!("'{STATE}/{}' beside '{REPOSITORY}'", digest.to_hex());
            let refusal = Refusal::of("physical root").expected(expected).found("no state of any deployment");
            told.warnings.extend(needs_state(settings).then(|| refusal.to_string()));
        }
        Ok(_) | Err(_) => {
            let found = look_at_state(&physical, digest, settings, |directory| contents.ownership(directory));
            told.problems.extend(found.refused.iter().map(|refusal| chain(refusal)));
            told.warnings.extend(found.doubtful.iter().map(|refusal| chain(refusal)));
        }
    }
    told
}
