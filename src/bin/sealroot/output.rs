//! How an answer is given: as text or as JSON, with the exit status that belongs to it.

use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use miniserde::{Serialize, json};
use sealroot::formats::printable::{self, is_printable};
use sealroot::refusal::chain;

/// The version of the JSON documents; it grows when a reader of an older one would be misled.
const SCHEMA: u32 = 2;

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
    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result;
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
        Self::Reason(printable(chain(&*error.into()).as_bytes()))
    }
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
const COLOURS: [&str; 3] = [GREEN, RED, PLAIN];

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
        self.painted(GREEN, text)
    }

    /// Not as it should be.
    pub fn bad(self, text: impl Display) -> String {
        self.painted(RED, text)
    }

    fn painted(self, colour: &str, text: impl Display) -> String {
        if self.coloured { format!("{colour}{text}{PLAIN}") } else { text.to_string() }
    }
}

/// What people read, line by line. Whatever is written to it, no line becomes two, and nothing but [`Paint`] does anything
/// to a terminal.
#[derive(Debug)]
pub struct Page {
    text: String,
    coloured: bool,
}

impl Page {
    fn new(paint: Paint) -> Self {
        Self { text: String::new(), coloured: paint.coloured }
    }

    /// What `writeln!` calls: adds a line.
    pub fn write_fmt(&mut self, line: fmt::Arguments<'_>) -> fmt::Result {
        let line = line.to_string();
        let (mut rest, end) = line.strip_suffix('\n').map_or((&*line, ""), |line| (line, "\n"));
        while let Some(character) = rest.chars().next() {
            let colour = COLOURS.into_iter().find(|colour| self.coloured && rest.starts_with(colour));
            let length = colour.map_or(character.len_utf8(), str::len);
            match colour {
                Some(colour) => self.text.push_str(colour),
                None => printable::push(&mut self.text, character),
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        self.text.push_str(end);
        Ok(())
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
        let Ok((text, complaints)) = self.words(finding, Paint::for_stdout()) else {
            return self.fail("an answer that cannot be written", 1);
        };
        // The document and the status say it too.
        let _ = io::stderr().write_all(complaints.as_bytes());
        match print(&text) {
            Ok(()) if finding.answer() == Answer::Yes => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// What goes to standard output, and what to standard error.
    fn words(&self, finding: &dyn Finding, paint: Paint) -> Result<(String, String), fmt::Error> {
        let complaints = finding.complaints().iter().map(|complaint| self.complaint(complaint)).collect();
        if self.json {
            return Ok((self.document(Some(finding.answer()), None, Some(finding)), complaints));
        }
        let mut page = Page::new(paint);
        finding.write_text(&mut page, paint)?;
        Ok((page.text, complaints))
    }

    fn fail(&self, message: &str, status: u8) -> ExitCode {
        if self.json {
            // Standard error says it too.
            let _ = print(&self.document(None, Some(message.into()), None));
        }
        // The status says it too.
        let _ = io::stderr().write_all(self.complaint(message).as_bytes());
        ExitCode::from(status)
    }

    /// A line for standard error.
    fn complaint(&self, message: &str) -> String {
        format!("sealroot {}: {}\n", self.command, printable(message.as_bytes()))
    }
}

impl Output {
    fn document(&self, answer: Option<Answer>, error: Option<String>, result: Option<&dyn Serialize>) -> String {
        let document = Document { schema: SCHEMA, command: self.command, answer, error, result };
        let mut text = escaped(&json::to_string(&document));
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

/// JSON that means the same, fit for a terminal: what is not printable is part of a string, since miniserde writes nothing
/// around them but ASCII.
fn escaped(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    for character in document.chars() {
        if is_printable(character) {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

/// What is wrong with the arguments, in the words of clap and with what they are: names of files, if a shell made them of a
/// pattern.
pub fn misused(message: &str) -> ExitCode {
    for line in message.lines() {
        // The status says it too.
        let _ = writeln!(io::stderr(), "{}", printable(line.as_bytes()));
    }
    ExitCode::from(2)
}

/// Text from a disk, fit for a terminal: what is not printable and what is no UTF-8 is written as escapes.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| printable::push(&mut text, character));
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
        assert_eq!(printable("a\u{202e}b\u{200b}".as_bytes()), "a\\u{202e}b\\u{200b}");
    }

    /// A finding whose words came from a disk.
    #[derive(Serialize)]
    struct Hostile {
        text: String,
    }

    impl Finding for Hostile {
        fn answer(&self) -> Answer {
            Answer::No
        }

        fn complaints(&self) -> Vec<String> {
            vec![self.text.clone(); 2]
        }

        fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
            writeln!(text, "name: {}", self.text)
        }
    }

    #[test]
    fn all_that_goes_out_is_printable() {
        let finding = Hostile { text: "a\nb\x1b[2J\u{202e}\u{9b}".into() };
        let shown = r"a\nb\u{1b}[2J\u{202e}\u{9b}";
        let paint = Paint { coloured: false };
        let complaint = format!("sealroot uki: {shown}\n");
        let words = |json| Output::new(json, "uki").words(&finding, paint).unwrap();
        assert_eq!(words(false), (format!("name: {shown}\n"), complaint.repeat(2)));
        let (document, complaints) = words(true);
        assert!(document.contains(r#""text":"a\nb\u001b[2J\u202e\u009b""#), "{document}");
        assert_eq!(complaints, complaint.repeat(2));
    }

    #[test]
    fn a_line_stays_one_line() {
        for coloured in [false, true] {
            let paint = Paint { coloured };
            let (mut page, hostile) = (Page::new(paint), "a\nb\x1b[2J\u{202e}");
            writeln!(page, "{}: {hostile}", paint.bad("no")).unwrap();
            writeln!(page, "é").unwrap();
            let no = if coloured { "\x1b[31mno\x1b[0m" } else { "no" };
            assert_eq!(page.text, format!("{no}: a\\nb\\u{{1b}}[2J\\u{{202e}}\né\n"));
        }
        let mut page = Page::new(Paint { coloured: false });
        writeln!(page, "\x1b[31mred").unwrap();
        assert_eq!(page.text, "\\u{1b}[31mred\n");
    }

    #[test]
    fn a_document_means_the_same() {
        let value = "é\n\"\\\u{7f}\u{9b}\u{202e}\u{e0041}".to_owned();
        let text = escaped(&json::to_string(&value));
        assert_eq!(text, r#""é\n\"\\\u007f\u009b\u202e\udb40\udc41""#);
        assert_eq!(json::from_str::<String>(&text).unwrap(), value);
    }
}
