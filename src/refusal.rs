//! Why something is refused: one sentence that names the subject, what was expected and what was found.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// What lies behind a refusal: an error of the kernel, of a library, or another refusal.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Fixed text, or text that was made for this refusal.
type Text = Cow<'static, str>;

/// `subject: expected …, found …`, each part if there is one. The cause is told by [`chain`].
///
/// All that the library has to say of what it does not accept is one of these. Code that must look at an answer gets a type
/// of its own instead, such as [`crate::kernel::lookup::LookupError`].
#[derive(Debug)]
pub struct Refusal(Box<Parts>);

#[derive(Debug, Default)]
struct Parts {
    subject: Text,
    expected: Option<Text>,
    /// With its verb.
    found: Option<Text>,
    cause: Option<Cause>,
}

impl Refusal {
    /// About `subject`: a file, an argument, a step.
    pub fn of(subject: impl Into<Text>) -> Self {
        Self(Box::new(Parts { subject: subject.into(), ..Parts::default() }))
    }

    /// What it should be.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<Text>) -> Self {
        self.0.expected = Some(expected.into());
        self
    }

    /// What it is.
    #[must_use]
    pub fn found(self, found: impl fmt::Display) -> Self {
        self.but(format!("found {found}"))
    }

    /// What it is, with the verb that says by whom: `measured sha512:…`.
    #[must_use]
    pub fn but(mut self, found: impl Into<Text>) -> Self {
        self.0.found = Some(found.into());
        self
    }

    /// The reason that somebody else gives.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The same about a part of `subject`.
    #[must_use]
    pub fn within(mut self, subject: impl fmt::Display) -> Self {
        let inner = &self.0.subject;
        let separator = if inner.is_empty() { "" } else { ": " };
        self.0.subject = format!("{subject}{separator}{inner}").into();
        self
    }

    /// The reason, if it is of this type.
    pub fn cause<E: Error + 'static>(&self) -> Option<&E> {
        self.0.cause.as_ref()?.downcast_ref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { subject, expected, found, .. } = &*self.0;
        f.write_str(subject)?;
        let mut separator = if subject.is_empty() { "" } else { ": " };
        if let Some(expected) = expected {
            write!(f, "{separator}expected {expected}")?;
            separator = ", ";
        }
        match found {
            Some(found) => write!(f, "{separator}{found}"),
            None => Ok(()),
        }
    }
}

impl Error for Refusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

/// By what they say.
impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        chain(self) == chain(other)
    }
}

/// An error and its causes, from the outside in.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let text = |refusal: Refusal| chain(&refusal);
        assert_eq!(text(Refusal::of("a")), "a");
        assert_eq!(text(Refusal::of("a").expected("b")), "a: expected b");
        assert_eq!(text(Refusal::of("a").expected("b").found(1)), "a: expected b, found 1");
        assert_eq!(text(Refusal::of("a").but("measured c")), "a: measured c");
        assert_eq!(text(Refusal::of("").expected("b").found("c")), "expected b, found c");
        assert_eq!(text(Refusal::of("").expected("b").within("a")), "a: expected b");
        assert_eq!(text(Refusal::of("b").expected("c").within("a")), "a: b: expected c");
        let inner = Refusal::of("b").because(std::io::Error::other("why"));
        assert!(inner.cause::<std::io::Error>().is_some() && inner.cause::<fmt::Error>().is_none());
        assert_eq!(text(Refusal::of("a").because(inner)), "a: b: why");
    }
}
