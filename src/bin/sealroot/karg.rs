//! `sealroot karg`: what a kernel command line must say to boot an image.

use std::fmt;

use miniserde::Serialize;
use sealroot::ask::bypasses;
use sealroot::formats::composefs::FormatVersion;
use sealroot::verity::digest::ImageDigest;

use crate::arguments::{KargArguments, KargReader};
use crate::image_file;
use crate::measure::By;
use crate::output::{Answer, Failure, Finding, Page, Paint};

/// What bootc installs has its root found by systemd-gpt-auto-generator. In the initrd the last word on that counts, in the booted
/// system, where it would mount further partitions, only the one without `rd.`.
const ROOT_BY_TYPE: &str = " rd.systemd.gpt_auto=yes";

/// The argument, and what it was made from.
#[derive(Debug, Serialize)]
pub struct Karg {
    karg: String,
    digest: String,
    algorithm: String,
    format: String,
    measured: By,
}

pub fn run(arguments: &KargArguments) -> Result<Karg, Failure> {
    let image = image_file::open(&arguments.image)?;
    let digest = image.measured.digest();
    let mut karg = karg(arguments.reader, image.format, digest);
    if arguments.sealed {
        for bypass in bypasses::SEALED {
            karg.push(' ');
            karg.push_str(bypass.remedy());
        }
        if arguments.reader == KargReader::Bootc {
            karg.push_str(ROOT_BY_TYPE);
        }
    }
    Ok(Karg {
        karg,
        digest: digest.to_hex(),
        algorithm: digest.algorithm().name().into(),
        format: image.format.name().into(),
        measured: image.measured.by(),
    })
}

/// The form that names the format, where there is one, or the one that bootc looks for whatever the format. The boot program
/// reads both.
fn karg(reader: KargReader, format: FormatVersion, digest: ImageDigest) -> String {
    match (reader, format) {
        (KargReader::Sealroot, FormatVersion::V1) => {
            format!("composefs.digest=v1-{}-12:{}", digest.algorithm(), digest.to_hex())
        }
        (KargReader::Sealroot, FormatVersion::V2) | (KargReader::Bootc, _) => format!("composefs={}", digest.to_hex()),
    }
}

impl Finding for Karg {
    fn answer(&self) -> Answer {
        Answer::Yes
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        writeln!(text, "{}", self.karg)
    }
}
