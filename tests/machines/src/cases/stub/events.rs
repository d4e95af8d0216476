//! The event log of a TPM, as the firmware keeps it and Linux hands it out.
//!
//! Source: the TCG's "PC Client Platform Firmware Profile", for the formats and the numbers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::boot::said;
use crate::console::Console;

/// What a boot loader or a stub measures.
const IPL: u32 = 13;
/// A program that the firmware loaded.
const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const SHA256: u16 = 11;

/// One event.
#[derive(Debug)]
struct Event {
    pcr: u32,
    kind: u32,
    sha256: String,
    content: Vec<u8>,
}

/// Reads a log from its start.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).context("the event log breaks off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn counted(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.u32()?)?;
        self.take(length)
    }
}

/// All events but the first, which says what the log is.
fn read(log: &[u8]) -> Result<Vec<Event>> {
    let mut log = Reader(log);
    log.take(8 + 20)?;
    log.counted()?;
    let mut events = Vec::new();
    while !log.0.is_empty() {
        let (pcr, kind) = (log.u32()?, log.u32()?);
        let mut sha256 = None;
        for _ in 0..log.u32()? {
            let algorithm = log.u16()?;
            let length = match algorithm {
                4 => 20,
                SHA256 => 32,
                12 => 48,
                13 => 64,
                other => bail!("hash algorithm {other}"),
            };
            let digest = log.take(length)?;
            if algorithm == SHA256 {
                sha256 = Some(digest.iter().map(|byte| format!("{byte:02x}")).collect());
            }
        }
        let content = log.counted()?.to_vec();
        events.push(Event { pcr, kind, sha256: sha256.context("an event without a SHA-256 digest")?, content });
    }
    Ok(events)
}

fn logged(console: &Console) -> Result<Vec<Event>> {
    read(&BASE64_STANDARD.decode(said(console, "event-log")).context("event log")?)
}

/// What is in PCR 11 are the sections of the image: two events each, its name and its content, both with its name as a text.
pub fn sections(console: &Console, folder: &Path) -> Vec<String> {
    let compare = || {
        let list = fs::read_to_string(folder.join("sections"))?;
        let mut expected = Vec::new();
        for line in list.lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            expected.extend(words.map(|digest| format!("{IPL} {name} {digest}")));
        }
        let found: Vec<_> = logged(console)?.iter().filter(|event| event.pcr == 11).map(described).collect();
        anyhow::Ok((expected, found))
    };
    match compare() {
        Ok((expected, found)) if expected == found && !found.is_empty() => Vec::new(),
        Ok((expected, found)) => vec![format!("events of PCR 11: expected\n{expected:#?}\nfound\n{found:#?}")],
        Err(error) => vec![format!("{error:#}")],
    }
}

/// Type, text (which is in UTF-16, with a zero at its end) and digest.
fn described(event: &Event) -> String {
    let units: Vec<_> = event.content.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let text = String::from_utf16_lossy(&units);
    let text = text.strip_suffix('\0').map_or_else(|| format!("{text:?}, without an end"), str::to_owned);
    format!("{} {text} {}", event.kind, event.sha256)
}

/// The firmware has loaded one program and no other: the image. And nobody has added anything that PCR 12 is for.
pub fn one_program(console: &Console) -> Vec<String> {
    let count = |wanted: &dyn Fn(&Event) -> bool| {
        logged(console).map(|events| events.iter().filter(|event| wanted(event)).count()).ok()
    };
    let programs = count(&|event| event.pcr == 4 && event.kind == BOOT_SERVICES_APPLICATION);
    let parameters = count(&|event| event.pcr == 12);
    match (programs, parameters) {
        (Some(1), Some(0)) => Vec::new(),
        found => vec![format!("events: expected one program in PCR 4 and nothing in PCR 12, found {found:?}")],
    }
}
