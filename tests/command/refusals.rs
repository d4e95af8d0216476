//! `docs/refusals.md`: each message that a test expects, and no other.

use std::fs;
use std::path::{Path, PathBuf};

/// The stages, as messages begin with them.
const STAGES: [&str; 12] = [
    "privileges",
    "earlier-run",
    "ask",
    "find",
    "measure",
    "look-inside",
    "objects",
    "mount",
    "assemble",
    "prove",
    "replace",
    "gate",
];
/// What can be anything.
const ANYTHING: char = '…';

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The string literals of a file of Rust.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            // A character, such as '"'.
            '\'' if rest.peek() == Some(&'"') => drop(rest.next()),
            '"' => {
                let mut literal = String::new();
                while let Some(inside) = rest.next().filter(|inside| *inside != '"') {
                    match (inside, if inside == '\\' { rest.next() } else { None }) {
                        (_, Some('\n')) => while rest.next_if(|blank| blank.is_whitespace()).is_some() {},
                        (_, Some(escaped)) => literal.push(escaped),
                        _ => literal.push(inside),
                    }
                }
                found.push(literal);
            }
            _ => {}
        }
    }
    found
}

/// With each placeholder of `format!` and of the tests' tables as [`ANYTHING`].
fn pattern(literal: &str) -> String {
    let mut pattern = String::new();
    let mut depth = 0;
    for character in literal.replace(".*", "{}").chars() {
        match character {
            '{' => {
                depth += 1;
                if depth == 1 {
                    pattern.push(ANYTHING);
                }
            }
            '}' => depth -= 1,
            _ if depth == 0 => pattern.push(character),
            _ => {}
        }
    }
    pattern
}

/// Whether there is a text that both patterns fit.
fn meet(one: &[char], other: &[char]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([ANYTHING, rest @ ..], _) => (0..=other.len()).any(|skipped| meet(rest, &other[skipped..])),
        (_, [ANYTHING, ..]) => meet(other, one),
        ([first, rest @ ..], [second, others @ ..]) => first == second && meet(rest, others),
        _ => false,
    }
}

#[test]
fn each_message_is_explained() {
    let document = fs::read_to_string(project().join("docs/refusals.md")).unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    let is_message = |text: &str| STAGES.iter().any(|stage| text.starts_with(&format!("{stage}: ")));
    let explained: Vec<String> = document.lines().filter_map(row).filter(|text| is_message(text)).collect();
    assert!(explained.len() > 40, "{explained:?}");

    let mut files = Vec::new();
    files_below(&project().join("tests/kernel"), &mut files);
    files_below(&project().join("tests/machines/src/cases"), &mut files);
    let mut expected: Vec<String> = files
        .iter()
        .flat_map(|file| literals(&fs::read_to_string(file).unwrap()))
        .filter(|text| is_message(text))
        .collect();
    expected.sort();
    expected.dedup();
    assert!(expected.len() > 100, "{expected:?}");

    // What follows is the kernel's reason, or of no interest to the test.
    let chars = |text: &str| format!("{text}{ANYTHING}").chars().collect::<Vec<_>>();
    let explained: Vec<_> = explained.iter().map(|text| (text, chars(text))).collect();
    let expected: Vec<_> = expected.iter().map(|text| (text, chars(&pattern(text)))).collect();
    for (text, message) in &expected {
        assert!(explained.iter().any(|(_, row)| meet(row, message)), "not in docs/refusals.md: {text}");
    }
    // One of which nothing is said shows no row.
    let says_something =
        |text: &str| pattern(text).split_once(": ").is_some_and(|(_, rest)| !rest.starts_with(ANYTHING));
    for (text, row) in &explained {
        assert!(
            expected.iter().filter(|(text, _)| says_something(text)).any(|(_, message)| meet(row, message)),
            "expected by no test: {text}"
        );
    }
}
