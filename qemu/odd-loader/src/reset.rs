//! What is in PCR 11 when somebody restarts the machine, said in the last moment.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use uefi::boot;
use uefi::proto::tcg::{PcrIndex, v2::Tcg};
use uefi::{Result, Status};
use uefi_raw::table::runtime::ResetType;

type Reset = unsafe extern "efiapi" fn(ResetType, Status, usize, *const u8) -> !;

/// The firmware's own.
static RESET: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has the firmware call this program first.
pub fn watch() {
    let table = uefi::table::system_table_raw().expect("set by the entry point");
    // SAFETY: it is there as long as this program is.
    let services = unsafe { table.as_ref() }.runtime_services;
    // SAFETY: as above, and nobody else looks at this field now.
    let original = unsafe { ptr::replace(&raw mut (*services).reset_system, reset) };
    RESET.store(original as *mut (), Ordering::Relaxed);
}

unsafe extern "efiapi" fn reset(kind: ResetType, status: Status, size: usize, data: *const u8) -> ! {
    match events() {
        Ok(events) if events.is_empty() => uefi::println!("odd-loader: in PCR 11: nothing"),
        Ok(events) => uefi::println!("odd-loader: in PCR 11: {}", events.join(", ")),
        Err(error) => uefi::println!("odd-loader: in PCR 11: {}", error.status()),
    }
    // SAFETY: stored before this could be called.
    let original = unsafe { transmute::<*mut (), Reset>(RESET.load(Ordering::Relaxed)) };
    // SAFETY: as it was asked for.
    unsafe { original(kind, status, size, data) }
}

/// The texts of the events.
fn events() -> Result<Vec<String>> {
    let handle = boot::get_handle_for_protocol::<Tcg>()?;
    let mut tpm = boot::open_protocol_exclusive::<Tcg>(handle)?;
    let log = tpm.get_event_log_v2()?;
    let events = log.iter().filter(|event| event.pcr_index() == PcrIndex(11));
    Ok(events
        .map(|event| event.event_data().iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect())
        .collect())
}
