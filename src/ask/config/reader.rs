//! One file's items, each at its key, into a [`Config`].

use super::document::{self, Item, Value};
use super::keys::{Key, OUR_KEYS, STATE_KEYS};
use super::values::one_of;
use super::{Config, SEALROOT_TOML, SETUP_ROOT_CONF_TOML};
use crate::refusal::Refusal;

/// A file: its keys, and what becomes of others.
pub struct Syntax {
    path: &'static str,
    keys: &'static [&'static [Key]],
    unknown: Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Listed,
}

pub const OUR_FILE: Syntax = Syntax { path: SEALROOT_TOML, keys: &[OUR_KEYS, STATE_KEYS], unknown: Unknown::Refused };
pub const THEIR_FILE: Syntax = Syntax { path: SETUP_ROOT_CONF_TOML, keys: &[STATE_KEYS], unknown: Unknown::Listed };

/// What is at a path of the document.
enum Known<'a> {
    Key(&'a Key),
    Table,
    /// So many parts of the path, from its start, name what nobody knows.
    Unknown(usize),
    /// The key that these parts name would have to be a table.
    Below(&'a Key, usize),
}

impl Syntax {
    fn keys(&self) -> impl Iterator<Item = &Key> + Clone {
        self.keys.iter().copied().flatten()
    }

    fn look_up(&self, path: &[String]) -> Known<'_> {
        if let Some(key) = self.key(path) {
            return Known::Key(key);
        }
        for parts in 1..=path.len() {
            let name = path.get(..parts).unwrap_or(path);
            if let Some(key) = self.key(name) {
                return Known::Below(key, parts);
            }
            if !self.keys().any(|(table, ..)| !table.is_empty() && name == *table) {
                return Known::Unknown(parts);
            }
        }
        Known::Table
    }

    fn key(&self, path: &[String]) -> Option<&Key> {
        self.keys().find(|(table, key, _)| is_key(path, table, key))
    }

    /// What could have stood there instead of a name that is unknown.
    fn expected(&self, path: &[String], is_table: bool) -> String {
        let parents = path.split_last().map_or(path, |(_, parents)| parents);
        let mut names = Vec::new();
        for (table, key, _) in self.keys() {
            match table.first() {
                Some(table) if is_table && !names.contains(table) => names.push(table),
                _ if !is_table && parents == *table => names.push(key),
                _ => {}
            }
        }
        if names.is_empty() { "a known table".into() } else { one_of(&names) }
    }
}

/// Parses a file.
pub fn parse(syntax: &Syntax, text: &str) -> Result<Config, Refusal> {
    let failed = |offset, reason: String| {
        let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Refusal::of(format!("{}:{line}: {reason}", syntax.path))
    };
    let items = document::items(text).map_err(|error| failed(error.offset, error.reason))?;
    let mut reader = Reader { syntax, config: Config::default(), tables: Vec::new() };
    for item in items {
        let offset = item.offset;
        reader.read(item).map_err(|reason| failed(offset, reason))?;
    }
    Ok(reader.config)
}

/// A table that was defined.
struct Table {
    path: Vec<String>,
    /// Whether it is an inline one, to which nothing can be added.
    inline: bool,
}

struct Reader<'a> {
    syntax: &'a Syntax,
    config: Config,
    tables: Vec<Table>,
}

impl Reader<'_> {
    fn read(&mut self, item: Item) -> Result<(), String> {
        let name = || dotted(&item.path);
        match (self.syntax.look_up(&item.path), item.value) {
            (Known::Table, None) => self.open_table(item.path, item.inline),
            (Known::Table, Some(value)) => Err(format!("{}: expected a table, found {value}", name())),
            (Known::Key((table, _, set)), Some(value)) => {
                self.enter_table(table, item.inline)?;
                set(&mut self.config, value).map_err(|reason| format!("{}: {reason}", name()))
            }
            (Known::Key(key), None) => not_a_table(key, &item.path),
            (Known::Below(key, parts), _) => not_a_table(key, item.path.get(..parts).unwrap_or_default()),
            (Known::Unknown(parts), value) => self.unknown(&item.path, parts, value.is_none()),
        }
    }

    fn open_table(&mut self, path: Vec<String>, inline: bool) -> Result<(), String> {
        if self.tables.iter().any(|table| table.path == path) {
            return Err(defined_twice(&path));
        }
        self.tables.push(Table { path, inline });
        Ok(())
    }

    /// A dotted key defines its table as a header does.
    fn enter_table(&mut self, path: &[&str], inline: bool) -> Result<(), String> {
        match self.tables.iter().find(|table| table.path == path) {
            Some(table) if table.inline && !inline => Err(defined_twice(&table.path)),
            Some(_) => Ok(()),
            None => {
                self.tables.push(Table { path: path.iter().map(|&part| part.to_owned()).collect(), inline: false });
                Ok(())
            }
        }
    }

    /// Something at `path`, whose first `parts` nobody knows; what is below that is not told once more.
    fn unknown(&mut self, path: &[String], parts: usize, is_table: bool) -> Result<(), String> {
        match self.syntax.unknown {
            Unknown::Refused => {
                let kind = if is_table { "table" } else { "key" };
                Err(format!("unknown {kind} '{}', expected {}", dotted(path), self.syntax.expected(path, is_table)))
            }
            Unknown::Listed => {
                let name = dotted(path.get(..parts).unwrap_or(path));
                if !self.config.unknown.contains(&name) {
                    self.config.unknown.push(name);
                }
                Ok(())
            }
        }
    }
}

/// What a key is expected to be instead of a table.
fn not_a_table((.., set): &Key, path: &[String]) -> Result<(), String> {
    set(&mut Config::default(), Value::Nested("a table")).map_err(|reason| format!("{}: {reason}", dotted(path)))
}

fn defined_twice(path: &[String]) -> String {
    format!("table '{}' is defined twice", dotted(path))
}

/// Whether a path is that of a key.
pub fn is_key(path: &[String], table: &[&str], name: &str) -> bool {
    path.split_last().is_some_and(|(last, parents)| last == name && parents == table)
}

/// A name for messages, whatever it consists of.
fn dotted(path: &[String]) -> String {
    path.join(".").escape_default().to_string()
}
