//! That the man page has each field of an answer in JSON. Used by the tests of `tests/machines`, too.

use std::collections::BTreeSet;

use serde_json::Value;

const MAN_PAGE: &str = include_str!("../../man/sealroot.1");
/// What is in these has names of its own: keys of the config, and xattrs.
const OTHERS: [&str; 2] = ["policy", "xattrs"];

/// The names of all fields of an answer's `result`, but for what is in [`OTHERS`].
pub fn fields(answer: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(&answer["result"], &mut names);
    names
}

fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !OTHERS.contains(&name.as_str())) {
                names.insert(name.clone());
                collect(value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

/// Those that the man page does not show, in bold or italic.
pub fn undocumented(fields: &BTreeSet<String>) -> Vec<&str> {
    let shown: BTreeSet<_> = MAN_PAGE.lines().filter(|line| is_shown(line)).flat_map(words).collect();
    fields.iter().map(String::as_str).filter(|field| !shown.contains(field)).collect()
}

/// Whether a line is `.B`, `.I`, `.BR` or such.
fn is_shown(line: &str) -> bool {
    let macro_name = line.strip_prefix('.').and_then(|rest| rest.split_once(' ')).map(|(name, _)| name);
    macro_name.is_some_and(|name| ["B", "I", "BR", "BI", "IR"].contains(&name))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}
