//! Starts `\EFI\image.efi` with what the words of `\odd-loader` say:
//!
//! - `initrd`: `\planted.cpio` is registered as Linux looks for an initramfs
//! - `initrd-on-an-empty-path`: the same, on a device path without a node, which is the beginning of every other
//! - `initrd-later`: as soon as the image registers an initramfs, that is withdrawn, and the planted one registered
//! - `initrd-replaced`: as soon as the image registers an initramfs, it is replaced under the same handle
//! - `options`: load options that are a command line
//! - `long-options`: the same, of 64 KiB
//! - `watch-reset`: whoever restarts the machine, what is in PCR 11 is said first
//! - `from-memory`: the image is a part of no file and no device
#![no_main]
#![no_std]

extern crate alloc;

mod initrd;
mod reset;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use uefi::boot::{self, LoadImageSource, OpenProtocolAttributes, OpenProtocolParams};
use uefi::fs::FileSystem;
use uefi::prelude::*;
use uefi::proto::BootPolicy;
use uefi::proto::device_path::DevicePath;
use uefi::proto::device_path::build::{self, DevicePathBuilder};
use uefi::proto::loaded_image::LoadedImage;
use uefi::{CStr16, println};

const IMAGE: &CStr16 = cstr16!("\\EFI\\image.efi");
const OPTIONS: &str = "console=ttyS0 panic=-1 added=by-the-loader initrd=\\planted.cpio";
const LONG: usize = 64 << 10;

#[entry]
fn main() -> Status {
    match start() {
        Ok(()) => println!("odd-loader: the image came back"),
        Err(error) => println!("odd-loader: {error}"),
    }
    Status::ABORTED
}

fn start() -> Result<(), String> {
    let mut files = FileSystem::new(boot::get_image_file_system(boot::image_handle()).map_err(said("file system"))?);
    let mut read = |path: &CStr16| files.read(path).map_err(|error| format!("{path}: {error}"));
    let words = String::from_utf8(read(cstr16!("\\odd-loader"))?).map_err(|_| "odd-loader: no text")?;
    let words: Vec<_> = words.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    if words.iter().any(|word| word.starts_with("initrd")) {
        initrd::plant(read(cstr16!("\\planted.cpio"))?);
    }
    if has("initrd") {
        initrd::register(&initrd::LINUX).map_err(said("initrd"))?;
    }
    if has("initrd-on-an-empty-path") {
        initrd::register(&initrd::EMPTY).map_err(said("initrd"))?;
    }
    if has("initrd-later") {
        initrd::wait(initrd::withdraw).map_err(said("initrd"))?;
    }
    if has("initrd-replaced") {
        initrd::wait(initrd::replace).map_err(said("initrd"))?;
    }
    if has("watch-reset") {
        reset::watch();
    }
    let image = if has("from-memory") {
        let content = read(IMAGE)?;
        boot::load_image(boot::image_handle(), LoadImageSource::FromBuffer { buffer: &content, file_path: None })
    } else {
        let mut memory = Vec::new();
        let device_path = path(&mut memory).map_err(said("path"))?;
        let source = LoadImageSource::FromDevicePath { device_path, boot_policy: BootPolicy::ExactMatch };
        boot::load_image(boot::image_handle(), source)
    }
    .map_err(said("load"))?;
    if has("options") || has("long-options") {
        let length = if has("options") { OPTIONS.len() } else { LONG / 2 - 1 };
        let text: Vec<u16> = OPTIONS.encode_utf16().chain([0x20]).cycle().take(length).chain([0]).collect();
        let size = u32::try_from(size_of_val(&*text)).map_err(|_| "options: too long")?;
        let mut about = boot::open_protocol_exclusive::<LoadedImage>(image).map_err(said("image"))?;
        // SAFETY: they stay, as everything here does.
        unsafe { about.set_load_options(Box::leak(text.into_boxed_slice()).as_ptr().cast(), size) };
    }
    println!("odd-loader: {}", words.join(" "));
    boot::start_image(image).map_err(said("start"))
}

fn said(what: &'static str) -> impl Fn(uefi::Error) -> String {
    move |error| format!("{what}: {}", error.status())
}

/// The image's path, beside this program.
fn path(memory: &mut Vec<u8>) -> uefi::Result<&DevicePath> {
    let own = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())?;
    let device = own.device().ok_or(Status::NOT_FOUND)?;
    let parameters = OpenProtocolParams { handle: device, agent: boot::image_handle(), controller: None };
    // SAFETY: it is only read. Its drivers have it open, too.
    let device = unsafe { boot::open_protocol::<DevicePath>(parameters, OpenProtocolAttributes::GetProtocol) }?;
    let mut builder = DevicePathBuilder::with_vec(memory);
    for node in device.node_iter() {
        builder = builder.push(&node).map_err(|_| Status::OUT_OF_RESOURCES)?;
    }
    let file = build::media::FilePath { path_name: IMAGE };
    let builder = builder.push(&file).map_err(|_| Status::OUT_OF_RESOURCES)?;
    builder.finalize().map_err(|_| Status::OUT_OF_RESOURCES.into())
}
