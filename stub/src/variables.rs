//! What systemd asks the firmware about the stub, in volatile variables.
//!
//! Nothing of the seal depends on them: whoever was root once may have left others of the same name, which then stay. So a variable
//! that cannot be set is no reason to refuse.
//!
//! Source: systemd-stub(7), "EFI Variables"; the boot loader interface.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams};
use uefi::proto::device_path::media::PartitionSignature;
use uefi::proto::device_path::text::{AllowShortcuts, DisplayOnly};
use uefi::proto::device_path::{DevicePath, DevicePathNodeEnum};
use uefi::runtime::{self, VariableAttributes, VariableVendor};
use uefi::{CStr16, cstr16, guid, system};

use crate::NAME;
use crate::image::OwnImage;
use crate::tpm::{self, Measuring};

const LOADER: VariableVendor = VariableVendor(guid!("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
/// `EFI_STUB_FEATURE_REPORT_BOOT_PARTITION` and `EFI_STUB_FEATURE_REPORT_STUB_PARTITION`: of the features that systemd-stub says of
/// itself the others are ways to add something.
const FEATURES: u64 = 1 << 0 | 1 << 10;

/// Says which stub this is, where it came from, and what it measured.
pub fn set(image: &OwnImage, measuring: Measuring) {
    set_text(cstr16!("StubInfo"), NAME);
    set_bytes(cstr16!("StubFeatures"), &FEATURES.to_le_bytes());
    if let Some(partition) = partition(image) {
        set_text(cstr16!("StubDevicePartUUID"), &partition);
        set_unless_known(cstr16!("LoaderDevicePartUUID"), &partition);
    }
    if let Some(file) = file(image) {
        set_text(cstr16!("StubImageIdentifier"), &file);
        set_unless_known(cstr16!("LoaderImageIdentifier"), &file);
    }
    let revision = system::firmware_revision();
    let firmware = format!("{} {}.{:02}", system::firmware_vendor(), revision >> 16, revision & 0xffff);
    set_unless_known(cstr16!("LoaderFirmwareInfo"), &firmware);
    if measuring == Measuring::Done {
        set_text(cstr16!("StubPcrKernelImage"), &tpm::PCR.to_string());
    }
}

fn set_bytes(name: &CStr16, value: &[u8]) {
    let attributes = VariableAttributes::BOOTSERVICE_ACCESS | VariableAttributes::RUNTIME_ACCESS;
    let _ = runtime::set_variable(name, &LOADER, attributes, value);
}

fn set_text(name: &CStr16, value: &str) {
    let utf16: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    set_bytes(name, &utf16);
}

/// What a boot loader has said stays.
fn set_unless_known(name: &CStr16, value: &str) {
    if !runtime::variable_exists(name, &LOADER).unwrap_or(false) {
        set_text(name, value);
    }
}

/// The identity of the partition that the image came from, in capitals, as systemd-stub writes it.
fn partition(image: &OwnImage) -> Option<String> {
    let handle = image.about().device()?;
    let parameters = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    let path = open_path(parameters)?;
    path.node_iter().find_map(|node| match node.as_enum() {
        Ok(DevicePathNodeEnum::MediaHardDrive(drive)) => match drive.partition_signature() {
            PartitionSignature::Guid(identity) => Some(identity.to_string().to_ascii_uppercase()),
            _ => None,
        },
        _ => None,
    })
}

#[expect(unsafe_code, reason = "a protocol that others have open, too")]
fn open_path(parameters: OpenProtocolParams) -> Option<boot::ScopedProtocol<DevicePath>> {
    // SAFETY: it is only read, and the device stays while the stub runs.
    unsafe { boot::open_protocol::<DevicePath>(parameters, OpenProtocolAttributes::GetProtocol) }.ok()
}

/// The path of the image's file.
fn file(image: &OwnImage) -> Option<String> {
    let text = image.about().file_path()?.to_string16(DisplayOnly(false), AllowShortcuts(false)).ok()?;
    Some(text.to_string())
}
