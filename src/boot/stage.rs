//! The steps of a boot, by the names that messages and the report give them.

use std::fmt;

use crate::formats::names::names;

/// A step of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a step of the crate's flow")]
pub enum Stage {
    Privileges,
    Ask,
    Find,
    Measure,
    LookInside,
    Objects,
    Mount,
    Assemble,
    Prove,
    Replace,
    Gate,
    Earlier,
}

names!(Stage:
    Privileges = "privileges",
    Ask = "ask",
    Find = "find",
    Measure = "measure",
    LookInside = "look-inside",
    Objects = "objects",
    Mount = "mount",
    Assemble = "assemble",
    Prove = "prove",
    Replace = "replace",
    Gate = "gate",
    Earlier = "earlier-run"
);

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
