//! What a value must be to become a setting, and the names of each setting's values.

use super::document::Value;
use super::settings::{
    Alternatives, Check, FirmwareStrings, KargPolicy, Layout, MissingVerity, MountFlag, OnFailure, SecureBootPolicy,
    StateMount, SysrootMount, UnverifiedPolicy,
};
use crate::ask::keep::KeepList;
use crate::formats::names::names;

/// A type that a key can have. The error is what was expected and what was found.
pub trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(value) => Ok(value),
            other => Err(format!("expected true or false, found {other}")),
        }
    }
}

impl FromValue for u8 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Self::try_from(number).map_err(|_| value),
            other => Err(other),
        }
        .map_err(|found| format!("expected an integer from 0 to {}, found {found}", Self::MAX))
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(format!("expected a string, found {other}")),
        }
    }
}

impl FromValue for KeepList {
    fn from_value(value: Value) -> Result<Self, String> {
        Self::try_from(Vec::<String>::from_value(value)?).map_err(|error| error.to_string())
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Array(elements) => elements.into_iter().map(T::from_value).collect(),
            other => Err(format!("expected an array, found {other}")),
        }
    }
}

/// Gives an enum the names of its values, for the report and for files; `or` another that files may say.
macro_rules! named {
    ($type:ident: $($value:ident = $name:literal $(or $other:literal)?),+) => {
        names!($type: $($value = $name),+);

        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    $(Value::String(name) if name == $name $(|| name == $other)? => Ok(Self::$value),)+
                    other => Err(format!("expected {}, found {other}", one_of(&[$($name),+]))),
                }
            }
        }
    };
}

named!(Layout: Composefs = "composefs", Bootc = "bootc");
named!(KargPolicy: Require = "require", Optional = "optional");
named!(UnverifiedPolicy: Refuse = "refuse", AllowWithoutSecureBoot = "allow-without-secure-boot");
named!(SecureBootPolicy: Report = "report", Require = "require");
named!(Alternatives: Refuse = "refuse", FirstExisting = "first-existing");
named!(FirmwareStrings: Refuse = "refuse", Report = "report");
named!(MissingVerity: Refuse = "refuse", Enable = "enable");
named!(Check: Digest = "digest", Image = "image", Objects = "objects", Data = "data");
named!(OnFailure: Auto = "auto", Emergency = "emergency", Reboot = "reboot", Poweroff = "poweroff", Halt = "halt");
named!(StateMount: Overlay = "overlay", Bind = "bind", Transient = "transient" or "volatile", None = "none" or "root");
named!(SysrootMount: ReadOnly = "readonly", Writable = "writable", None = "none");
named!(MountFlag: Nosuid = "nosuid", Nodev = "nodev", Noexec = "noexec");

/// `one of 'a', 'b'`
pub fn one_of(names: &[&str]) -> String {
    format!("one of '{}'", names.join("', '"))
}
