//! What `sealroot uki` finds before a release: command lines and settings that a boot would refuse, and what is beside ours.

use crate::golden::GOLDEN;
use crate::made::Made;

#[test]
fn complete() {
    let found = Made::new().asked(&[]);
    assert_eq!((found.problems(), &found.result["profiles"][0]["images"][0]), (vec![], &GOLDEN.requested().into()));
    // It is not signed.
    assert_eq!(found.status, 1);
}

#[test]
fn keys_that_only_the_composefs_tools_know() {
    let found = Made::new().file("usr/lib/composefs/setup-root-conf.toml", "[etc]\nx = {}\n[[tool]]\n").asked(&[]);
    let warning = "'/usr/lib/composefs/setup-root-conf.toml': not known to sealroot: 'etc.x', 'tool'";
    assert_eq!((found.problems(), found.warnings()), (vec![], vec![warning.to_owned()]));
}

/// Each is what the boot program would say of it.
#[test]
fn kargs_that_a_boot_refuses() {
    let (karg, hex, other) = (GOLDEN.karg(), GOLDEN.value("SHA512_V1"), GOLDEN.value("SHA512_V2"));
    let image = GOLDEN.requested();
    let volatile = "expected no 'systemd.volatile' but 'state' (root.transient = true does the same), found";
    let hiding = "expected nothing that hides the machine's set-up (policy.firmware-strings = \"refuse\"), found";
    let unverified = "expected verification to be required (policy.unverified = \"refuse\"), found '?' in karg";
    for (line, expected) in [
        (String::new(), "expected a karg 'composefs.digest' or 'composefs', found neither".into()),
        // Another case is another key.
        (format!("Composefs={hex}"), "expected a karg 'composefs.digest' or 'composefs', found neither".into()),
        (format!("{karg} systemd.volatile=overlay"), format!("{volatile} 'overlay'")),
        (format!("{karg} systemd.volatile=yes"), format!("{volatile} 'yes'")),
        (format!("systemd.volatile=1 {karg}"), format!("{volatile} '1'")),
        (format!("{karg} systemd.volatile=state systemd.volatile"), format!("{volatile} no value")),
        (
            format!("{karg} composefs={other}"),
            format!("expected one image (policy.alternatives = \"refuse\"), found {image} and sha512:{other}"),
        ),
        (
            format!("composefs={hex} composefs={other}"),
            format!("karg 'composefs': expected one image, found sha512:{hex} and sha512:{other}"),
        ),
        (
            format!("{karg} composefs.digest=v2-sha512-12:{hex}"),
            format!("karg 'composefs.digest': expected one image, found {image} and v2 sha512:{hex}"),
        ),
        (
            format!("composefs={}", &hex[1..]),
            "karg 'composefs': expected 64 or 128 hexadecimal digits, found 127".into(),
        ),
        (
            format!("composefs=sha512:{}", &hex[7..]),
            "karg 'composefs': expected hexadecimal digits, found 's' at position 0".into(),
        ),
        ("composefs=\u{fc}".into(), "karg 'composefs': expected 64 or 128 hexadecimal digits, found 2".into()),
        ("composefs".into(), "karg 'composefs': expected a digest, found no value".into()),
        (
            format!("composefs.digest=v1-sha256-12:{hex}"),
            "karg 'composefs.digest': expected 64 hexadecimal digits, found 128".into(),
        ),
        (
            format!("composefs.digest=v3-sha512-12:{hex}"),
            "karg 'composefs.digest': expected format 'v1' or 'v2', found 'v3'".into(),
        ),
        (
            format!("composefs.digest=v1-sha512-16:{hex}"),
            "karg 'composefs.digest': expected '12' as log2 of the block size, found '16'".into(),
        ),
        (format!("composefs=?{hex}"), format!("{unverified} 'composefs'")),
        (format!("composefs.digest=?v1-sha512-12:{hex}"), format!("{unverified} 'composefs.digest'")),
        (
            format!("{karg} composefs=?{hex}"),
            "karg 'composefs': expected '?' with every composefs karg or with none, found both".into(),
        ),
        (format!("{karg} noefi"), format!("{hiding} 'noefi'")),
        (format!("{karg} initcall-blacklist=dmi_init"), format!("{hiding} 'initcall_blacklist'")),
    ] {
        let found = Made::new().line(&line).asked(&[]);
        assert_eq!(found.problems(), [format!("kernel command line: {expected}")], "{line}");
        assert_eq!(found.status, 1);
    }
}

/// Each profile is asked about its own.
#[test]
fn kargs_of_profiles() {
    let karg = GOLDEN.karg();
    let volatile = format!("{karg} systemd.volatile=yes");
    let found = Made::new().profile(&karg).profile(&volatile).profile("quiet").asked(&[]);
    let problems = found.result["profiles"].as_array().unwrap().iter().map(|profile| profile["problems"].clone());
    let problem = |text: &str| serde_json::json!([format!("kernel command line: expected {text}")]);
    let expected = [
        serde_json::json!([]),
        problem("no 'systemd.volatile' but 'state' (root.transient = true does the same), found 'yes'"),
        problem("a karg 'composefs.digest' or 'composefs', found neither"),
    ];
    assert!(problems.eq(expected), "{found:?}");
}

/// The last stage of the boot says so of the first, and the kernel says nothing of the other.
#[test]
fn kargs_that_only_the_end_of_a_boot_refuses() {
    let karg = GOLDEN.karg();
    for init in ["sbin/init", "../init", "\u{fc}"] {
        let expected = format!("karg 'init': expected an absolute path, found '{}'", init.as_bytes().escape_ascii());
        assert_eq!(Made::new().line(&format!("{karg} init={init}")).asked(&[]).problems(), [expected]);
    }
    // Also if the repository has no such image.
    let found = Made::new().line(&format!("{karg} init=a")).asked(&["--repo", &GOLDEN.repository("sha256")]).problems();
    assert!(found.len() == 2 && found[0] == "karg 'init': expected an absolute path, found 'a'", "{found:?}");
    for fine in ["init=", "init=a init=/sbin/init"] {
        assert_eq!(Made::new().line(&format!("{karg} {fine}")).asked(&[]).problems(), [""; 0]);
    }
    for length in [2047, 2048, 5000] {
        let line = format!("{} {karg}", "x".repeat(length - karg.len() - 1));
        let expected =
            format!("kernel command line: expected at most 2047 bytes (the kernel cuts off the rest), found {length}");
        let expected = if length > 2047 { vec![expected] } else { vec![] };
        assert_eq!(Made::new().line(&line).asked(&[]).problems(), expected);
    }
}

#[test]
fn settings_that_a_boot_refuses() {
    let unverified = "[policy]\nunverified = \"allow-without-secure-boot\"\n";
    let optional = "[policy]\nkarg = \"optional\"\n";
    let (hex, other) = (GOLDEN.value("SHA512_V1"), GOLDEN.value("SHA512_V2"));
    for (line, config, expected) in [
        (
            GOLDEN.karg(),
            "[etc]\nkeep = [\"hostname\"]\nmount = \"transient\"\n",
            "configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"transient\"".into(),
        ),
        (
            GOLDEN.karg(),
            "layout = \"bootc\"\n[etc]\nkeep = []\n",
            "configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"bind\"".into(),
        ),
        // A machine that takes signed images enforces Secure Boot.
        (
            format!("composefs=?{hex}"),
            unverified,
            "kernel command line: expected verification to be required (Secure Boot is enforced), found '?' in karg \
             'composefs'"
                .into(),
        ),
        ("quiet".into(), optional, "kernel command line: no composefs karg, and policy.karg = \"optional\"".into()),
        (
            "composefs=1".into(),
            optional,
            "kernel command line: karg 'composefs': expected 64 or 128 hexadecimal digits, found 1".into(),
        ),
        (
            format!("composefs={hex} composefs={other}"),
            "[policy]\nalternatives = \"first-existing\"\n",
            format!("kernel command line: karg 'composefs': expected one image, found sha512:{hex} and sha512:{other}"),
        ),
    ] {
        let found = Made::new().line(&line).config(config).asked(&[]);
        assert_eq!(found.problems(), [expected], "{line} {config}");
    }
    // The boot program reads so much of a configuration, whatever is in it.
    for (length, expected) in [(65_536, vec![]), (65_537, vec!["expected at most 65536 bytes, found more"])] {
        let found = Made::new().config(&"#".repeat(length)).asked(&[]);
        let expected: Vec<_> =
            expected.iter().map(|text| format!("'/usr/lib/sealroot/sealroot.toml': {text}")).collect();
        assert_eq!(found.problems(), expected);
    }
}

#[test]
fn kargs_and_settings_that_a_boot_takes() {
    let (karg, hex, other) = (GOLDEN.karg(), GOLDEN.value("SHA512_V1"), GOLDEN.value("SHA512_V2"));
    for (line, config) in [
        (format!("{karg} composefs={}", hex.to_uppercase()), ""),
        (format!("{karg} systemd.volatile=overlay systemd.volatile=no"), ""),
        (format!("{karg} systemd.volatile=state"), ""),
        (format!("{karg} composefs={other}"), "[policy]\nalternatives = \"first-existing\"\n"),
        (format!("{karg} noefi"), "[policy]\nfirmware-strings = \"report\"\n"),
        (karg, "[policy]\nsecure-boot = \"require\"\n"),
    ] {
        let found = Made::new().line(&line).config(config).asked(&[]);
        assert_eq!(found.problems(), [""; 0], "{line} {config}");
    }
}

/// Units of others that put a root in place of the physical one.
#[test]
fn rivals() {
    const UNITS: &str = "usr/lib/systemd/system";
    const MASK: &str = "/dev/null";
    for rival in ["bootc-root-setup.service", "composefs-setup-root.service", "ostree-prepare-root.service"] {
        let masked = format!("initramfs: unit '{rival}': expected it to be masked, found");
        let (unit, etc) = (format!("{UNITS}/{rival}"), format!("etc/systemd/system/{rival}"));
        let there = || Made::new().file(&unit, "[Service]");
        assert_eq!(there().asked(&[]).problems(), [format!("{masked} that it mounts a root of its own")]);
        // Where systemd finds it before a mask, or without one in the usual place.
        for place in ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "lib/systemd/system"]
        {
            let found = Made::new().file(&format!("{place}/{rival}"), "[Service]").asked(&[]).problems();
            assert_eq!(found, [format!("{masked} '/{place}/{rival}', and that it mounts a root of its own")]);
        }
        let found = Made::new().link(&unit, MASK).file(&etc, "[Service]").asked(&[]).problems();
        assert_eq!(found, [format!("{masked} '/{etc}', and that it mounts a root of its own")]);
        // A link to another unit is no mask, neither is what only looks like one.
        for target in ["/usr/lib/bootc/root.service", "/dev/null2"] {
            let found = there().link(&etc, target).asked(&[]).problems();
            assert_eq!(found, [format!("{masked} '/{etc}', and that it mounts a root of its own")]);
        }
        for fine in [
            Made::new(),
            Made::new().link(&unit, MASK),
            Made::new().file(&unit, ""),
            there().link(&etc, MASK),
            there().link(&etc, "../../../dev/null"),
            there().file(&etc, ""),
            there().link(&format!("etc/systemd/system.control/{rival}"), MASK).file(&etc, "[Service]"),
            // Drop-ins of a unit that is not there.
            Made::new().file(&format!("{unit}.d/50-more.conf"), "[Service]"),
        ] {
            assert_eq!(fine.asked(&[]).problems(), [""; 0], "{rival}");
        }
    }
}
