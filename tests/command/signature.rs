//! `sealroot uki --cert`: whose signature an image has, by the word of sbverify(1). Keys are made for each test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::made::{Made, Uki};
use crate::run::{SEALROOT, Said, fails, said, sealroot};

/// Runs a tool that must not fail.
#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let said = said(Command::new(program).args(arguments));
    assert_eq!(said.status, Some(0), "{program} {arguments:?}: {said:?}");
}

/// A folder with an image and keys.
struct Desk(Made);

impl Desk {
    fn new() -> Self {
        let desk = Self(Made::new());
        desk.0.written();
        desk
    }

    /// A key with a certificate of its own; `db` is `db.key` and `db.pem`.
    fn key(self, name: &str, subject: &str) -> Self {
        let (key, certificate) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.pem")));
        let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-utf8"];
        run("openssl", &[&made[..], &["-subj", subject, "-keyout", &key, "-out", &certificate]].concat());
        self
    }

    /// Signs `uki.efi` in place.
    fn signed(self, key: &str) -> Self {
        let (key, certificate, image) =
            (self.path(&format!("{key}.key")), self.path(&format!("{key}.pem")), self.path("uki.efi"));
        run("sbsign", &["--key", &key, "--cert", &certificate, "--output", &image, &image]);
        self
    }

    fn path(&self, name: &str) -> String {
        self.0.name(name)
    }

    /// Changes a byte of the image, so many in front of its end where that is negative.
    fn flip(&self, at: isize) {
        let mut content = fs::read(self.path("uki.efi")).unwrap();
        let at = if at < 0 { content.len() - at.unsigned_abs() } else { at.unsigned_abs() };
        content[at] ^= 1;
        fs::write(self.path("uki.efi"), content).unwrap();
    }

    fn ask(&self, certificate: &str) -> Uki {
        Uki::asked(&["--cert", &self.path(certificate), &self.path("uki.efi")])
    }

    /// What is wrong with the signature, for one who has this certificate.
    #[track_caller]
    fn problem(&self, certificate: &str) -> String {
        let found = self.ask(certificate);
        assert_eq!(found.status, 1);
        assert_eq!(found.problems(), [""; 0]);
        found.result["signature"]["problem"].as_str().unwrap().into()
    }

    #[track_caller]
    fn is_right(&self, certificate: &str) {
        let found = self.ask(certificate);
        assert_eq!((found.status, &found.result["signature"]["problem"]), (0, &Value::Null), "{found:?}");
        assert_eq!(found.result["signature"]["certificate"], self.path(certificate));
    }

    /// With another `sbverify`, or with none.
    fn with_path(&self, folder: &str) -> Said {
        let arguments = ["uki", "--cert", &self.path("db.pem"), &self.path("uki.efi")];
        said(Command::new(SEALROOT).args(arguments).env("PATH", folder))
    }

    fn other_sbverify(&self, script: &str) -> Said {
        let folder = self.path("bin");
        fs::create_dir_all(&folder).unwrap();
        let program = format!("{folder}/sbverify");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        self.with_path(&folder)
    }
}

#[test]
fn whose_signature_it_is() {
    let desk = Desk::new().key("db", "/CN=Release key").key("other", "/CN=Somebody else").signed("db");
    desk.is_right("db.pem");
    run("openssl", &["x509", "-in", &desk.path("db.pem"), "-outform", "DER", "-out", &desk.path("db.cer")]);
    desk.is_right("db.cer");
    // A bundle, with what people write between certificates.
    let bundle = ["other.pem", "db.pem"].map(|name| fs::read_to_string(desk.path(name)).unwrap());
    fs::write(desk.path("all.pem"), bundle.join("subject=who\r\n\r\n")).unwrap();
    desk.is_right("all.pem");
    let text = sealroot(&["uki", "--cert", &desk.path("db.pem"), &desk.path("uki.efi")]).out;
    let line = format!("signed:       yes, by a key that '{}' vouches for", desk.path("db.pem"));
    assert!(text.lines().any(|found| found == line), "{text}");

    let expected = format!(
        "expected a signature that '{}' vouches for, found one of another key, or a damaged one, by '/CN=Release key'",
        desk.path("other.pem")
    );
    assert_eq!(desk.problem("other.pem"), expected);
    let text = sealroot(&["uki", "--cert", &desk.path("other.pem"), &desk.path("uki.efi")]).out;
    assert!(text.lines().any(|found| found == format!("signed:       no: {expected}")), "{text}");
    // A second signature does not take the first away, as for the firmware.
    let desk = desk.signed("other");
    desk.is_right("db.pem");
    desk.is_right("other.pem");
}

#[test]
fn a_key_that_an_authority_vouches_for() {
    let desk = Desk::new().key("ca", "/CN=Authority").key("other", "/CN=Authority");
    let path = |name: &str| desk.path(name);
    let request =
        ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Leaf", "-keyout", &path("db.key"), "-out", &path("csr")];
    run("openssl", &request);
    let (ca, key, certificate) = (path("ca.pem"), path("ca.key"), path("db.pem"));
    let sign =
        ["x509", "-req", "-in", &path("csr"), "-CA", &ca, "-CAkey", &key, "-CAcreateserial", "-out", &certificate];
    run("openssl", &sign);
    let desk = desk.signed("db");
    desk.is_right("ca.pem");
    desk.is_right("db.pem");
    // One by the same name.
    assert!(desk.problem("other.pem").ends_with("by '/CN=Leaf'"));
}

#[test]
fn no_signature() {
    let desk = Desk::new().key("db", "/CN=db");
    let expected = format!("expected a signature that '{}' vouches for, found none", desk.path("db.pem"));
    assert_eq!(desk.problem("db.pem"), expected);
    assert_eq!(desk.ask("db.pem").result["signed"], false);
}

#[test]
fn an_image_that_was_altered() {
    let altered = "expected the image as it was signed, found it altered since";
    let signed = || Desk::new().key("db", "/CN=db").key("other", "/CN=other").signed("db");
    let desk = signed();
    // The kernel, which is behind the headers.
    desk.flip(512);
    assert_eq!(desk.problem("db.pem"), altered);
    assert_eq!(desk.problem("other.pem"), altered);
    // More behind what was signed.
    let desk = signed();
    let content = fs::read(desk.path("uki.efi")).unwrap();
    fs::write(desk.path("uki.efi"), [&content[..], b"more text"].concat()).unwrap();
    assert_eq!(desk.problem("db.pem"), altered);
    // The signature itself: its last bytes are the number that the key made.
    let desk = signed();
    desk.flip(-16);
    assert!(desk.problem("db.pem").ends_with("found one of another key, or a damaged one, by '/CN=db'"));
}

#[test]
fn files_that_are_no_certificate() {
    let desk = Desk::new().key("db", "/CN=db").signed("db");
    fs::write(desk.path("empty"), "").unwrap();
    fs::write(desk.path("text"), "-----BEGIN CERTIFICATE-----\nAAA*\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(desk.path("cut"), &fs::read(desk.path("db.pem")).unwrap()[..200]).unwrap();
    let guid =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72, 1, 2, 3];
    fs::write(desk.path("db.esl"), guid).unwrap();
    fs::write(desk.path("huge"), vec![b'-'; (1 << 20) + 1]).unwrap();
    for (name, found) in [
        ("db.key", "expected a certificate in PEM or DER, found a private key"),
        ("uki.efi", "expected a certificate in PEM or DER, found neither"),
        ("empty", "expected a certificate in PEM or DER, found an empty file"),
        ("text", "expected a certificate in PEM or DER, found neither"),
        ("cut", "expected a certificate in PEM or DER, found neither"),
        ("db.esl", "expected a certificate in PEM or DER, found an EFI signature list"),
        ("huge", "expected at most 1048576 bytes, found more"),
        ("none", "No such file or directory (os error 2)"),
        ("", "expected a regular file"),
    ] {
        let name = desk.path(name);
        fails(1, &format!("sealroot uki: '{name}': {found}"), &["uki", "--cert", &name, &desk.path("uki.efi")]);
    }
    // What is no certificate inside is sbverify's to say, and is no answer about the image.
    fs::write(desk.path("wrong.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(desk.path("wrong.der"), [&[0x30, 0x82, 0x01, 0x00][..], &[0; 256]].concat()).unwrap();
    for name in ["wrong.pem", "wrong.der"] {
        let said = sealroot(&["uki", "--cert", &desk.path(name), &desk.path("uki.efi")]);
        assert_eq!((said.status, said.out.as_str()), (Some(1), ""));
        assert!(
            said.err.starts_with("sealroot uki: signature: sbverify: exit status: 1: Can't load certificate"),
            "{said:?}"
        );
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn what_sbverify_does_not_say_is_no_pass() {
    let desk = Desk::new().key("db", "/CN=db").signed("db");
    let start = "sealroot uki: signature: sbverify: ";
    let failed = |said: Said, reason: &str| {
        let expected = Said { status: Some(1), out: String::new(), err: format!("{start}{reason}\n") };
        assert_eq!(said, expected);
    };
    failed(desk.with_path("/none"), "expected the program of the package sbsigntool, found none");
    failed(desk.other_sbverify("exit 0"), "exit status: 0: ");
    failed(desk.other_sbverify("echo Signature verification failed; exit 0"), "exit status: 0: ");
    failed(desk.other_sbverify("echo Signature verification OK; exit 1"), "exit status: 1: ");
    failed(desk.other_sbverify("echo 'Signature verification OK?'"), "exit status: 0: ");
    failed(desk.other_sbverify("kill -9 $$"), "signal: 9 (SIGKILL): ");
    failed(desk.other_sbverify("printf 'a\\033[2J\\nb' >&2; exit 1"), r"exit status: 1: a\u{1b}[2J\nb");
    // It is told what it says, in one line and no more.
    let said = desk.other_sbverify(
        "case $1 in --list) printf ' - subject: a\\033[2J\\n' ;; *) echo Signature verification failed; exit 1 ;; esac",
    );
    assert!(said.out.contains(r"by 'a\u{1b}[2J'") && !said.out.contains('\u{1b}'), "{said:?}");
    assert_eq!(said.status, Some(1));
    let said = desk.other_sbverify("printf %0100000d 0 >&2; exit 1");
    assert!(said.status == Some(1) && said.err.len() < 600, "{said:?}");
}
