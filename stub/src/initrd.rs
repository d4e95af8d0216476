//! The one initramfs that Linux finds: the image's own.
//!
//! Linux asks the firmware for a device path that stands for an initramfs, and takes the first that it is given. So there must be
//! none before the stub's, and the stub's must be the one that is found.
//!
//! Source: the kernel's `Documentation/arch/x86/boot.rst` and `drivers/firmware/efi/libstub`.
#![expect(unsafe_code, reason = "a protocol that firmware and kernel call")]

use alloc::boxed::Box;
use alloc::format;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use sealroot_stub_rules::initrd::Initrd;
use uefi::{Guid, Result, Status, StatusExt};
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::{Boolean, Handle};

use crate::refuse::refuse;

/// A media device path of a vendor, `LINUX_EFI_INITRD_MEDIA_GUID` (5568e427-68fc-4f3d-ac74-ca555231cc68), and its end.
#[repr(C, align(8))]
struct Path([u8; 24]);
static PATH: Path = Path([
    0x04, 0x03, 20, 0, 0x27, 0xe4, 0x68, 0x55, 0xfc, 0x68, 0x3d, 0x4f, 0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68,
    0x7f, 0xff, 4, 0,
]);

/// What is handed out. The image's memory stays until Linux has taken it: nothing is copied twice.
static CONTENT: AtomicPtr<Initrd<'static>> = AtomicPtr::new(ptr::null_mut());

/// Whose handle Linux would find, and the protocol that would answer it.
fn find() -> Result<(Handle, *mut c_void)> {
    let mut path = ptr::from_ref(&PATH).cast::<DevicePathProtocol>();
    let mut handle = ptr::null_mut();
    let services = crate::start::boot_services();
    // SAFETY: the path has an end, and both pointers are to variables here.
    unsafe { (services.locate_device_path)(&LoadFile2Protocol::GUID, &mut path, &mut handle) }.to_result()?;
    let mut protocol = ptr::null_mut();
    // SAFETY: the handle has just been found, and the pointer is to a variable here.
    unsafe { (services.handle_protocol)(handle, &LoadFile2Protocol::GUID, &mut protocol) }.to_result()?;
    Ok((handle, protocol))
}

/// Refuses if somebody else has registered an initramfs.
pub fn refuse_foreign() {
    match find() {
        Err(error) if error.status() == Status::NOT_FOUND => {}
        Ok(_) => refuse("initrd: expected none beside the image's own, found one of the boot loader".into()),
        Err(error) => refuse(format!("initrd: {}", error.status())),
    }
}

/// Registers the initramfs, and makes sure that it is what Linux finds.
pub fn register(content: Initrd<'static>) {
    CONTENT.store(Box::leak(Box::new(content)), Ordering::Relaxed);
    let protocol = ptr::from_mut(Box::leak(Box::new(LoadFile2Protocol { load_file }))).cast::<c_void>();
    let mut handle = ptr::null_mut();
    let install = crate::start::boot_services().install_multiple_protocol_interfaces;
    // SAFETY: both interfaces live until the machine stops, and a null ends the list. This call fails if somebody has registered the
    // same path meanwhile; two single calls would not.
    let status = unsafe {
        install(
            &mut handle,
            ptr::from_ref::<Guid>(&DevicePathProtocol::GUID),
            ptr::from_ref(&PATH).cast::<c_void>(),
            ptr::from_ref::<Guid>(&LoadFile2Protocol::GUID),
            protocol.cast_const(),
            ptr::null::<c_void>(),
        )
    };
    if status != Status::SUCCESS {
        refuse(format!("initrd: expected to register the image's own, found {status}"));
    }
    // A path that is the beginning of this one would be found, too, and whoever was told of this one may have put another in its place.
    if !find().is_ok_and(|found| found == (handle, protocol)) {
        refuse("initrd: expected the image's own to be found, found another one".into());
    }
}

/// Linux calls this twice: for the length, and for the content.
unsafe extern "efiapi" fn load_file(
    _: *mut LoadFile2Protocol,
    _: *const DevicePathProtocol,
    boot_policy: Boolean,
    size: *mut usize,
    buffer: *mut c_void,
) -> Status {
    if boot_policy != Boolean::FALSE {
        return Status::UNSUPPORTED;
    }
    // SAFETY: a pointer of the caller's, or null.
    let Some(size) = (unsafe { size.as_mut() }) else { return Status::INVALID_PARAMETER };
    // SAFETY: null, or what was stored, which stays.
    let Some(content) = (unsafe { CONTENT.load(Ordering::Relaxed).as_ref() }) else { return Status::NOT_FOUND };
    let length = content.length();
    let room = core::mem::replace(size, length);
    if buffer.is_null() || room < length {
        return Status::BUFFER_TOO_SMALL;
    }
    let mut end = buffer.cast::<u8>();
    content.each(|piece| {
        // SAFETY: the caller's buffer has room for all pieces, and the image is elsewhere.
        unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), end, piece.len()) };
        end = end.wrapping_add(piece.len());
    });
    Status::SUCCESS
}
