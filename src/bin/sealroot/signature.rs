//! Whether the signature of an image is one that a certificate vouches for, by the word of sbverify(1).
//!
//! That is a program that people who sign have, and that others keep. The crates that read such signatures would bring second
//! versions of those that are here already.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output, Stdio, id};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use miniserde::Serialize;
use rustix::fs::MemfdFlags;
use sealroot::formats::uki::pe::Signature;

use crate::measure;
use crate::output::{Failure, printable};

/// In Debian the package sbsigntool has it, which has sbsign, too.
const SBVERIFY: &str = "sbverify";
/// No file of certificates is longer, in bytes.
const MAX_CERTIFICATES: u64 = 1 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// So many signers are named.
const MAX_SIGNERS: usize = 4;
/// So many letters of what another program says are told.
const MAX_TOLD: usize = 400;

/// What was found about a signature.
#[derive(Debug, Serialize)]
pub struct SignatureVerdict {
    /// The file that has the certificate.
    certificate: String,
    problem: Option<String>,
}

impl SignatureVerdict {
    /// The file that has the certificate, for a message.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Whether nothing is wrong with it.
    pub fn is_right(&self) -> bool {
        self.problem.is_none()
    }
}

impl fmt::Display for SignatureVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "yes, by a key that '{}' vouches for", self.certificate),
            Some(problem) => write!(f, "no: {problem}"),
        }
    }
}

/// Asks whether the certificate in a file vouches for the signature of `image`.
///
/// # Errors
/// Nobody can say.
pub fn judge(image: &File, signature: Signature, certificate: &Path) -> Result<SignatureVerdict, Failure> {
    let name = printable(certificate.as_os_str().as_encoded_bytes());
    let certificates = certificates(certificate).map_err(|reason| Failure::Reason(format!("'{name}': {reason}")))?;
    let problem = match signature {
        Signature::Absent => Some(format!("expected a signature that '{name}' vouches for, found none")),
        Signature::Present => verify(image, &name, &certificates)?,
    };
    Ok(SignatureVerdict { certificate: name, problem })
}

/// The same for an image that is a part of another one, and has a signature.
///
/// # Errors
/// Nobody can say.
pub fn judge_part(part: &[u8], certificate: &Path) -> Result<SignatureVerdict, Failure> {
    let image = in_memory(part).map_err(|reason| unsaid(&reason.to_string()))?;
    judge(&image, Signature::Present, certificate)
}

/// What is wrong with the signatures of an image that has some: one that is right is enough, as for the firmware.
fn verify(image: &File, name: &str, certificates: &[Vec<u8>]) -> Result<Option<String>, Failure> {
    let image = path_of(image);
    let mut altered = false;
    for certificate in certificates {
        let pem = in_memory(pem(certificate).as_bytes()).map_err(|reason| unsaid(&reason.to_string()))?;
        let Output { status, stdout, stderr } = ask(&["--cert", &path_of(&pem), &image])?;
        let has = |stream: &[u8], line: &str| stream.split(|byte| *byte == b'\n').any(|found| found == line.as_bytes());
        match status.code() {
            Some(0) if has(&stdout, "Signature verification OK") => return Ok(None),
            // Anything else is no answer: the certificate cannot be read, or the memory is used up.
            Some(1) if has(&stdout, "Signature verification failed") => {}
            _ => return Err(unsaid(&format!("{status}: {}", told(&stderr)))),
        }
        altered |= has(&stderr, "Hash doesn't match image");
    }
    if altered {
        return Ok(Some("expected the image as it was signed, found it altered since".into()));
    }
    let by = signers(&image)?;
    Ok(Some(format!("expected a signature that '{name}' vouches for, found {by}")))
}

/// Who says of themselves that they signed the image.
fn signers(image: &str) -> Result<String, Failure> {
    let Output { stdout, .. } = ask(&["--list", image])?;
    let (mut subjects, mut issuers) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&stdout).lines() {
        if let Some(subject) = line.strip_prefix(" - subject: ") {
            subjects.push(told(subject.as_bytes()));
        } else if let Some(issuer) = line.strip_prefix(" - /") {
            issuers.push(told(format!("/{issuer}").as_bytes()));
        }
    }
    // A signature need not come with the certificate of its key.
    let mut names = if subjects.is_empty() { issuers } else { subjects };
    names.dedup();
    names.truncate(MAX_SIGNERS);
    let names: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    Ok(if names.is_empty() {
        "a damaged one".into()
    } else {
        format!("one of another key, or a damaged one, by {}", names.join(" and "))
    })
}

fn ask(arguments: &[&str]) -> Result<Output, Failure> {
    let output = Command::new(SBVERIFY).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    output.map_err(|reason| match reason.kind() {
        io::ErrorKind::NotFound => unsaid("expected the program of the package sbsigntool, found none"),
        _ => unsaid(&reason.to_string()),
    })
}

fn unsaid(reason: &str) -> Failure {
    Failure::Reason(format!("signature: {SBVERIFY}: {reason}"))
}

/// What another program said, for a message.
fn told(text: &[u8]) -> String {
    printable(text.trim_ascii()).chars().take(MAX_TOLD).collect()
}

/// An open file's name for another program: what was looked at is what that reads, whatever happens to the file's own name.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", id(), file.as_raw_fd())
}

/// A file that is on no disk.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("certificate", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The certificates in a file, as DER: one in that form, or any number in PEM.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let file = measure::open(path).map_err(|reason| reason.to_string())?;
    let mut content = Vec::new();
    file.take(MAX_CERTIFICATES + 1).read_to_end(&mut content).map_err(|reason| reason.to_string())?;
    if content.len() as u64 > MAX_CERTIFICATES {
        return Err(format!("expected at most {MAX_CERTIFICATES} bytes, found more"));
    }
    // `SEQUENCE`, with its length in two bytes.
    if let [0x30, 0x82, high, low, rest @ ..] = &*content
        && rest.len() == usize::from(u16::from_be_bytes([*high, *low]))
    {
        return Ok(vec![content]);
    }
    let text = String::from_utf8_lossy(&content);
    let blocks = text.split(BEGIN).skip(1).map(|rest| rest.split_once(END).map(|(block, _)| block));
    let decoded = blocks.map(|block| {
        let base64: String = block?.split_whitespace().collect();
        BASE64_STANDARD.decode(base64).ok()
    });
    match decoded.collect::<Option<Vec<_>>>() {
        Some(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("expected a certificate in PEM or DER, found {}", kind(&content))),
    }
}

/// What a file is that holds no certificate, as far as it is a usual mistake.
fn kind(content: &[u8]) -> &'static str {
    let has = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    /// `EFI_CERT_X509_GUID`, which an EFI signature list begins with.
    const X509: [u8; 16] =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    if has("PRIVATE KEY-----") {
        "a private key"
    } else if content.starts_with(&X509) {
        "an EFI signature list"
    } else if content.is_empty() {
        "an empty file"
    } else {
        "neither"
    }
}

fn pem(certificate: &[u8]) -> String {
    format!("{BEGIN}\n{}\n{END}\n", lines(&BASE64_STANDARD.encode(certificate)))
}

/// In lines of 64 letters, as PEM has them.
fn lines(base64: &str) -> String {
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\n")
}
