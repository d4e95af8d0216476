//! What a machine said: its console as text, and what of that means something.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;

use crate::process::{Ended, Listener, Next};

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern that was written here")
}

/// Takes terminal escapes and carriage returns out of what comes in pieces.
#[derive(Debug, Default)]
pub struct Plain {
    held: Vec<u8>,
}

impl Plain {
    /// What was held back to the end.
    pub fn finish(&mut self) -> String {
        lossy(&std::mem::take(&mut self.held))
    }

    /// The text without them. What may be the beginning of an escape, or of a character, is held back.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        static ESCAPES: LazyLock<Regex> = LazyLock::new(|| {
            pattern(
                "\u{1b}\\][^\u{7}\u{1b}]*(?:\u{7}|\u{1b}\\\\)|\u{1b}\\[[0-9:;?=!]*[A-Za-z]|\u{1b}[()#][0-9A-Za-z]|\u{1b}[=>cM78]|\r|\0",
            )
        });
        self.held.extend_from_slice(bytes);
        let escape = self.held.iter().rposition(|byte| *byte == 0x1b);
        // An escape is shorter, but for those with a text of their own, which end soon too.
        let end = escape.filter(|at| self.held.len() - at < 64 && !ESCAPES.is_match(&lossy(&self.held[*at..])));
        let ready: Vec<u8> = self.held.drain(..end.unwrap_or(self.held.len())).collect();
        ESCAPES.replace_all(&lossy(&ready), "").into_owned()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a machine did, as far as a test looks at it, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The boot program refused, for this reason (with `<errno N>` for the words of an error).
    Refused(String),
    /// What follows a refusal, as the emergency message says: `halt in 0 s`.
    Then(String),
    /// A sealed root is in place: the source of the mount.
    Sealed(String),
    /// systemd-bless-boot marked the boot entry good.
    Blessed,
    /// The machine starts anew.
    Restart,
    /// It stopped.
    Halt,
    /// It switched itself off.
    PowerOff,
}

/// The console of a machine that came to its end.
#[derive(Debug)]
pub struct Console {
    /// What it said, without terminal escapes.
    pub text: String,
    /// How it ended.
    pub ended: Ended,
    /// Where the text is kept.
    pub log: PathBuf,
}

impl Console {
    /// What the booted system says about itself by this key.
    pub fn probe(&self, key: &str) -> Option<&str> {
        let start = format!("sealroot-probe: {key}=");
        self.text.lines().find_map(|line| line.strip_prefix(&start))
    }

    /// The reason that the boot program gave first, word for word.
    pub fn refusal(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.split_once(": boot refused: ").map(|(_, reason)| reason))
    }

    /// The same, with `<errno N>` for the words that the C library has for an error.
    pub fn reason(&self) -> Option<String> {
        self.refusal().map(numbered)
    }

    /// The first line, or the part of it, that matches.
    pub fn find(&self, text: &str) -> Option<&str> {
        let wanted = pattern(text);
        self.text.lines().find_map(|line| wanted.find(line)).map(|found| found.as_str())
    }

    /// What happened. Records that are shown twice, as urgent ones are, count once.
    pub fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.text.lines().filter_map(event).collect();
        events.dedup();
        events
    }

    /// From the start of the initramfs on: what kernel and firmware said before is no sign of anything.
    pub fn since_init(&self) -> &str {
        self.text.find("Run /init as init process").map_or(&self.text, |start| &self.text[start..])
    }
}

/// Cuts long digests to their beginning.
pub fn shortened(text: &str) -> String {
    static DIGEST: LazyLock<Regex> = LazyLock::new(|| pattern("([0-9a-f]{16})[0-9a-f]{48,}"));
    DIGEST.replace_all(text, "$1…").into_owned()
}

/// Puts `<errno N>` in the place of each `Words (os error N)`.
pub fn numbered(text: &str) -> String {
    static WORDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"[A-Z][A-Za-z/ -]* \(os error ([0-9]+)\)"));
    WORDS.replace_all(text, "<errno $1>").into_owned()
}

fn event(line: &str) -> Option<Event> {
    static THEN: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"sealroot: boot refused: .*; ((?:reboot|halt|poweroff) in .*)$"));
    if let Some((_, source)) = line.split_once("sealroot: sealed root in place at '/sysroot': ") {
        return Some(Event::Sealed(source.into()));
    }
    if let Some(then) = THEN.captures(line) {
        return Some(Event::Then(then[1].into()));
    }
    if let Some((_, reason)) = line.split_once("] sealroot: boot refused: ") {
        return Some(Event::Refused(numbered(reason)));
    }
    let ends = [
        ("reboot: Restarting system", Event::Restart),
        ("reboot: machine restart", Event::Restart),
        ("reboot: System halted", Event::Halt),
        ("reboot: Power down", Event::PowerOff),
    ];
    let end = ends.into_iter().find(|(words, _)| line.ends_with(words)).map(|(_, event)| event);
    end.or_else(|| line.contains("Finished systemd-bless-boot.").then_some(Event::Blessed))
}

/// Whether something that was said is the end of a boot. A line that is not complete counts: a prompt has no end.
pub type Ends = fn(&str) -> ControlFlow<()>;

/// Hears a console until a line ends it.
pub struct Until {
    /// All of it.
    pub text: String,
    ends: Ends,
    line: usize,
}

impl Until {
    /// Until that line.
    pub fn new(ends: Ends) -> Self {
        Self { text: String::new(), ends, line: 0 }
    }
}

impl Listener for Until {
    fn console(&mut self, text: &str) -> Next {
        self.text.push_str(text);
        let mut rest = &self.text[self.line..];
        loop {
            let line = rest.split('\n').next().unwrap_or_default();
            if (self.ends)(line).is_break() {
                return Next::Stop;
            }
            if line.len() == rest.len() {
                return Next::GoOn;
            }
            self.line += line.len() + 1;
            rest = &self.text[self.line..];
        }
    }

    // Here a machine program itself says what is wrong with how it was started.
    fn output(&mut self, bytes: &[u8]) {
        self.text.push_str(&lossy(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out_wherever_they_are_cut() {
        let text = "a\x1b[0;1;39mb\x1b]0;title\x07c\r\nd\x1b(Be";
        for cut in 0..text.len() {
            let mut plain = Plain::default();
            let (first, second) = text.as_bytes().split_at(cut);
            assert_eq!(plain.push(first) + &plain.push(second), "abc\nde", "{cut}");
        }
    }

    #[test]
    fn what_a_refusal_looks_like() {
        let line = "[    1.2] sealroot: boot refused: find: 'x': No such file or directory (os error 2)";
        assert_eq!(event(line), Some(Event::Refused("find: 'x': <errno 2>".into())));
        let then = "sealroot: boot refused: find: 'x'; halt in 0 s";
        assert_eq!(event(then), Some(Event::Then("halt in 0 s".into())));
    }
}
