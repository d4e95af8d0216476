//! Capabilities: the needed ones are there, the others go.
//!
//! Overlayfs keeps the capabilities of the process that mounted it and uses them for every later access to its layers,
//! as long as the mount lives. What is dropped here is therefore missing in the booted system too, when a file of /etc
//! is copied up: everything that has to do with files stays.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
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
const KEPT: [Capability; 5] = [
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_MAC_ADMIN,
    Capability::CAP_MAC_OVERRIDE,
    Capability::CAP_SYS_RESOURCE,
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
    /// The kernel did not let them be read or dropped.
    #[error("capabilities: {step}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        reason: CapsError,
    },
}

/// Checks that the needed capabilities are permitted and drops all others.
pub fn drop_unneeded() -> Result<(), PrivilegeError> {
    let failed = |step| move |reason| PrivilegeError::Kernel { step, reason };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed("read"))?;
    if let Some(missing) = REQUIRED.into_iter().find(|capability| !permitted.contains(capability)) {
        return Err(PrivilegeError::Missing { missing });
    }
    let kept: CapsHashSet =
        REQUIRED.into_iter().chain(KEPT).filter(|capability| permitted.contains(capability)).collect();
    // An effective or inheritable capability must be permitted, so the permitted set shrinks last.
    for (set, value) in
        [(CapSet::Inheritable, &CapsHashSet::new()), (CapSet::Effective, &kept), (CapSet::Permitted, &kept)]
    {
        caps::set(None, set, value).map_err(failed("drop"))?;
    }
    Ok(())
}
