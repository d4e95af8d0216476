//! PCR 11: what the image starts, measured as systemd-stub measures it, so that systemd's tools can predict it.
//!
//! Source: systemd-stub(7), "TPM PCR Notes"; the TCG's "EFI Protocol Specification".
#![expect(unsafe_code, reason = "protocols that others have open, too")]

use alloc::vec::Vec;

use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::tcg::{EventType, PcrIndex, v2};
use uefi::proto::unsafe_protocol;
use uefi::{Result, Status};

/// The PCR of a kernel image.
pub const PCR: u32 = 11;
/// What goes into it when a boot is refused: then no secret that is bound to it can be had until the machine restarts.
const REFUSED: &str = "sealroot-stub:refused";

/// Whether the image was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measuring {
    /// All of it.
    Done,
    /// The machine has no TPM.
    NoTpm,
}

/// `EFI_CC_MEASUREMENT_PROTOCOL`, which confidential virtual machines have in place of a TPM.
#[unsafe_protocol("96751a3d-72f4-41a6-a794-ed5d0e67ae6b")]
struct ConfidentialMeasurement;

/// A TPM 2.0.
pub struct Tpm(ScopedProtocol<v2::Tcg>);

impl Tpm {
    /// The machine's, if it has one.
    ///
    /// # Errors
    /// One that does not answer: an image that was not measured would look like one that was never started. And a
    /// machine that measures elsewhere, which the stub cannot do.
    pub fn open() -> Result<Option<Self>> {
        let tpm = Self::find()?;
        if tpm.is_none() && boot::get_handle_for_protocol::<ConfidentialMeasurement>().is_ok() {
            return Err(Status::UNSUPPORTED.into());
        }
        Ok(tpm)
    }

    fn find() -> Result<Option<Self>> {
        let Ok(handle) = boot::get_handle_for_protocol::<v2::Tcg>() else { return Ok(None) };
        let parameters = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
        // SAFETY: opened as everybody does, and used while nothing else runs.
        let mut tcg = unsafe { boot::open_protocol::<v2::Tcg>(parameters, OpenProtocolAttributes::GetProtocol) }?;
        let present = tcg.get_capability()?.tpm_present();
        Ok(present.then_some(Self(tcg)))
    }

    /// Measures a section: its name with the zero at its end, then its content. Both events are described by the name.
    pub fn measure(&mut self, name: &str, content: &[u8]) -> Result {
        let name: Vec<u8> = name.bytes().chain([0]).collect();
        let description: Vec<u8> = name.iter().flat_map(|byte| [*byte, 0]).collect();
        self.extend(&name, &description)?;
        self.extend(content, &description)
    }

    fn extend(&mut self, data: &[u8], description: &[u8]) -> Result {
        let event = v2::PcrEventInputs::new_in_box(PcrIndex(PCR), EventType::IPL, description)
            .map_err(|_| Status::OUT_OF_RESOURCES)?;
        self.0.hash_log_extend_event(v2::HashLogExtendEventFlags::empty(), data, &event)
    }
}

/// Closes PCR 11, if the machine has a TPM.
pub fn cap() -> Result {
    let Some(mut tpm) = Tpm::find()? else { return Ok(()) };
    let description: Vec<u8> = REFUSED.bytes().chain([0]).flat_map(|byte| [byte, 0]).collect();
    tpm.extend(REFUSED.as_bytes(), &description)
}
