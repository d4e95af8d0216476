//! What is slow to make is kept in the cache of `qemu/`, under the same rules: complete or not there, made once.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use machines::builders;
use sha2::{Digest, Sha256};

/// How long something is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The folder of a kind and a key, filled by `build` where it is not there yet. The key is all that it depends on.
///
/// # Errors
/// It cannot be built or published.
pub fn cached(kind: &str, key: &[&[u8]], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = builders::cache();
    let key = key_of(key);
    let target = cache.join(kind).join(&key);
    let locks = cache.join("lock");
    fs::create_dir_all(&locks)?;
    let lock = File::create(locks.join(format!("{kind}-{key}")))?;
    lock.lock()?;
    if !target.is_dir() {
        let new = builders::scratch()?;
        build(new.path()).with_context(|| format!("building {kind}"))?;
        fs::set_permissions(new.path(), Permissions::from_mode(0o755))?;
        fs::create_dir_all(cache.join(kind))?;
        fs::rename(new.keep(), &target).with_context(|| target.display().to_string())?;
        prune(&cache.join(kind), &target)?;
    }
    File::open(&target)?.set_modified(SystemTime::now())?;
    Ok(target)
}

fn key_of(items: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for item in items {
        // With its length: no two lists are one text.
        hash.update((item.len() as u64).to_le_bytes());
        hash.update(item);
    }
    hash.finalize().iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes what nobody asked for in a while, but for the new one.
fn prune(kind: &Path, new: &Path) -> io::Result<()> {
    for entry in fs::read_dir(kind)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if entry.file_type()?.is_dir() && entry.path() != new && age > KEPT {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_where_their_items_do() {
        assert_eq!(key_of(&[b"a", b"b"]), key_of(&[b"a", b"b"]));
        assert_eq!(key_of(&[]).len(), 20);
        for other in [&[b"ab".as_slice()][..], &[b"a", b"", b"b"], &[b"b", b"a"], &[b"a"], &[]] {
            assert_ne!(key_of(&[b"a", b"b"]), key_of(other), "{other:?}");
        }
    }
}
