//! The image that this program is a part of, as the firmware verified and loaded it.
#![expect(unsafe_code, reason = "the firmware gives addresses")]

use core::ffi::c_void;
use core::slice;

use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::loaded_image::LoadedImage;
use uefi::{Handle, Result, Status};

/// The image that runs.
pub struct OwnImage {
    protocol: ScopedProtocol<LoadedImage>,
    content: &'static [u8],
}

impl OwnImage {
    /// Asks the firmware for it.
    pub fn open() -> Result<Self> {
        let handle = boot::image_handle();
        let parameters = OpenProtocolParams { handle, agent: handle, controller: None };
        // SAFETY: this program is the only one that changes its own image's protocol.
        let protocol = unsafe { boot::open_protocol::<LoadedImage>(parameters, OpenProtocolAttributes::GetProtocol) }?;
        let (base, size) = protocol.info();
        let size = usize::try_from(size).map_err(|_| Status::LOAD_ERROR)?;
        if base.is_null() {
            return Err(Status::LOAD_ERROR.into());
        }
        // SAFETY: the firmware loaded the image there, and it stays until Linux takes the memory over. Nobody writes to what is read
        // of it: headers, and the sections that a builder added.
        let content = unsafe { slice::from_raw_parts(base.cast::<u8>(), size) };
        Ok(Self { protocol, content })
    }

    /// The image in memory.
    pub fn content(&self) -> &'static [u8] {
        self.content
    }

    /// What the firmware says about it.
    pub fn about(&self) -> &LoadedImage {
        &self.protocol
    }

    /// From now on the kernel is what runs under this image's handle, with a command line that ends with a zero.
    pub fn becomes(mut self, kernel: &'static [u8], command_line: &'static [u16]) -> Handle {
        let options = command_line.as_ptr().cast::<u8>();
        let length = u32::try_from(size_of_val(command_line)).unwrap_or(0);
        // SAFETY: both stay where they are until Linux takes the memory over.
        unsafe { self.protocol.set_image(kernel.as_ptr().cast::<c_void>(), kernel.len() as u64) };
        // SAFETY: as above.
        unsafe { self.protocol.set_load_options(options, length) };
        boot::image_handle()
    }
}
