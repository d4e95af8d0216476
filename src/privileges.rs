//! Capabilities: the needed ones are there, the others go.
//!
//! Overlayfs keeps the capabilities of the process that mounted it and uses them for every later access to its layers,
//! as long as the mount lives. What is dropped here is therefore missing in the booted system too, when a file of /etc
//! is copied up: everything that has to do with files stays.

use caps::Capability;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use thiserror::Error;

/// Without one of these either the mounts fail or the overlay over /etc is crippled.
const REQUIRED: [Capability; 7] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
];

/// Kept where they are: a container or a security module may have taken them away for good reason.
const KEPT: [Capability; 6] = [
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_MAC_ADMIN,
    Capability::CAP_MAC_OVERRIDE,
    Capability::CAP_SYS_RESOURCE,
    // For what follows a refusal.
    Capability::CAP_SYS_BOOT,
];

/// Why the program cannot do its work with the capabilities that it has.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// One is missing.
    #[error("capabilities: expected {missing} to be permitted, found it missing")]
    Missing {
        /// Its name.
        missing: Capability,
    },
    /// The kernel did not let them be read.
    #[error("capabilities: read")]
    Read(#[source] Errno),
    /// The kernel did not let them be dropped.
    #[error("capabilities: drop")]
    Drop(#[source] Errno),
}

/// Checks that the needed capabilities are permitted and drops all others.
pub fn drop_unneeded() -> Result<(), PrivilegeError> {
    // Both in one call; `caps` makes one for each question.
    let permitted = rustix::thread::capabilities(None).map_err(PrivilegeError::Read)?.permitted;
    let mut kept = CapabilitySet::empty();
    for capability in REQUIRED.into_iter().chain(KEPT) {
        let bit = CapabilitySet::from_bits_retain(capability.bitmask());
        if permitted.contains(bit) {
            kept |= bit;
        } else if REQUIRED.contains(&capability) {
            return Err(PrivilegeError::Missing { missing: capability });
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(PrivilegeError::Drop)
}
