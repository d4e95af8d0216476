//! A TOML document as a list of what it sets: which key of which table, where in the text, to which value.
//!
//! [`toml_parser`] knows the syntax. An inline table gives the same as a header. What no key takes (arrays of tables, whatever
//! is within an array's arrays and tables) is there by its kind only.

use std::fmt;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, ValidateWhitespace, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Raw, Source, Span};

/// The longest name that is read: parts, and bytes of each. A table's name is kept with each of its keys, so that
/// without a limit a short text could fill the memory.
const MAX_PARTS: usize = 8;
const MAX_PART: usize = 64;
/// So many arrays and tables may lie in an array, one within another.
const MAX_NESTED: usize = 64;

/// A table or a setting.
#[derive(Debug)]
pub struct Item {
    /// Where it is, in bytes from the start of the text.
    pub offset: usize,
    /// The parts of its dotted name, from the root of the document.
    pub path: Vec<String>,
    /// What is set; `None` for a table.
    pub value: Option<Value>,
    /// Whether an inline table has it, or it is one: no other line can add to that.
    pub inline: bool,
}

/// What a key is set to.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string, decoded.
    String(String),
    /// A boolean.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// An array.
    Array(Vec<Self>),
    /// A float, a date, or an integer beyond 64 bits, as it is written.
    Other(String),
    /// An array of tables, or what an array has in it besides, by its kind.
    Nested(&'static str),
}

impl fmt::Display for Value {
    /// One line, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "'{}'", text.escape_default()),
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Array(_) => f.write_str("an array"),
            Self::Other(text) => text.escape_default().fmt(f),
            Self::Nested(kind) => f.write_str(kind),
        }
    }
}

/// Where a document is wrong, in bytes from the start of the text, and how, in one line.
#[derive(Debug)]
pub struct SyntaxError {
    pub offset: usize,
    pub reason: String,
}

/// Everything that `text` sets, in its order.
pub fn items(text: &str) -> Result<Vec<Item>, SyntaxError> {
    match read(text) {
        (items, None) => Ok(items),
        (_, Some(error)) => {
            let place = error.unexpected().or(error.context()).unwrap_or_default();
            Err(SyntaxError { offset: place.start(), reason: describe(&error) })
        }
    }
}

/// What can be read of a `text` that may be wrong elsewhere: all that comes before an error, and behind it the lines that
/// are clear by themselves.
pub fn readable_items(text: &str) -> Vec<Item> {
    read(text).0
}

fn read(text: &str) -> (Vec<Item>, Option<ParseError>) {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut reader = Reader {
        source,
        items: Vec::new(),
        table: Some(Vec::new()),
        outer: Vec::new(),
        path: Some(Vec::new()),
        array: None,
        nested: 0,
    };
    let mut first_error = None;
    parse_document(&tokens, &mut ValidateWhitespace::new(&mut reader, source), &mut first_error);
    (reader.items, first_error)
}

/// Collects the items from the parser's events. The parser goes on behind an error, with the next line.
struct Reader<'t> {
    source: Source<'t>,
    items: Vec<Item>,
    /// The name of the table that keys belong to; `None` behind a header that cannot be read.
    table: Option<Vec<String>>,
    /// The tables around the inline table that is being read, each in the one before.
    outer: Vec<Option<Vec<String>>>,
    /// The name that is being read: of a table, or of a key in `table`; `None` for one that cannot be read.
    path: Option<Vec<String>>,
    /// The array that is being read.
    array: Option<(Span, Vec<Value>)>,
    /// How many arrays and tables in that array are being read, one within another.
    nested: usize,
}

impl<'t> Reader<'t> {
    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'t> {
        let text = self.source.get(span).map_or("", |raw| raw.as_str());
        Raw::new_unchecked(text, encoding, span)
    }

    /// The name that was read, from the root of the document.
    fn take_path(&mut self) -> Option<Vec<String>> {
        let name = self.path.replace(Vec::new()).filter(|name| !name.is_empty())?;
        Some(self.table.as_ref()?.iter().cloned().chain(name).collect())
    }

    fn set(&mut self, span: Span, value: Value) {
        if let Some(path) = self.take_path() {
            self.items.push(Item { offset: span.start(), path, value: Some(value), inline: !self.outer.is_empty() });
        }
    }

    /// Reports what is no error of TOML's, and what nothing can be read of.
    fn refuse(&mut self, reason: &'static str, span: Span, error: &mut dyn ErrorSink) {
        self.path = None;
        error.report_error(ParseError::new(reason).with_unexpected(span));
    }

    /// Begins an array or a table that an array has in it, which is not looked into.
    fn nest(&mut self, kind: &'static str, span: Span, error: &mut dyn ErrorSink) -> bool {
        if let (0, Some((_, elements))) = (self.nested, &mut self.array) {
            elements.push(Value::Nested(kind));
        }
        // Its end comes even if it is not entered.
        self.nested += 1;
        if self.nested > MAX_NESTED {
            self.refuse("values nested as deep as this are not supported", span, error);
            return false;
        }
        true
    }

    fn header(&mut self) {
        self.table = None;
        self.path = Some(Vec::new());
    }
}

impl EventReceiver for Reader<'_> {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.header();
    }

    fn std_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.table = self.path.replace(Vec::new());
        if let Some(path) = self.table.clone() {
            self.items.push(Item { offset: span.start(), path, value: None, inline: false });
        }
    }

    fn array_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.header();
    }

    /// The keys behind it belong to no table that has a name.
    fn array_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        if let Some(path) = self.path.replace(Vec::new()) {
            let value = Some(Value::Nested("an array of tables"));
            self.items.push(Item { offset: span.start(), path, value, inline: false });
        }
    }

    fn inline_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        if self.array.is_some() {
            return self.nest("a table", span, error);
        }
        let path = self.take_path();
        if let Some(path) = path.clone() {
            self.items.push(Item { offset: span.start(), path, value: None, inline: true });
        }
        let is_deep = path.as_ref().is_some_and(|path| path.len() > MAX_PARTS) || self.outer.len() == MAX_NESTED;
        self.outer.push(std::mem::replace(&mut self.table, path));
        if is_deep {
            self.refuse("values nested as deep as this are not supported", span, error);
        }
        !is_deep
    }

    fn inline_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        if self.array.is_some() {
            self.nested = self.nested.saturating_sub(1);
        } else if let Some(table) = self.outer.pop() {
            self.table = table;
            self.path = Some(Vec::new());
        }
    }

    fn array_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        if self.array.is_some() {
            return self.nest("an array", span, error);
        }
        self.array = Some((span, Vec::new()));
        true
    }

    fn array_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        if self.nested > 0 {
            self.nested -= 1;
        } else if let Some((open, elements)) = self.array.take() {
            self.set(open, Value::Array(elements));
        }
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut key = String::new();
        self.raw(span, encoding).decode_key(&mut key, error);
        if self.nested > 0 {
            return;
        }
        let Some(path) = &mut self.path else { return };
        if path.len() == MAX_PARTS || key.len() > MAX_PART {
            return self.refuse("names as long as this are not supported", span, error);
        }
        path.push(key);
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let raw = self.raw(span, encoding);
        let mut text = String::new();
        let value = match raw.decode_scalar(&mut text, error) {
            ScalarKind::String => Value::String(text),
            ScalarKind::Boolean(value) => Value::Boolean(value),
            ScalarKind::Integer(radix) => match i64::from_str_radix(&text, radix.value()) {
                Ok(value) => Value::Integer(value),
                Err(_) => Value::Other(raw.as_str().into()),
            },
            ScalarKind::Float | ScalarKind::DateTime => Value::Other(raw.as_str().into()),
        };
        match &mut self.array {
            Some((_, elements)) if self.nested == 0 => elements.push(value),
            Some(_) => {}
            None => self.set(span, value),
        }
    }

    /// A name that has no value by now gets none.
    fn newline(&mut self, _: Span, _: &mut dyn ErrorSink) {
        if self.array.is_none() {
            self.path = Some(Vec::new());
        }
    }
}

/// `unclosed table, expected ']'`
fn describe(error: &ParseError) -> String {
    let mut text = error.description().to_owned();
    for (index, expected) in error.expected().unwrap_or_default().iter().enumerate() {
        text.push_str(if index == 0 { ", expected " } else { " or " });
        match expected {
            Expected::Literal("\n") => text.push_str("a new line"),
            Expected::Literal(literal) => text.extend(["'", literal, "'"]),
            Expected::Description(description) => text.push_str(description),
            _ => text.push_str("something else"),
        }
    }
    text
}
