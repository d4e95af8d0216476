//! How an answer is given: as text or as JSON, with the exit status that belongs to it.

use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use miniserde::{Serialize, json};
use sealroot::boot::chain;

/// The version of the JSON documents; it grows when a reader of an older one would be misled.
const SCHEMA: u32 = 1;

/// The answer to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    #[serde(rename = "yes")]
    Yes,
    #[serde(rename = "no")]
    No,
}

impl Answer {
    /// `Yes` if that is so.
    pub fn if_so(so: bool) -> Self {
        if so { Self::Yes } else { Self::No }
    }
}

/// What a subcommand found out. It is serialized as the `result` of the JSON document.
pub trait Finding: Serialize {
    /// What the exit status says.
    fn answer(&self) -> Answer;
    /// What went wrong on the way, for standard error.
    fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
    /// What people read.
    fn write_text(&self, text: &mut String, paint: Paint) -> fmt::Result;
}

/// Why there is no finding.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be meant.
    Misuse(String),
    /// Something is not as it must be for an answer; the error with its causes.
    Reason(String),
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Reason(chain(&*error.into()))
    }
}

/// Colours, where there is a terminal that shows them and nobody objects (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    coloured: bool,
}

impl Paint {
    fn for_stdout() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self { coloured: io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb }
    }

    /// As it should be.
    pub fn good(self, text: impl Display) -> String {
        self.painted("32", text)
    }

    /// Not as it should be.
    pub fn bad(self, text: impl Display) -> String {
        self.painted("31", text)
    }

    fn painted(self, colour: &str, text: impl Display) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Where answers go.
#[derive(Debug)]
pub struct Output {
    json: bool,
    command: &'static str,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    command: &'a str,
    answer: Option<Answer>,
    error: Option<String>,
    result: Option<&'a dyn Serialize>,
}

impl Output {
    pub fn new(json: bool, command: &'static str) -> Self {
        Self { json, command }
    }

    /// Gives the answer.
    pub fn give(&self, found: Result<Box<dyn Finding>, Failure>) -> ExitCode {
        match found {
            Ok(finding) => self.say(&*finding),
            Err(Failure::Misuse(message)) => self.fail(&message, 2),
            Err(Failure::Reason(message)) => self.fail(&message, 1),
        }
    }

    fn say(&self, finding: &dyn Finding) -> ExitCode {
        let mut text = String::new();
        if self.json {
            text = self.document(Some(finding.answer()), None, Some(finding));
        } else if finding.write_text(&mut text, Paint::for_stdout()).is_err() {
            return self.fail("an answer that cannot be written", 1);
        }
        for complaint in finding.complaints() {
            // The document and the status say it too.
            let _ = writeln!(io::stderr(), "sealroot {}: {complaint}", self.command);
        }
        match print(&text) {
            Ok(()) if finding.answer() == Answer::Yes => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    fn fail(&self, message: &str, status: u8) -> ExitCode {
        if self.json {
            // Standard error says it too.
            let _ = print(&self.document(None, Some(message.into()), None));
        }
        let _ = writeln!(io::stderr(), "sealroot {}: {}", self.command, printable(message.as_bytes()));
        ExitCode::from(status)
    }
}

impl Output {
    fn document(&self, answer: Option<Answer>, error: Option<String>, result: Option<&dyn Serialize>) -> String {
        let mut text = json::to_string(&Document { schema: SCHEMA, command: self.command, answer, error, result });
        text.push('\n');
        text
    }
}

/// To standard output. Whoever closed it does not want to read the rest.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            // The status says it as well.
            let _ = writeln!(io::stderr(), "sealroot: standard output: {error}");
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

/// Text from a disk, fit for a terminal: control characters and what is no UTF-8 are written as escapes.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", chunk.invalid().escape_ascii());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_a_terminal() {
        assert_eq!(printable("é\x1b[31m\n".as_bytes()), "é\\u{1b}[31m\\n");
        assert_eq!(printable(b"a\xffb\xc3"), "a\\xffb\\xc3");
        assert_eq!(printable("\u{9b}31m".as_bytes()), "\\u{9b}31m");
    }
}
