//! The kernel command line: split as the kernel splits it, and what it asks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::bypasses::{self, Boot, Bypass, PhysicalFilesystem};
use sealroot::ask::cmdline::{BootRequest, CommandLine, RequestedVerification};
use sealroot::ask::config::Config;
use sealroot::ask::firmware::{Lockdown, SecureBoot};
use sealroot::ask::policy::Resolved;
use sealroot_fuzz::{bounded, check_message};

type Argument = (Vec<u8>, Option<Vec<u8>>);

fuzz_target!(|text: &[u8]| {
    // /proc/cmdline has no NUL, and the kernel's own function ends there.
    if text.contains(&0) {
        return;
    }
    let line = bounded(text.len(), 256, || CommandLine::split(text));
    let expected = kernel_split(text);
    check_split(&line, &expected);
    check_request(&line, &expected);
    let found = bypasses(&line, "", Lockdown::None);
    let fewer = bypasses(&line, "[etc]\nmount = \"none\"\n", Lockdown::Active);
    assert!(fewer.iter().all(|bypass| found.contains(bypass)));
    assert!(!fewer.contains(&Bypass::Fstab) && !fewer.contains(&Bypass::Hibernation));
});

fn bypasses(command_line: &CommandLine, config: &str, lockdown: Lockdown) -> Vec<Bypass> {
    let config = Config::from_sealroot_toml(config).expect("a config");
    bypasses::find(&Boot {
        resolved: &Resolved::new(command_line.clone(), config, Config::default()),
        lockdown,
        secure_boot: SecureBoot::Enforced,
        stub: None,
        filesystem: PhysicalFilesystem::MayBeExt4,
    })
}

/// `next_arg()` of the kernel's `lib/cmdline.c`, line by line.
fn kernel_split(text: &[u8]) -> Vec<Argument> {
    let is_space = |byte: u8| matches!(byte, 9..=13 | 32 | 0xa0);
    let mut arguments = Vec::new();
    let mut rest = text.trim_ascii_start();
    loop {
        while let Some((first, tail)) = rest.split_first()
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return arguments;
        }
        let quoted = rest[0] == b'"';
        let args = if quoted { &rest[1..] } else { rest };
        let (mut in_quote, mut equals, mut end) = (quoted, 0, 0);
        while end < args.len() && (in_quote || !is_space(args[end])) {
            if equals == 0 && args[end] == b'=' {
                equals = end;
            }
            in_quote ^= args[end] == b'"';
            end += 1;
        }
        let mut last = end;
        let mut value_start = equals + 1;
        if equals != 0 && args[..end].get(value_start) == Some(&b'"') {
            value_start += 1;
            if args[end - 1] == b'"' {
                last -= 1;
            }
        }
        if quoted && last == end && end > 0 && args[end - 1] == b'"' {
            last -= 1;
        }
        let argument = if equals == 0 {
            (args[..last].to_vec(), None)
        } else {
            (args[..equals].to_vec(), Some(args.get(value_start..last).unwrap_or_default().to_vec()))
        };
        // A `=` at the very start is part of the key for the kernel and ends an empty key for us: no key that anyone
        // asks for.
        if args.first() != Some(&b'=') {
            arguments.push(argument);
        }
        rest = &args[end..];
    }
}

fn check_split(line: &CommandLine, expected: &[Argument]) {
    let same = |a: &[u8], b: &[u8]| {
        let fold = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
        a.iter().map(fold).eq(b.iter().map(fold))
    };
    for (key, _) in expected {
        if let Ok(name) = str::from_utf8(key) {
            let values: Vec<_> = expected.iter().filter(|(k, _)| same(k, key)).map(|(_, v)| v.as_deref()).collect();
            // Those of an empty key have been left out above.
            if !name.is_empty() {
                assert_eq!(line.values(name).collect::<Vec<_>>(), values, "values of '{name}'");
                assert_eq!(line.last_value(name), values.iter().rev().find_map(|value| *value));
            }
        }
    }
    // Written anew with quotes it is split into the same.
    let plain = |bytes: &[u8]| !bytes.contains(&b'"');
    let word =
        |key: &[u8]| !key.is_empty() && plain(key) && !key.iter().any(|byte| matches!(byte, 9..=13 | 32 | 0xa0 | b'='));
    if expected.iter().all(|(key, value)| word(key) && value.as_deref().is_none_or(plain)) {
        let mut text = Vec::new();
        for (key, value) in expected {
            text.extend(key);
            if let Some(value) = value {
                text.extend([b"=\"", &value[..], b"\""].concat());
            }
            text.push(b'\n');
        }
        let again = CommandLine::split(&text);
        for (key, _) in expected {
            if let Ok(name) = str::from_utf8(key) {
                assert!(line.values(name).eq(again.values(name)), "values of '{name}', written anew");
            }
        }
    }
}

fn check_request(line: &CommandLine, expected: &[Argument]) {
    let request = match BootRequest::try_from(line) {
        Ok(request) => request,
        Err(error) => return check_message(&error),
    };
    let kargs: Vec<_> = expected
        .iter()
        .filter(|(key, _)| key == b"composefs" || key == b"composefs.digest")
        .map(|(_, value)| value.as_deref().expect("a karg without a value was accepted"))
        .collect();
    assert_eq!(request.images().is_empty(), kargs.is_empty());
    for value in kargs {
        let is_optional = value.starts_with(b"?");
        assert_eq!(is_optional, request.verification() == RequestedVerification::Optional);
        let value = str::from_utf8(value).expect("ASCII").to_lowercase();
        let hex = value.trim_start_matches('?').rsplit(':').next().unwrap_or_default();
        let image = request.images().iter().find(|image| image.digest().to_hex() == hex).expect("an image per digest");
        assert_eq!(image.digest().algorithm().hex_len(), hex.len());
    }
    for (index, image) in request.images().iter().enumerate() {
        assert!(request.images()[..index].iter().all(|other| other.digest() != image.digest()), "a digest twice");
    }
}
