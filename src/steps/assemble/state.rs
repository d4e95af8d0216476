//! What the physical root keeps for a deployment: which directory that is, and the layers in it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::Place;
use crate::disk::layer::{self, Ownership};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;
use crate::verity::digest::ImageDigest;

/// A directory that keeps state on the physical root, by its path there.
fn about_state(name: &str) -> Refusal {
    Refusal::of(format!("state directory '{name}'"))
}

/// The same, if it cannot be looked up or changed.
pub(in crate::steps) fn state_error(name: &str, reason: impl Into<LookupError>) -> Refusal {
    about_state(name).because(reason.into())
}

/// The directory that keeps what a place of the root has of its own, with its path on the physical root.
///
/// Looked up from the physical root's directory: `var` may be a link to a directory that deployments share, and a
/// link out of the physical root must not lead anywhere. `etc` is no link, nor is anything on the way there.
pub(in crate::steps) fn state_directory(
    physical: impl AsFd,
    digest: ImageDigest,
    place: Place,
) -> Result<(String, OwnedFd), Refusal> {
    let name = format!("state/deploy/{}/{}", digest.to_hex(), place.name());
    let failed = |reason| match reason {
        LookupError::Kernel(Errno::NOENT) => {
            let expected = format!("a directory, or {}.mount = \"transient\"", place.name());
            state_error(&name, reason).expected(expected)
        }
        reason => state_error(&name, reason),
    };
    if place != Place::Var {
        let state = lookup::directory(physical, &name, Links::Refused).map_err(failed)?;
        return Ok((name, state));
    }
    let state = lookup::directory(&physical, &name, Links::Beneath).map_err(failed)?;
    let path = lookup::path_below(physical, &state).map_err(|reason| failed(reason.into()))?;
    if !is_apart_from_etc(&path) {
        let found = format_args!("'{}'", path.escape_ascii()).to_string();
        return Err(about_state(&name).expected("a directory apart from those of /etc").found(found));
    }
    Ok((name, state))
}

/// Whether a directory, by its path from the physical root, neither has the state of an /etc in it nor lies in one: who may write
/// there, such as a service to its own directory in /var, must not write to /etc.
fn is_apart_from_etc(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] | [b"state"] | [b"state", b"deploy"] | [b"state", b"deploy", _] => false,
        [b"state", b"deploy", _, name, ..] => *name != b"etc",
        _ => true,
    }
}

/// What sealroot itself has in the directory of an overlay's layers.
const LAYERS: [&[u8]; 5] = [b"upper", b"work", b"upper.new", b"work.new", b"new"];

/// Where no upper layer is yet, there must be nothing of another layout, such as bootc's whole copy of /etc: an overlay would hide it
/// without a word.
pub(in crate::steps) fn expect_layers(state: &OwnedFd, name: &str, place: Place) -> Result<(), Refusal> {
    if !matches!(rustix::fs::statat(state, "upper", AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
        return Ok(());
    }
    for entry in lookup::entries(state).map_err(|reason| state_error(name, reason))? {
        let entry = entry.map_err(|reason| state_error(name, reason))?;
        let found = entry.file_name().to_bytes();
        if !LAYERS.contains(&found) && !matches!(found, b"." | b"..") {
            let expected = format!("the layers of an overlay ({}.mount = \"overlay\")", place.name());
            return Err(about_state(name).expected(expected).found(format_args!("'{}'", found.escape_ascii())));
        }
    }
    Ok(())
}

/// In a directory that is mounted as it is, there must be more than the layers of an overlay, below which a machine's own files would
/// disappear without a word. Whether there is anything at all.
pub(in crate::steps) fn expect_files(state: &OwnedFd, name: &str, place: Place) -> Result<bool, Refusal> {
    let failed = |reason| state_error(name, reason);
    let mut is_empty = true;
    for entry in lookup::entries(state).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let found = entry.file_name().to_bytes();
        if matches!(found, b"." | b"..") {
            continue;
        }
        if !LAYERS.contains(&found) {
            return Ok(true);
        }
        is_empty = false;
    }
    if is_empty { Ok(false) } else { Err(no_files(name, place).found("nothing but the layers of an overlay")) }
}

/// About a directory that should hold what is to be seen at its place.
pub(in crate::steps) fn no_files(name: &str, place: Place) -> Refusal {
    about_state(name).expected(format!("files of /{0} ({0}.mount = \"bind\")", place.name()))
}

/// A work directory: whoever owns the sealed directory owns it, and it is 0700, as overlayfs asks for; made where it is missing.
pub(super) fn work_layer(state: &OwnedFd, parent: &str, like: Ownership) -> Result<OwnedFd, Refusal> {
    let expected = Ownership { mode: 0o700, ..like };
    let fd = layer(state, parent, "work", expected, |found| may_become(found, expected))?;
    expect_nothing_lost(&fd, parent)?;
    Ok(fd)
}

/// Looks for what an overlay leaves behind after a crash that was mounted with the option volatile.
pub(in crate::steps) fn expect_nothing_lost(work: &OwnedFd, parent: &str) -> Result<(), Refusal> {
    let forbidden = lookup::directory(work, "work", Links::Refused)
        .is_ok_and(|work| rustix::fs::statat(work, "incompat", AtFlags::SYMLINK_NOFOLLOW).is_ok());
    if forbidden {
        let found = "'work/incompat': changes may have been lost";
        return Err(about_state(&format!("{parent}/work")).expected("nothing that forbids the mount").found(found));
    }
    Ok(())
}

/// An upper directory, owned by whoever owns the sealed directory, with its mode, access lists and label; made where it is missing.
pub(super) fn upper_layer(
    state: &OwnedFd,
    parent: &str,
    like: Ownership,
    sealed: &OwnedFd,
) -> Result<OwnedFd, Refusal> {
    let fd = layer(state, parent, "upper", like, |found| may_become(found, like))?;
    layer::give_attributes(&fd, sealed).map_err(|reason| state_error(&format!("{parent}/upper"), reason))?;
    Ok(fd)
}

/// Whether a layer that another tool made can be made as it must be: nobody but its owner could write to it. composefs-rs 0.9.4
/// makes work 0755, older ones made upper 0700.
pub(in crate::steps) fn may_become(found: Ownership, expected: Ownership) -> bool {
    (found.user, found.group) == (expected.user, expected.group) && found.mode & !0o755 == 0 || found == expected
}

/// A layer whose ownership is accepted, and is then as `expected`; made so where it is missing.
fn layer(
    state: &OwnedFd,
    parent: &str,
    name: &str,
    expected: Ownership,
    accepted: impl Fn(Ownership) -> bool,
) -> Result<OwnedFd, Refusal> {
    let failed = |reason: LookupError| state_error(&format!("{parent}/{name}"), reason);
    let (fd, found) = match existing_layer(state, parent, name, expected, &accepted)? {
        Some(layer) => layer,
        None => {
            layer::make(state, name, expected).map_err(failed)?;
            existing_layer(state, parent, name, expected, &accepted)?.ok_or_else(|| failed(Errno::NOENT.into()))?
        }
    };
    if found != expected {
        rustix::fs::chmod(lookup::proc_path(fd.as_fd()), Mode::from_raw_mode(expected.mode))
            .map_err(|reason| failed(reason.into()))?;
    }
    Ok(fd)
}

/// A layer whose ownership is accepted, as it is found, with that; `None` where there is none. Nothing is changed.
pub(in crate::steps) fn existing_layer(
    state: &OwnedFd,
    parent: &str,
    name: &str,
    expected: Ownership,
    accepted: impl Fn(Ownership) -> bool,
) -> Result<Option<(OwnedFd, Ownership)>, Refusal> {
    let path = format!("{parent}/{name}");
    let fd = match lookup::directory(state, name, Links::Refused) {
        Ok(fd) => fd,
        Err(LookupError::Kernel(Errno::NOENT)) => return Ok(None),
        Err(reason) => return Err(state_error(&path, reason)),
    };
    let found = Ownership::of(&fd).map_err(|reason| state_error(&path, reason))?;
    if accepted(found) {
        return Ok(Some((fd, found)));
    }
    Err(about_state(&path).expected(format!("owner and mode {expected}")).found(found))
}

#[cfg(test)]
mod tests {
    use super::is_apart_from_etc;

    #[test]
    fn where_var_may_lie() {
        for path in [
            "/state/deploy/a/var",
            "/state/os/default/var",
            "/var",
            "/state/deploy/a/etcetera",
            "/state/deploy/a/var/etc",
        ] {
            assert!(is_apart_from_etc(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "/",
            "/state",
            "/state/deploy",
            "/state/deploy/a",
            "/state/deploy/a/etc",
            "/state/deploy/b/etc/upper/x",
        ] {
            assert!(!is_apart_from_etc(path.as_bytes()), "{path}");
        }
    }
}
