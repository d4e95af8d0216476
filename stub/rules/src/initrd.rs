//! What Linux is given as its initramfs: microcode first, which Linux looks for nowhere else; then the image's initramfs; then what
//! systemd looks for in `/.extra` to unlock a secret that a signed PCR policy protects.
//!
//! Source: systemd-stub(7), for names, modes and order; the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use core::fmt::{self, Write};

const FOLDER: &str = ".extra";
const SIGNATURE: &str = ".extra/tpm2-pcr-signature.json";
const PUBLIC_KEY: &str = ".extra/tpm2-pcr-public-key.pem";
/// A folder and a file that everybody may read and nobody may change.
const FOLDER_MODE: u32 = 0o040_555;
const FILE_MODE: u32 = 0o100_444;
const END: &str = "TRAILER!!!";

/// An initramfs of several parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Initrd<'a> {
    pub(crate) microcode: Option<&'a [u8]>,
    pub(crate) own: &'a [u8],
    pub(crate) signature: Option<&'a [u8]>,
    pub(crate) public_key: Option<&'a [u8]>,
}

impl Initrd<'_> {
    /// How long it is, in bytes.
    pub fn length(&self) -> usize {
        let mut length: usize = 0;
        self.each(|piece| length = length.saturating_add(piece.len()));
        length
    }

    /// Hands out all of it, piece by piece.
    pub fn each(&self, to: impl FnMut(&[u8])) {
        let mut out = Out { to, written: 0 };
        if let Some(microcode) = self.microcode {
            out.write(microcode);
            out.align();
        }
        out.write(self.own);
        let files = [(SIGNATURE, self.signature), (PUBLIC_KEY, self.public_key)];
        if files.iter().all(|(_, content)| content.is_none()) {
            return;
        }
        out.align();
        out.entry(1, FOLDER_MODE, FOLDER, b"");
        for ((path, content), number) in files.into_iter().zip(2..) {
            if let Some(content) = content {
                out.entry(number, FILE_MODE, path, content);
            }
        }
        out.entry(0, 0, END, b"");
    }
}

/// Where an archive is written to.
struct Out<F> {
    to: F,
    written: usize,
}

impl<F: FnMut(&[u8])> Out<F> {
    fn write(&mut self, piece: &[u8]) {
        self.written = self.written.saturating_add(piece.len());
        (self.to)(piece);
    }

    /// Linux finds an archive, and what is in it, at multiples of four bytes.
    fn align(&mut self) {
        let missing = self.written.wrapping_neg() & 3;
        self.write([0; 3].get(..missing).unwrap_or_default());
    }

    /// A file of the "newc" format.
    fn entry(&mut self, number: u32, mode: u32, path: &str, content: &[u8]) {
        let (links, size, name_size) = (1, content.len(), path.len().saturating_add(1));
        // Owner and group, then the time, are zero; as are the devices, and the sum that this format does not use.
        let _ = write!(
            self,
            "070701{number:08x}{mode:08x}{:016x}{links:08x}{:08x}{size:08x}{:032x}{name_size:08x}{:08x}{path}\0",
            0, 0, 0, 0
        );
        self.align();
        self.write(content);
        self.align();
    }
}

impl<F: FnMut(&[u8])> Write for Out<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(initrd: &Initrd<'_>) -> Vec<u8> {
        let mut whole = Vec::new();
        initrd.each(|piece| whole.extend(piece));
        assert_eq!(whole.len(), initrd.length());
        whole
    }

    #[test]
    fn alone_it_is_what_was_signed() {
        assert_eq!(whole(&Initrd { own: b"odd", ..Initrd::default() }), b"odd");
    }

    #[test]
    fn microcode_comes_first() {
        let initrd = Initrd { microcode: Some(b"micro"), own: b"odd", ..Initrd::default() };
        assert_eq!(whole(&initrd), b"micro\0\0\0odd");
    }

    /// As systemd-stub writes it, but for the order of numbers: folder, files, end; all of it aligned.
    #[test]
    fn what_systemd_looks_for() {
        let field = |value: u32| format!("{value:08x}");
        let header = |number: u32, mode: u32, size: u32, name: &str| {
            let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0].map(field);
            let mut header = format!("070701{}{name}\0", fields.concat());
            while !header.len().is_multiple_of(4) {
                header.push('\0');
            }
            header
        };
        let initrd = Initrd { own: b"own", signature: Some(b"{}"), public_key: Some(b"KEY..."), ..Initrd::default() };
        let expected = [
            "own\0".to_owned(),
            header(1, 0o040_555, 0, ".extra"),
            header(2, 0o100_444, 2, ".extra/tpm2-pcr-signature.json"),
            "{}\0\0".into(),
            header(3, 0o100_444, 6, ".extra/tpm2-pcr-public-key.pem"),
            "KEY...\0\0".into(),
            header(0, 0, 0, "TRAILER!!!"),
        ];
        assert_eq!(String::from_utf8(whole(&initrd)).unwrap(), expected.concat());
        let only_key = Initrd { signature: None, ..initrd };
        let text = String::from_utf8(whole(&only_key)).unwrap();
        assert!(!text.contains("signature") && text.contains("KEY..."));
    }
}
