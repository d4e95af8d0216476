//! How the command answers: usage, colours, pipes, documents.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::documented::{fields, undocumented};
use crate::golden::GOLDEN;
use crate::run::{SEALROOT, answer, fails, said, sealroot};

#[test]
fn usage_without_arguments() {
    let said = sealroot(&[]);
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
}

#[test]
fn usage_of_an_unknown_option() {
    assert_eq!(sealroot(&["--no-such-option"]).status, Some(2));
}

#[test]
fn usage_without_a_file() {
    assert_eq!(sealroot(&["digest"]).status, Some(2));
}

#[test]
fn what_is_printed_of_a_name_is_printable() {
    // Names that a shell may have made of a pattern: they turn the direction of writing around, hide something, or clear the
    // screen. In each place that tells a name.
    let hostile = "no\u{202e}\u{200b}\u{9b}2J\u{1b}[2J\nsuch";
    let option = format!("--{hostile}");
    for arguments in [
        vec!["digest", hostile],
        vec!["--json", "digest", hostile],
        vec!["uki", hostile],
        vec!["--json", "uki", hostile],
        vec!["inspect", hostile],
        vec!["karg", hostile],
        vec!["verify", "--all", "--repo", hostile],
        vec!["enable", hostile],
        vec![&option],
    ] {
        let said = sealroot(&arguments);
        let (out, err) = (said.out.replace('\n', ""), said.err.replace('\n', ""));
        assert!(err.contains(r"no\u{202e}\u{200b}\u{9b}2J"), "{said:?}");
        assert!(
            !(out + &err).contains(|character: char| character.is_control() || "\u{202e}\u{200b}".contains(character))
        );
        if arguments != [&option] {
            assert!(said.err.contains(r"\u{1b}[2J\nsuch"), "{said:?}");
        }
    }
}

#[test]
fn verify_without_an_image() {
    let message = "sealroot verify: expected DIGEST or --all: this system does not run on a composefs image";
    fails(2, message, &["verify", "--repo", &GOLDEN.repository("sha512")]);
}

#[test]
fn karg_of_a_short_digest() {
    fails(2, "sealroot karg: 'abc': expected a file or 64 or 128 hexadecimal digits, found 3", &["karg", "abc"]);
}

/// What `sealroot status` prints on a terminal.
fn status_on_a_terminal(no_color: &str) -> String {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("'{SEALROOT}' status"), "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", no_color);
    let said = said(&mut script);
    // That of what runs on the terminal.
    assert_eq!(said.status, Some(1), "{said:?}");
    said.out
}

#[test]
fn colour_on_a_terminal() {
    let found = status_on_a_terminal("");
    assert!(found.contains("\x1b[31mno\x1b[0m"), "no red in: {found}");
}

#[test]
fn no_colour_where_it_is_not_wanted() {
    let found = status_on_a_terminal("1");
    assert!(found.contains("sealed:") && !found.contains("\x1b["), "escapes in: {found}");
}

#[test]
fn status_of_what_is_not_sealed() {
    assert_eq!(answer(1, &["status"])["result"]["sealed"], false);
}

#[test]
fn status_in_words() {
    let said = sealroot(&["status"]);
    assert_eq!(said.status, Some(1));
    assert!(said.out.lines().any(|line| line == "sealed:      no"), "{}", said.out);
}

#[test]
fn a_closed_pipe() {
    // Whoever does not want to read the rest is no error. Here nobody reads any of it, so that each write fails.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(SEALROOT);
    let mut child = command.args(["inspect", "--list", &GOLDEN.image("SHA512_V1")]).stdout(writer).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn json_fields_are_documented() {
    // `answer` fails on a field that is not: here it is that each subcommand's answer has fields, and that a field that
    // nobody has described would be seen.
    let (repository, image) = (GOLDEN.repository("sha512"), GOLDEN.image("SHA512_V1"));
    let questions: [(i32, &[&str]); 6] = [
        (0, &["digest", &image]),
        (0, &["inspect", &image]),
        (0, &["inspect", &image, GOLDEN.value("FILE")]),
        (0, &["karg", &image]),
        (0, &["verify", "--repo", &repository, "--all"]),
        (1, &["status"]),
    ];
    for (status, arguments) in questions {
        assert!(!fields(&answer(status, arguments)).is_empty(), "{arguments:?}: no fields");
    }
    let invented: Value = json!({"result": {"files": [{"invented_field": 1, "policy": {"karg": 1}}]}});
    let seen = BTreeSet::from(["files", "invented_field"].map(String::from));
    assert_eq!(fields(&invented), seen);
    assert_eq!(undocumented(&seen), ["invented_field"]);
}

#[test]
fn man_pages_are_well_formed() {
    let pages =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/man")).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<_> = pages.filter(|page| page.is_file()).collect();
    assert!(pages.len() >= 3, "{pages:?}");
    for page in pages {
        let output = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}
