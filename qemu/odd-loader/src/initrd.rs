//! An initramfs that nobody signed, offered to Linux in several ways.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use uefi::boot::{self, EventType, Tpl};
use uefi::{Event, Guid, Result, Status, StatusExt};
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::table::boot::BootServices;
use uefi_raw::{Boolean, Handle};

/// A device path.
#[repr(C, align(8))]
pub struct Path([u8; 24]);

/// Where Linux looks: a media device path with `LINUX_EFI_INITRD_MEDIA_GUID`.
pub static LINUX: Path = Path([
    0x04, 0x03, 20, 0, 0x27, 0xe4, 0x68, 0x55, 0xfc, 0x68, 0x3d, 0x4f, 0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68,
    0x7f, 0xff, 4, 0,
]);
/// Nothing but an end.
pub static EMPTY: Path = Path([0x7f, 0xff, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

static LOAD_FILE: Guid = LoadFile2Protocol::GUID;
static CONTENT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);
/// What is to be done once, and whether it was.
static DONE: AtomicBool = AtomicBool::new(false);

/// What is offered from now on.
pub fn plant(content: Vec<u8>) {
    LENGTH.store(content.len(), Ordering::Relaxed);
    CONTENT.store(Box::leak(content.into_boxed_slice()).as_mut_ptr(), Ordering::Relaxed);
}

/// Offers it on a path, on a handle of its own.
pub fn register(path: &'static Path) -> Result {
    let interface = ptr::from_ref(path).cast::<c_void>();
    // SAFETY: the path stays.
    let handle = unsafe { boot::install_protocol_interface(None, &DevicePathProtocol::GUID, interface) }?;
    // SAFETY: so does the protocol.
    unsafe { boot::install_protocol_interface(Some(handle), &LOAD_FILE, protocol()) }.map(|_| ())
}

/// Does something as soon as somebody registers an initramfs.
pub fn wait(then: unsafe extern "efiapi" fn(Event, Option<NonNull<c_void>>)) -> Result {
    // SAFETY: the function stays.
    let event = unsafe { boot::create_event(EventType::NOTIFY_SIGNAL, Tpl::CALLBACK, Some(then), None) }?;
    boot::register_protocol_notify(&LOAD_FILE, &event).map(|_| ())
}

/// Withdraws the initramfs that Linux would find, and offers the planted one in its place.
pub unsafe extern "efiapi" fn withdraw(_: Event, _: Option<NonNull<c_void>>) {
    let Some((handle, interface)) = first() else { return };
    // SAFETY: its owner is not asked.
    let withdrawn = unsafe { (services().uninstall_protocol_interface)(handle, &LOAD_FILE, interface) };
    uefi::println!("odd-loader: withdrawn: {withdrawn}");
    if let Err(error) = register(&LINUX) {
        uefi::println!("odd-loader: registered: {error}");
    }
}

/// Offers the planted initramfs under the handle of the one that Linux would find.
pub unsafe extern "efiapi" fn replace(_: Event, _: Option<NonNull<c_void>>) {
    let Some((handle, interface)) = first() else { return };
    // SAFETY: its owner is not asked.
    let replaced = unsafe { (services().reinstall_protocol_interface)(handle, &LOAD_FILE, interface, protocol()) };
    uefi::println!("odd-loader: replaced: {replaced}");
}

/// What Linux would find, the first time that there is anything.
fn first() -> Option<(Handle, *mut c_void)> {
    let mut path = ptr::from_ref(&LINUX).cast::<DevicePathProtocol>();
    let (mut handle, mut interface) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the path has an end.
    let found = unsafe { (services().locate_device_path)(&LOAD_FILE, &mut path, &mut handle) };
    if found != Status::SUCCESS || DONE.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: it has just been found.
    let opened = unsafe { (services().handle_protocol)(handle, &LOAD_FILE, &mut interface) };
    opened.to_result().ok()?;
    Some((handle, interface))
}

fn services() -> &'static BootServices {
    let table = uefi::table::system_table_raw().expect("set by the entry point");
    // SAFETY: both are there as long as this program is.
    unsafe { &*table.as_ref().boot_services }
}

fn protocol() -> *const c_void {
    ptr::from_mut(Box::leak(Box::new(LoadFile2Protocol { load_file }))).cast::<c_void>().cast_const()
}

unsafe extern "efiapi" fn load_file(
    _: *mut LoadFile2Protocol,
    _: *const DevicePathProtocol,
    _: Boolean,
    size: *mut usize,
    buffer: *mut c_void,
) -> Status {
    let length = LENGTH.load(Ordering::Relaxed);
    // SAFETY: the caller's.
    let room = unsafe { ptr::replace(size, length) };
    if buffer.is_null() || room < length {
        return Status::BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller's buffer has that much room.
    unsafe { ptr::copy_nonoverlapping(CONTENT.load(Ordering::Relaxed), buffer.cast::<u8>(), length) };
    Status::SUCCESS
}
