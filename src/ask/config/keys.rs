//! The keys of both files: where each stands, and which setting it sets.

use super::Config;
use super::document::Value;
use super::values::FromValue;

/// A key: its table, its name, and how its value gets into a [`Config`].
pub type Key = (&'static [&'static str], &'static str, fn(&mut Config, Value) -> Result<(), String>);

/// The keys that only [`super::SEALROOT_TOML`] has.
pub const OUR_KEYS: &[Key] = &[
    (&[], "layout", |config, value| set(&mut config.layout, value)),
    (&["policy"], "karg", |config, value| set(&mut config.policy.karg, value)),
    (&["policy"], "unverified", |config, value| set(&mut config.policy.unverified, value)),
    (&["policy"], "secure-boot", |config, value| set(&mut config.policy.secure_boot, value)),
    (&["policy"], "alternatives", |config, value| set(&mut config.policy.alternatives, value)),
    (&["policy"], "firmware-strings", |config, value| set(&mut config.policy.firmware_strings, value)),
    (&["policy"], "missing-verity", |config, value| set(&mut config.policy.missing_verity, value)),
    (&["policy"], "check", |config, value| set(&mut config.policy.check, value)),
    (&["policy"], "on-failure", |config, value| set(&mut config.policy.on_failure, value)),
    (&["policy"], "failure-delay", |config, value| set(&mut config.policy.failure_delay, value)),
    (&["sysroot"], "mount", |config, value| set(&mut config.sysroot.mount, value)),
    (&["etc"], "keep", |config, value| set(&mut config.etc.keep, value)),
];

/// Those of them that say what follows a refusal.
pub const REFUSAL_KEYS: [&str; 2] = ["on-failure", "failure-delay"];

/// The keys of both files.
pub const STATE_KEYS: &[Key] = &[
    (&["root"], "transient", |config, value| set(&mut config.root.transient, value)),
    (&["etc"], "mount", |config, value| set(&mut config.etc.mount, value)),
    (&["etc"], "transient", |config, value| set(&mut config.etc.transient, value)),
    (&["etc"], "flags", |config, value| set(&mut config.etc.flags, value)),
    (&["var"], "mount", |config, value| set(&mut config.var.mount, value)),
    (&["var"], "transient", |config, value| set(&mut config.var.transient, value)),
    (&["var"], "flags", |config, value| set(&mut config.var.flags, value)),
];

fn set<T: FromValue>(slot: &mut Option<T>, value: Value) -> Result<(), String> {
    if slot.is_some() {
        return Err("set twice".into());
    }
    *slot = Some(T::from_value(value)?);
    Ok(())
}
