//! The generation of the stub: shim starts nothing whose generation was revoked, and `sealroot uki` knows the stub by this.
//!
//! Source: shim's `SBAT.md`. Six fields a line; shim takes none that is empty. A release that fixes a way around the seal raises
//! the number.
#![expect(unsafe_code, reason = "naming a section")]

use core::sync::atomic::AtomicU8;

const TEXT: &str = concat!(
    "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n",
    "sealroot-stub,1,sealroot,sealroot-stub,",
    env!("CARGO_PKG_VERSION"),
    ",urn:sealroot\n"
);

const fn bytes() -> [u8; TEXT.len()] {
    match TEXT.as_bytes().first_chunk() {
        Some(bytes) => *bytes,
        None => [0; TEXT.len()],
    }
}

// SAFETY: a section of its own, with nothing in it but this text.
#[used]
#[unsafe(link_section = ".sbat")]
static SBAT: [u8; TEXT.len()] = bytes();

/// shim starts no image with a section that has no content, as `.data` would be one without this.
// SAFETY: the section of what can be written to.
#[used]
#[unsafe(link_section = ".data")]
static CONTENT: AtomicU8 = AtomicU8::new(1);
