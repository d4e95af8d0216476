//! The kernel's mount table.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use sealroot::kernel::mountinfo::{self, Line};
use sealroot_fuzz::{bounded, check_message};

fuzz_target!(|table: &[u8]| {
    let lines = match bounded(table.len(), 512, || mountinfo::parse(table)) {
        Ok(lines) => lines,
        Err(error) => return check_message(&error),
    };
    assert_eq!(lines.len(), table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count());
    // Written anew as the kernel would, it is the same table.
    let text: Vec<u8> = lines.iter().flat_map(written).collect();
    assert_eq!(mountinfo::parse(&text).expect("a table of our own"), lines);
});

fn written(line: &Line) -> Vec<u8> {
    let tokens =
        |tokens: &[String]| tokens.iter().map(|token| escaped(token.as_bytes())).collect::<Vec<_>>().join(&b","[..]);
    [
        line.id.to_string().into_bytes(),
        line.parent.to_string().into_bytes(),
        b"0:1 /".to_vec(),
        escaped(line.mount.point.as_os_str().as_bytes()),
        tokens(&line.mount.flags),
        b"shared:1 -".to_vec(),
        escaped(line.mount.filesystem.as_bytes()),
        escaped(line.mount.source.as_bytes()),
        [&tokens(&line.mount.options)[..], b"\n"].concat(),
    ]
    .join(&b" "[..])
}

fn escaped(field: &[u8]) -> Vec<u8> {
    field
        .iter()
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b',' | b'#' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        })
        .collect()
}
