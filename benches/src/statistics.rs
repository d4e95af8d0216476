//! Medians, quantiles, and the ratios of pairs.

use std::fmt;

use anyhow::{Result, ensure};

/// Figures of the same thing, in order of size: at least one, and all of them finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// # Errors
    /// There is no figure, or one that is not finite.
    pub fn new(figures: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        ensure!(!figures.is_empty(), "a sample: expected figures, found none");
        for figure in &figures {
            ensure!(figure.is_finite(), "a sample: expected finite figures, found {figure}");
        }
        figures.sort_by(f64::total_cmp);
        Ok(Self(figures))
    }

    /// The ratios of what was measured in turn: the n-th of `ours` to the n-th of `others`.
    ///
    /// # Errors
    /// There is no pair, a figure without another, or one to divide by that is not above zero.
    pub fn ratios(ours: &[f64], others: &[f64]) -> Result<Self> {
        ensure!(ours.len() == others.len(), "pairs: expected as many as {}, found {}", ours.len(), others.len());
        for other in others {
            ensure!(*other > 0.0, "a ratio: expected something above zero to divide by, found {other}");
        }
        Self::new(ours.iter().zip(others).map(|(ours, other)| ours / other))
    }

    /// How many figures there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The figure with half of the others on each side.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The figure below which this share of the others lies, between two of them where none does.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = (self.0.len() - 1) as f64 * share.clamp(0.0, 1.0);
        let (below, above) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        below + place.fract() * (above - below)
    }

    /// The median with the lowest and the highest.
    pub fn range(&self) -> Spread {
        Spread { median: self.median(), low: self.quantile(0.0), high: self.quantile(1.0) }
    }

    /// The median with the quartiles.
    pub fn quartiles(&self) -> Spread {
        Spread { median: self.median(), low: self.quantile(0.25), high: self.quantile(0.75) }
    }
}

/// A median and how far the figures lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_middles() {
        for (figures, median) in [
            (vec![7.0], 7.0),
            (vec![3.0, 1.0], 2.0),
            (vec![9.0, 1.0, 5.0], 5.0),
            (vec![4.0, 1.0, 3.0, 2.0], 2.5),
            (vec![100.0, 1.0, 2.0, 3.0, 4.0], 3.0),
        ] {
            assert_eq!(Sample::new(figures.clone()).unwrap().median(), median, "{figures:?}");
        }
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sample = Sample::new([50.0, 10.0, 40.0, 20.0, 30.0]).unwrap();
        for (share, figure) in [(0.0, 10.0), (0.25, 20.0), (0.5, 30.0), (0.625, 35.0), (0.75, 40.0), (1.0, 50.0)] {
            assert_eq!(sample.quantile(share), figure, "{share}");
        }
        assert_eq!(Sample::new([1.0, 2.0]).unwrap().quartiles(), Spread { median: 1.5, low: 1.25, high: 1.75 });
    }

    #[test]
    fn shares_beyond_the_ends_are_the_ends() {
        let sample = Sample::new([1.0, 2.0]).unwrap();
        assert_eq!((sample.quantile(-1.0), sample.quantile(2.0)), (1.0, 2.0));
    }

    #[test]
    fn ratios_are_those_of_pairs_and_not_of_medians() {
        // Of the medians it would be 20 / 20.
        let ratios = Sample::ratios(&[10.0, 40.0, 20.0], &[20.0, 20.0, 40.0]).unwrap();
        assert_eq!(ratios.range(), Spread { median: 0.5, low: 0.5, high: 2.0 });
        assert_eq!(ratios.count(), 3);
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        assert!(Sample::new([]).is_err());
        assert!(Sample::new([1.0, f64::NAN]).is_err());
        assert!(Sample::new([f64::INFINITY]).is_err());
        assert!(Sample::ratios(&[], &[]).is_err());
        assert!(Sample::ratios(&[1.0], &[]).is_err());
        assert!(Sample::ratios(&[1.0], &[0.0]).is_err());
    }

    #[test]
    fn a_spread_is_shown_with_its_ends() {
        let spread = Sample::new([1.0, 1.5, 2.25]).unwrap().range();
        assert_eq!(spread.to_string(), "1.50 (1.00–2.25)");
    }
}
