//! A TOML document as a list of what it sets: which key of which table, where in the text, to which value.
//!
//! [`toml_parser`] knows the syntax. What a configuration of plain tables does not need is refused: arrays of tables,
//! inline tables, and arrays within arrays, so that nothing nests.

use std::fmt;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, ValidateWhitespace, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Raw, Source, Span};

/// The longest name that is read: parts, and bytes of each. A table's name is kept with each of its keys, so that
/// without a limit a short text could fill the memory.
const MAX_PARTS: usize = 8;
const MAX_PART: usize = 64;

/// A table header or a setting.
#[derive(Debug)]
pub struct Item {
    /// Where it is, in bytes from the start of the text.
    pub offset: usize,
    /// The parts of its dotted name, from the root of the document.
    pub path: Vec<String>,
    /// What is set; `None` for a table header.
    pub value: Option<Value>,
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
    let mut reader = Reader { source, items: Vec::new(), table: Some(Vec::new()), path: Some(Vec::new()), array: None };
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
    /// The name that is being read: of a table, or of a key in `table`; `None` for one that cannot be read.
    path: Option<Vec<String>>,
    /// The array that is being read.
    array: Option<(Span, Vec<Value>)>,
}

impl<'t> Reader<'t> {
    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'t> {
        let text = self.source.get(span).map_or("", |raw| raw.as_str());
        Raw::new_unchecked(text, encoding, span)
    }

    fn set(&mut self, span: Span, value: Value) {
        let name = self.path.replace(Vec::new()).filter(|name| !name.is_empty());
        if let (Some(table), Some(name)) = (&self.table, name) {
            let path = table.iter().cloned().chain(name).collect();
            self.items.push(Item { offset: span.start(), path, value: Some(value) });
        }
    }

    /// Reports what is no error of TOML's, and what nothing can be read of.
    fn refuse(&mut self, reason: &'static str, span: Span, error: &mut dyn ErrorSink) {
        self.path = None;
        error.report_error(ParseError::new(reason).with_unexpected(span));
    }
}

impl EventReceiver for Reader<'_> {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.table = None;
        self.path = Some(Vec::new());
    }

    fn std_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.table = self.path.replace(Vec::new());
        if let Some(path) = self.table.clone() {
            self.items.push(Item { offset: span.start(), path, value: None });
        }
    }

    fn array_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) {
        self.table = None;
        self.refuse("arrays of tables are not supported", span, error);
    }

    fn inline_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        self.refuse("inline tables are not supported", span, error);
        false
    }

    fn array_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        if self.array.is_some() {
            self.refuse("arrays in arrays are not supported", span, error);
            return false;
        }
        self.array = Some((span, Vec::new()));
        true
    }

    fn array_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        if let Some((open, elements)) = self.array.take() {
            self.set(open, Value::Array(elements));
        }
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut key = String::new();
        self.raw(span, encoding).decode_key(&mut key, error);
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
            Some((_, elements)) => elements.push(value),
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
