//! What `sealroot uki` says of images with sealroot's own boot stub, whose rules it knows, and of kernels that need no stub.

use std::fs;
use std::process::Command;

use sealroot::formats::uki::pe::Uki;
use sealroot_stub_rules::Payload;
use sealroot_stub_rules::payload::Layout;

use crate::golden::GOLDEN;
use crate::made::{Made, kernel};
use crate::run::{said, sealroot};

fn ours() -> Made {
    Made::new().ours(kernel(), &[])
}

#[test]
fn it_adds_nothing() {
    let made = ours();
    let found = made.asked(&[]);
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![]));
    let profile = &found.result["profiles"][0];
    assert_eq!(profile["stub"], "sealroot-stub, which adds nothing");
    let bypasses: Vec<_> = profile["bypasses"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(!bypasses.iter().any(|name| name.starts_with("stub-")), "{bypasses:?}");
    let text = sealroot(&["uki", &made.written()]).out;
    assert!(text.lines().any(|line| line == "stub:         sealroot-stub, which adds nothing"), "{text}");
}

/// Signed policies for the TPM, and microcode.
#[test]
fn what_the_stub_adds_to_the_initramfs() {
    let found = Made::new().ours(kernel(), &[(".pcrpkey", b"key"), (".pcrsig", b"{}")]).asked(&[]);
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![]));
}

/// Each is what the stub says before it starts anything.
#[test]
fn what_the_stub_refuses() {
    let problems = |made: Made| made.asked(&[]).problems();
    let section = "expected none that this stub does not know";
    assert_eq!(
        problems(Made::new().ours(kernel(), &[(".unknown", b"x")])),
        [format!("boot stub: section '.unknown': {section}")]
    );
    assert_eq!(
        problems(Made::new().ours(kernel(), &[(".osrel", b"x")])),
        ["boot stub: section '.osrel': expected one, found more"]
    );
    assert_eq!(
        problems(Made::new().ours(kernel(), &[(".dtb", b"x")])),
        [
            "boot stub: section '.dtb': expected none, since this stub does not use it (the devicetree is the firmware's)"
        ]
    );
    assert_eq!(
        problems(Made::new().ours(b"no kernel".to_vec(), &[])),
        ["boot stub: kernel: expected a PE executable, found no executable"]
    );
    let karg = GOLDEN.karg();
    let newline = format!("boot stub: command line: expected printable ASCII, found byte 0x0a at {}", karg.len());
    assert_eq!(problems(ours().line(&format!("{karg}\nquiet"))), [newline]);
    let long = format!("{karg} {}", "x".repeat(2048 - karg.len() - 1));
    assert_eq!(
        problems(ours().line(&long)),
        [
            "boot stub: command line: expected 1 to 2047 bytes, found 2048",
            "kernel command line: expected at most 2047 bytes (the kernel cuts off the rest), found 2048",
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
}

/// A kernel that the firmware takes by itself can be cut out of its image.
#[test]
fn a_kernel_with_a_signature() {
    let made = Made::new();
    let run = |program: &str, arguments: &[&str]| {
        let said = said(Command::new(program).args(arguments));
        assert_eq!(said.status, Some(0), "{program} {arguments:?}: {said:?}");
    };
    for name in ["db", "other"] {
        let (key, certificate) = (made.name(&format!("{name}.key")), made.name(&format!("{name}.pem")));
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"];
        run("openssl", &[&request[..], &["-keyout", &key, "-out", &certificate]].concat());
    }
    let (db, other, path) = (made.name("db.pem"), made.name("other.pem"), made.name("kernel"));
    fs::write(&path, kernel()).unwrap();
    run("sbsign", &["--key", &made.name("db.key"), "--cert", &db, "--output", &path, &path]);
    let signed = fs::read(&path).unwrap();
    let expected =
        "kernel: expected no signature of its own, since a boot loader could start it without the rest, found one";
    for stub in [true, false] {
        // With any stub.
        let image = if stub { Made::new().ours(signed.clone(), &[]) } else { Made::new().kernel(signed.clone()) };
        let found = image.asked(&[]);
        let warning = format!("{expected} (--cert tells whether the machine takes it)");
        assert_eq!((found.problems(), found.warnings()), (vec![], vec![warning]));
        let found = image.asked(&["--cert", &db]);
        assert_eq!(found.problems(), [format!("{expected} that '{db}' vouches for")]);
        let found = image.asked(&["--cert", &other]);
        let warning = format!("{expected} by a key that '{other}' does not vouch for");
        assert_eq!((found.problems(), found.warnings()), (vec![], vec![warning]));
    }
}

/// What the command passes, the stub starts: both readers see the same in every file that they take.
#[test]
fn both_readers_agree() {
    let file = fs::read(ours().written()).unwrap();
    let mut state = 7_u64;
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut file = file.clone();
        for _ in 0..2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % 0x400;
            file[at] = state.to_le_bytes()[3];
        }
        let Ok(payload) = Payload::read(&file, Layout::File) else {
            refused += 1;
            continue;
        };
        // The stub's own sections are not its payload; the command looks at them, too, and no firmware loads what is not there.
        let Ok(uki) = Uki::parse(&file) else { continue };
        accepted += 1;
        assert_eq!(uki.profiles.len(), 1);
        for (name, content) in payload.measured() {
            assert_eq!(uki.profiles[0][name], content, "{name}");
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}
