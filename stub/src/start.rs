//! Linux, loaded and started.
#![expect(unsafe_code, reason = "memory of the firmware's, and the jump into it")]

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use core::slice;

use sealroot_stub_rules::kernel::{Kernel, PAGE};
use uefi::boot::{self, AllocateType, MemoryType, OpenProtocolAttributes, OpenProtocolParams};
use uefi::proto::security::MemoryProtection;
use uefi::{Result, Status};
use uefi_raw::Handle;
use uefi_raw::table::boot::{BootServices, MemoryAttribute};
use uefi_raw::table::system::SystemTable;

use crate::image::OwnImage;
use crate::refuse::{OrRefuse, refuse};

type EntryPoint = unsafe extern "efiapi" fn(Handle, *const SystemTable) -> Status;

/// A kernel in memory.
pub struct Loaded {
    memory: &'static [u8],
    entry_point: usize,
}

impl Loaded {
    /// Loads it.
    pub fn new(kernel: &Kernel<'_>) -> Self {
        let (size, alignment) = (kernel.size() as usize, kernel.alignment() as usize);
        let memory = allocate(size, alignment).or_refuse("memory for the kernel");
        kernel.load(memory).unwrap_or_else(|problem| refuse(format!("{problem}")));
        let memory: &'static [u8] = memory;
        flush_instructions(memory);
        protect(kernel, memory.as_ptr() as u64).or_refuse("memory of the kernel");
        Self { memory, entry_point: kernel.entry_point() as usize }
    }

    /// Starts it. Under this image's handle it finds its command line.
    pub fn start(&self, image: OwnImage, command_line: &[u8]) -> ! {
        let line: Vec<u16> = command_line.iter().map(|byte| u16::from(*byte)).chain([0]).collect();
        let handle = image.becomes(self.memory, Box::leak(line.into_boxed_slice()));
        let table = uefi::table::system_table_raw().map_or(core::ptr::null(), |table| table.as_ptr().cast_const());
        let address = self.memory.as_ptr().wrapping_add(self.entry_point);
        // SAFETY: the entry point of an executable for this machine lies in its code, which was loaded above.
        let entry = unsafe { mem::transmute::<*const u8, EntryPoint>(address) };
        // SAFETY: called as firmware calls an application. It may do whatever it likes: it was signed with this stub.
        let status = unsafe { entry(handle.as_ptr(), table) };
        // Its memory is what the firmware knows as this image's by now: nothing can follow but a restart.
        refuse(format!("kernel: expected it to run, found that it came back: {status}"))
    }
}

/// What the firmware offers, for calls that `uefi` does not have.
pub fn boot_services() -> &'static BootServices {
    let table = uefi::table::system_table_raw().map(|table| {
        // SAFETY: set by the entry point, and valid as long as the stub runs.
        unsafe { table.as_ref() }.boot_services
    });
    let services = table.and_then(|services| {
        // SAFETY: as above, since Linux alone ends them.
        unsafe { services.as_ref() }
    });
    services.unwrap_or_else(|| refuse("firmware: expected boot services, found none".into()))
}

/// Memory for code. What lies in front of an aligned address is given up.
fn allocate(size: usize, alignment: usize) -> Result<&'static mut [u8]> {
    let page = PAGE as usize;
    let more = alignment.saturating_sub(page);
    let pages = size.saturating_add(more).div_ceil(page);
    let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_CODE, pages)?;
    let skipped = start.as_ptr().align_offset(alignment);
    if skipped > more {
        return Err(Status::OUT_OF_RESOURCES.into());
    }
    // SAFETY: within what was allocated, of which nobody else knows.
    let start = unsafe { start.add(skipped) };
    // SAFETY: as above.
    Ok(unsafe { slice::from_raw_parts_mut(start.as_ptr(), size) })
}

/// Makes code executable and read-only, for firmware that keeps code and data apart. Other firmware has no such protocol.
fn protect(kernel: &Kernel<'_>, base: u64) -> Result {
    let Ok(handle) = boot::get_handle_for_protocol::<MemoryProtection>() else { return Ok(()) };
    let parameters = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: opened as everybody does, and used while nothing else runs.
    let protocol = unsafe { boot::open_protocol::<MemoryProtection>(parameters, OpenProtocolAttributes::GetProtocol) }?;
    for span in kernel.code() {
        let start = base + span.start as u64;
        let range: Range<u64> = start..start + span.length as u64;
        protocol.set_memory_attributes(range.clone(), MemoryAttribute::READ_ONLY)?;
        protocol.clear_memory_attributes(range, MemoryAttribute::EXECUTE_PROTECT)?;
    }
    Ok(())
}

/// x86 processors notice that code was written.
#[cfg(target_arch = "x86_64")]
fn flush_instructions(_: &[u8]) {}

/// What was written as data is fetched as instructions only after both caches were told.
///
/// Source: "Arm Architecture Reference Manual", B2.4.4: `CTR_EL0` says how long a line is.
#[cfg(target_arch = "aarch64")]
fn flush_instructions(memory: &[u8]) {
    use core::arch::asm;

    let kinds: u64;
    // SAFETY: reads a register that every level may read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) kinds, options(nomem, nostack, preserves_flags)) };
    // Both are logarithms of a number of words.
    let (data, instructions) = (4_usize << (kinds >> 16 & 15), 4_usize << (kinds & 15));
    let start = memory.as_ptr() as usize;
    let end = start + memory.len();
    for address in (start & !(data - 1)..end).step_by(data) {
        // SAFETY: cleans a line of memory that belongs to the kernel.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: waits.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for address in (start & !(instructions - 1)..end).step_by(instructions) {
        // SAFETY: forgets a line of instructions that nobody executes yet.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: waits, and fetches anew.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}
