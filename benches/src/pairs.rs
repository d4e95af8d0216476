//! Rows of two programs that do the same, ours and another, in turn.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::statistics::{Sample, Spread};
use crate::table::{Row, time};

/// What two programs took, in seconds, and the ratio of the pairs.
#[derive(Debug, Serialize)]
pub struct PairRow {
    table: &'static str,
    /// Where it was measured.
    machine: &'static str,
    row: String,
    pairs: usize,
    ratio: f64,
    ratio_lowest: f64,
    ratio_highest: f64,
    sealroot: f64,
    other: f64,
}

impl PairRow {
    /// The row of what was measured in turn, in seconds: the n-th of both belong together.
    ///
    /// # Errors
    /// Something was not measured, or not as often.
    pub fn new(table: &'static str, machine: &'static str, row: &str, ours: &[f64], others: &[f64]) -> Result<Self> {
        let ratios = Sample::ratios(ours, others).with_context(|| row.to_owned())?;
        let Spread { median: ratio, low: ratio_lowest, high: ratio_highest } = ratios.range();
        Ok(Self {
            table,
            machine,
            row: row.to_owned(),
            pairs: ratios.count(),
            ratio,
            ratio_lowest,
            ratio_highest,
            sealroot: Sample::new(ours.iter().copied())?.median(),
            other: Sample::new(others.iter().copied())?.median(),
        })
    }
}

impl Row for PairRow {
    fn cells(&self) -> Vec<String> {
        vec![
            self.row.clone(),
            format!("{:.2}", self.ratio),
            format!("{:.2}–{:.2}", self.ratio_lowest, self.ratio_highest),
            time(self.sealroot),
            time(self.other),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_and_the_ratios_of_pairs() {
        let row = PairRow::new("digest", "host", "sha256", &[1.0, 3.0, 2.0], &[2.0, 2.0, 4.0]).unwrap();
        assert_eq!(row.cells(), ["sha256", "0.50", "0.50–1.50", "2.00 s", "2.00 s"]);
        let object = serde_json::to_value(&row).unwrap();
        assert_eq!((&object["pairs"], &object["ratio_highest"]), (&3.into(), &1.5.into()));
    }
}
