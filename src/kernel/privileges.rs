//! Capabilities: the needed ones are there, the others go.
//!
//! Overlayfs keeps the capabilities of the process that mounted it and uses them for every later access to its layers,
//! as long as the mount lives. What is dropped here is therefore missing in the booted system too, when a file of /etc
//! is copied up: everything that has to do with files stays.

use caps::Capability;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::refusal::Refusal;

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

/// Checks that the needed capabilities are permitted and drops all others.
pub fn drop_unneeded() -> Result<(), Refusal> {
    // Both in one call; `caps` makes one for each question.
    let permitted = rustix::thread::capabilities(None)
        .map_err(|reason| Refusal::of("capabilities: read").because(reason))?
        .permitted;
    let mut kept = CapabilitySet::empty();
    for capability in REQUIRED.into_iter().chain(KEPT) {
        let bit = CapabilitySet::from_bits_retain(capability.bitmask());
        if permitted.contains(bit) {
            kept |= bit;
        } else if REQUIRED.contains(&capability) {
            let expected = format!("{capability} to be permitted");
            return Err(Refusal::of("capabilities").expected(expected).found("it missing"));
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(|reason| Refusal::of("capabilities: drop").because(reason))
}
