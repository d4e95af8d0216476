//! Running the command, and judging what it says.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::documented::{fields, undocumented};

/// The path of the command.
pub const SEALROOT: &str = env!("CARGO_BIN_EXE_sealroot");

/// What one run gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the command.
pub fn sealroot(arguments: &[&str]) -> Said {
    said(Command::new(SEALROOT).args(arguments))
}

/// Runs a command and gives what it says.
pub fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the command and gives its answer in JSON. Each field of that must be in the man page.
#[track_caller]
pub fn answer(status: i32, arguments: &[&str]) -> Value {
    let said = sealroot(&[&["--json"], arguments].concat());
    assert_eq!(said.status, Some(status), "status of {arguments:?}: {said:?}");
    let answer: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{arguments:?}: no JSON: {error}: {said:?}"));
    assert_eq!(undocumented(&fields(&answer)), [""; 0], "man/sealroot.1 lacks fields of {arguments:?}");
    answer
}

/// Runs the command, which must fail with this status and message and say nothing else.
#[track_caller]
pub fn fails(status: i32, message: &str, arguments: &[&str]) {
    let expected = Said { status: Some(status), out: String::new(), err: format!("{message}\n") };
    assert_eq!(sealroot(arguments), expected, "{arguments:?}");
}
