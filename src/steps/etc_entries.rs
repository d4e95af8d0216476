//! Entries of a deployment's /etc that there is something to say about, each with the reason: for the report and the log.

use std::fmt;

use miniserde::Serialize;

/// How many entries the report names, and how many the line in the log.
const NAMED: usize = 64;
const NAMED_IN_LOG: usize = 3;
/// So many bytes of a path are shown.
const SHOWN: usize = 120;

/// Such entries. `Default` is none.
#[derive(Debug, Default, Serialize)]
pub struct EtcEntries {
    /// How many, each with all that is below.
    count: usize,
    /// Where they are, on the physical root.
    folder: String,
    /// The first of them.
    entries: Vec<Named>,
}

/// One of them: its path below /etc, escaped.
#[derive(Debug, Serialize)]
struct Named {
    path: String,
    reason: &'static str,
}

impl EtcEntries {
    /// None yet, of a folder on the physical root.
    pub(crate) fn of(folder: String) -> Self {
        Self { folder, ..Self::default() }
    }

    /// One more.
    pub(crate) fn add(&mut self, path: &[u8], reason: &'static str) {
        self.count += 1;
        if self.entries.len() < NAMED {
            self.entries.push(Named { path: shown(path), reason });
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The line in the log: how many there are of `what` they are, where, and the first.
    pub fn describe(&self, what: &str) -> impl fmt::Display {
        let Self { count, folder, entries } = self;
        let number = if *count == 1 { "1 entry" } else { &format!("{count} entries") };
        let named = entries.iter().take(NAMED_IN_LOG).map(|Named { path, reason }| format!("'{path}' ({reason})"));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match count.saturating_sub(NAMED_IN_LOG) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("etc: {number} that {what} in '{folder}': {named}{more}")
    }
}

/// A path on the disk, for messages: what is not printable escaped, and not too long.
pub(crate) fn shown(path: &[u8]) -> String {
    match path.get(..SHOWN) {
        Some(start) if path.len() > SHOWN => format!("{}...", start.escape_ascii()),
        _ => path.escape_ascii().to_string(),
    }
}
