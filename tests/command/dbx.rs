//! `sealroot uki --dbx`: what others compute of the same program.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::made::{Made, kernel};
use crate::run::{answer, fails, said, sealroot};

fn run(program: &str, arguments: &[&str]) -> String {
    let said = said(Command::new(program).args(arguments));
    assert_eq!(said.status, Some(0), "{program} {arguments:?}: {said:?}");
    said.out
}

/// The digest is the one that sbsign(1) signs, by the word of openssl(1), and the list the one of sbsiglist(1).
#[test]
fn what_others_compute() {
    let made = Made::new().ours(kernel(), &[]);
    let [key, certificate, signed, table, digest, list] =
        ["key", "pem", "signed", "table", "digest", "list"].map(|name| made.name(name));
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"];
    run("openssl", &[&request[..], &["-keyout", &key, "-out", &certificate]].concat());
    let unsigned = made.written();
    // Some programs have something behind their sections.
    fs::write(&unsigned, [fs::read(&unsigned).unwrap(), vec![7; 16]].concat()).unwrap();
    run("sbsign", &["--key", &key, "--cert", &certificate, "--output", &signed, &unsigned]);

    let found = answer(0, &["uki", "--dbx", &signed]);
    let found = &found["result"];
    // The certificates are at the end: a header, then the signature, which begins with the digest that it is for.
    let file = fs::read(&signed).unwrap();
    let length = fs::metadata(&unsigned).unwrap().len() as usize;
    fs::write(&table, &file[length.next_multiple_of(8) + 8..]).unwrap();
    let parsed = run("openssl", &["asn1parse", "-inform", "DER", "-in", &table]);
    let signs = parsed.lines().find_map(|line| line.split_once("[HEX DUMP]:")).unwrap().1.to_lowercase();
    assert_eq!(found["digest"], signs.as_str());
    // Signing changes nothing of it.
    assert_eq!(answer(0, &["uki", "--dbx", &unsigned])["result"], *found);

    let bytes: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&signs[at..at + 2], 16).unwrap()).collect();
    fs::write(&digest, bytes).unwrap();
    let nobody = "00000000-0000-0000-0000-000000000000";
    run("sbsiglist", &["--owner", nobody, "--type", "sha256", "--output", &list, &digest]);
    let text = sealroot(&["uki", "--dbx", &signed]).out;
    assert_eq!(BASE64_STANDARD.decode(text.trim_end()).unwrap(), fs::read(&list).unwrap());

    // Whatever else is changed, it is another program.
    let mut file = fs::read(&unsigned).unwrap();
    for at in [0x80, file.len() - 1] {
        file[at] ^= 1;
        fs::write(&signed, &file).unwrap();
        assert_ne!(answer(0, &["uki", "--dbx", &signed])["result"]["digest"], found["digest"], "{at}");
    }
}

#[test]
fn what_is_no_program() {
    let made = Made::new();
    let name = made.name("text");
    fs::write(&name, "text").unwrap();
    let expected = format!("sealroot uki: '{name}': expected a whole PE executable for a 64-bit machine");
    fails(1, &expected, &["uki", "--dbx", &name]);
}
