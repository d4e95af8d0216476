//! A UEFI boot stub that starts the kernel, the initramfs and the command line of the image that it is a part of, and adds nothing.
//!
//! The firmware has verified that image as a whole. What comes from elsewhere has no say: load options, SMBIOS strings, files beside
//! the image, variables, a boot loader's initramfs. With Secure Boot off it is the same.
//!
//! The order: everything that the image can be refused for, then what the boot loader did, then PCR 11, and then nothing is left
//! but to start Linux. What unlocks secrets is therefore never there in a boot that is refused for its image.
#![no_main]
#![no_std]

extern crate alloc;

mod image;
mod initrd;
mod refuse;
mod sbat;
mod start;
mod tpm;
mod variables;

use alloc::format;

use sealroot_stub_rules::Payload;
use sealroot_stub_rules::payload::Layout;
use uefi::Status;

use crate::image::OwnImage;
use crate::refuse::{OrRefuse, refuse};
use crate::start::Loaded;
use crate::tpm::{Measuring, Tpm};

/// What systemd and people see of the stub's name.
const NAME: &str = concat!("sealroot-stub ", env!("CARGO_PKG_VERSION"));

#[uefi::entry]
fn main() -> Status {
    let image = OwnImage::open().or_refuse("own image");
    let payload = Payload::read(image.content(), Layout::Memory).unwrap_or_else(|problem| refuse(format!("{problem}")));
    initrd::refuse_foreign();
    let kernel = Loaded::new(&payload.kernel());
    let measuring = match Tpm::open().or_refuse("TPM") {
        None => Measuring::NoTpm,
        Some(mut tpm) => {
            for (name, content) in payload.measured() {
                tpm.measure(name, content).or_refuse("TPM");
            }
            Measuring::Done
        }
    };
    variables::set(&image, measuring);
    initrd::register(payload.initrd());
    kernel.start(image, payload.command_line())
}
