//! What is printed: tables for people, or one array of JSON with an object for each row.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// A row of a table, which is an object of JSON too.
pub trait Row: Serialize {
    /// What people read, column by column.
    fn cells(&self) -> Vec<String>;
}

/// Seconds for people.
pub fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// A table in both forms.
#[derive(Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    objects: Vec<Value>,
}

impl Table {
    /// A table whose rows are the same in both forms.
    ///
    /// # Errors
    /// A row is no JSON.
    pub fn of<R: Row>(columns: &[&str], rows: &[R]) -> Result<Self> {
        Self::new(columns, rows.iter().map(Row::cells).collect(), rows)
    }

    /// A table whose rows people and programs get in another shape.
    ///
    /// # Errors
    /// An object is no JSON.
    pub fn new(columns: &[&str], rows: Vec<Vec<String>>, objects: &[impl Serialize]) -> Result<Self> {
        let columns = columns.iter().map(ToString::to_string).collect();
        let objects = objects.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        Ok(Self { columns, rows, objects })
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        writeln!(to, "\n| {} |\n|{}", self.columns.join(" | "), "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            writeln!(to, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Prints tables as they come: a benchmark that fails takes none of the earlier ones with it.
#[derive(Debug)]
pub struct Printer<W> {
    to: W,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Tables,
    Json { objects: usize },
}

impl<W: Write> Printer<W> {
    /// Prints tables for people.
    pub fn tables(to: W) -> Self {
        Self { to, form: Form::Tables }
    }

    /// Prints an array of JSON, which is complete after [`Printer::end`].
    pub fn json(to: W) -> Self {
        Self { to, form: Form::Json { objects: 0 } }
    }

    /// # Errors
    /// Nobody takes it.
    pub fn print(&mut self, table: &Table) -> io::Result<()> {
        match &mut self.form {
            Form::Tables => table.write(&mut self.to)?,
            Form::Json { objects } => {
                for object in &table.objects {
                    write!(self.to, "{}{object}", if *objects == 0 { "[" } else { ",\n" })?;
                    *objects += 1;
                }
            }
        }
        self.to.flush()
    }

    /// # Errors
    /// Nobody takes it.
    pub fn end(mut self) -> io::Result<()> {
        match self.form {
            Form::Tables => Ok(()),
            Form::Json { objects } => writeln!(self.to, "{}]", if objects == 0 { "[" } else { "" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pear {
        weight: f64,
    }

    impl Row for Pear {
        fn cells(&self) -> Vec<String> {
            vec!["pear".into(), format!("{:.1} g", self.weight)]
        }
    }

    fn printed(mut printer: Printer<&mut Vec<u8>>) {
        let table = Table::of(&["fruit", "weight"], &[Pear { weight: 180.25 }, Pear { weight: 99.0 }]).unwrap();
        printer.print(&table).unwrap();
        printer.print(&table).unwrap();
        printer.end().unwrap();
    }

    #[test]
    fn people_get_tables() {
        let mut text = Vec::new();
        printed(Printer::tables(&mut text));
        let table = "\n| fruit | weight |\n|---|---|\n| pear | 180.2 g |\n| pear | 99.0 g |\n";
        assert_eq!(String::from_utf8(text).unwrap(), table.repeat(2));
    }

    #[test]
    fn programs_get_one_array() {
        let mut text = Vec::new();
        printed(Printer::json(&mut text));
        let array: Vec<Value> = serde_json::from_slice(&text).unwrap();
        assert_eq!(array.len(), 4);
        assert_eq!(array[3]["weight"], 99.0);
    }

    #[test]
    fn no_tables_are_an_empty_array() {
        let mut text = Vec::new();
        Printer::json(&mut text).end().unwrap();
        assert_eq!(text, b"[]\n");
    }
}
