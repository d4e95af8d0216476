//! What the machine's set-up adds, by its SMBIOS table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::added;
use sealroot_fuzz::bounded;

const NAMES: [&str; 4] = [
    "io.systemd.stub.kernel-cmdline-extra",
    "io.systemd.boot.kernel-cmdline-extra",
    "io.systemd.boot-entries.extra",
    "io.systemd.credential",
];

fuzz_target!(|table: &[u8]| {
    let found = bounded(table.len(), 512, || added::find(table));
    // Whatever stands before it, a string is found.
    let is_one = |string: &[u8]| NAMES.iter().any(|name| string.starts_with(name.as_bytes()));
    let strings = table.split(|byte| *byte == 0).filter(|string| is_one(string)).count();
    assert!(found.len() >= strings.min(8) && found.len() <= 24, "{strings} strings, {} found", found.len());
    for string in &found {
        let text = string.to_string();
        assert!(text.len() < 1024 && NAMES.iter().any(|name| text.starts_with(name)), "{text}");
        assert!(text.chars().all(|character| matches!(character, ' '..='~' | '…')), "{text:?}");
    }
});
