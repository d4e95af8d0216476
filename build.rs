//! How the boot program is linked, where that makes it smaller: static, for release, without unwinding.

use std::env;
use std::io::{self, Write};

fn main() -> io::Result<()> {
    let is = |variable, value| env::var(variable).is_ok_and(|found| found == value);
    let script =
        format!("{}/src/bin/sealroot-initrd.ld", env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into()));
    let mut instructions = vec!["rerun-if-changed=build.rs".to_owned(), format!("rerun-if-changed={script}")];
    // Only the release profile aborts on a panic; other C libraries bring their own unwinder.
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        // Compilers and linkers alike take these as they are. musl's start code relocates a packed table since 1.2.4
        // (Rust 1.93 brings 1.2.5); a linker that does not know the keyword says so and goes on.
        for argument in ["-z", "pack-relative-relocs", "-T", &script] {
            instructions.push(format!("rustc-link-arg-bin=sealroot-initrd={argument}"));
        }
    }
    let mut cargo = io::stdout().lock();
    instructions.iter().try_for_each(|instruction| writeln!(cargo, "cargo::{instruction}"))
}
