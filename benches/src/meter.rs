//! What start-meter and the scripts around it print in a machine, line by line.
//!
//! `kernel RELEASE` once; `section NAME` before what was measured under the same circumstances; in a section the lines of
//! start-meter (see there).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::machine::Kind;
use crate::statistics::Sample;

/// One start of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Seconds from before its program was loaded to its end.
    pub wall: f64,
    /// Seconds of a processor, in the program and in the kernel for it. Instructions, of which each counts as a
    /// nanosecond, where the machine's clock counts those.
    pub cpu: f64,
    /// The most memory it had, in KiB.
    pub peak: f64,
    /// Page faults.
    pub faults: f64,
    /// The report of a start of sealroot.
    pub report: Option<Report>,
}

/// Of a report of sealroot what is measured: how long each stage took.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Report {
    /// The stages in their order.
    pub checks: Vec<Stage>,
}

/// A stage of a start.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub microseconds: f64,
}

/// The system calls of a start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    /// How many.
    pub total: u64,
    /// How many of each.
    pub each: BTreeMap<String, u64>,
}

/// What was measured under the same circumstances. The n-th starts of all programs belong together.
#[derive(Clone, Debug, Default)]
pub struct Section {
    starts: BTreeMap<String, Vec<Start>>,
    calls: BTreeMap<String, Calls>,
}

/// All that a machine printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// The release of its kernel.
    pub kernel: String,
    sections: BTreeMap<String, Section>,
}

impl Output {
    /// Reads what a machine printed.
    ///
    /// # Errors
    /// A line is none of those above, or the kernel's is missing.
    pub fn parse(text: &str) -> Result<Self> {
        let mut kernel = None;
        let mut sections = BTreeMap::new();
        let mut section = &mut Section::default();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            match kind {
                "kernel" => kernel = Some(rest.to_owned()),
                "section" => section = sections.entry(rest.to_owned()).or_default(),
                _ => section.add(kind, rest).with_context(|| format!("what a machine printed, '{line}'"))?,
            }
        }
        let kernel = kernel.context("what a machine printed: expected a line 'kernel RELEASE', found none")?;
        Ok(Self { kernel, sections })
    }

    /// # Errors
    /// The machine printed no such section.
    pub fn section(&self, name: &str) -> Result<&Section> {
        self.sections.get(name).with_context(|| {
            let found: Vec<_> = self.sections.keys().map(String::as_str).collect();
            format!("what a machine printed: expected a section '{name}', found {}", found.join(", "))
        })
    }
}

impl Section {
    fn add(&mut self, kind: &str, rest: &str) -> Result<()> {
        let (program, rest) = rest.split_once(' ').context("expected the name of a program")?;
        match kind {
            "start" => self.starts.entry(program.to_owned()).or_default().push(start(rest)?),
            "calls" => drop(self.calls.insert(program.to_owned(), calls(rest)?)),
            "report" => {
                let last = self.starts.get_mut(program).and_then(|starts| starts.last_mut());
                last.context("a report without a start")?.report = Some(serde_json::from_str(rest)?);
            }
            _ => bail!("expected start, report, calls, section or kernel, found '{kind}'"),
        }
        Ok(())
    }

    /// The starts of a program.
    ///
    /// # Errors
    /// It was not started.
    pub fn starts(&self, program: &str) -> Result<&[Start]> {
        self.starts.get(program).map(Vec::as_slice).with_context(|| format!("{program}: expected starts, found none"))
    }

    /// The system calls of a program.
    ///
    /// # Errors
    /// They were not counted.
    pub fn calls(&self, program: &str) -> Result<&Calls> {
        self.calls.get(program).with_context(|| format!("{program}: expected its system calls, found none"))
    }

    /// A figure of all starts of a program.
    ///
    /// # Errors
    /// It was not started.
    pub fn sample(&self, program: &str, figure: impl Fn(&Start) -> f64) -> Result<Sample> {
        Sample::new(self.starts(program)?.iter().map(figure)).with_context(|| program.to_owned())
    }

    /// How long a processor was busy with a start of a program, in seconds, where that kind of machine knows.
    ///
    /// # Errors
    /// It was not started.
    pub fn cpu(&self, kind: Kind, program: &str) -> Result<Option<f64>> {
        if !kind.times_processes() {
            return Ok(None);
        }
        Ok(Some(self.sample(program, |start| start.cpu)?.median()))
    }

    /// How long the starts of a program took, in seconds and in their order.
    ///
    /// # Errors
    /// It was not started.
    pub fn walls(&self, program: &str) -> Result<Vec<f64>> {
        Ok(self.starts(program)?.iter().map(|start| start.wall).collect())
    }

    /// How long each start of a program took, as a share of what the other's in the same round took.
    ///
    /// # Errors
    /// One was not started, or not as often.
    pub fn ratios(&self, program: &str, other: &str) -> Result<Sample> {
        Sample::ratios(&self.walls(program)?, &self.walls(other)?).with_context(|| format!("{program} to {other}"))
    }
}

/// `WALL_NS CPU_NS PEAK_KIB FAULTS`
fn start(text: &str) -> Result<Start> {
    let figures: Vec<f64> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let &[wall, cpu, peak, faults] = figures.as_slice() else { bail!("expected 4 figures, found {}", figures.len()) };
    ensure!(wall > 0.0, "expected a start that took time, found {wall} ns");
    Ok(Start { wall: wall / 1e9, cpu: cpu / 1e9, peak, faults, report: None })
}

/// `TOTAL CALL=COUNT,…`
fn calls(text: &str) -> Result<Calls> {
    let (total, list) = text.split_once(' ').context("expected the number of all calls and a list")?;
    let each = list
        .split(',')
        .map(|call| {
            let (name, count) = call.split_once('=').with_context(|| format!("expected CALL=COUNT, found '{call}'"))?;
            Ok((name.to_owned(), count.parse()?))
        })
        .collect::<Result<_>>()?;
    Ok(Calls { total: total.parse()?, each })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = r#"kernel 7.2.12
section full
start sealroot 2000000 1500000 420 40
report sealroot {"checks":[{"name":"ask","microseconds":700}],"outcome":"sealed"}
start floor 1000000 900000 544 33
start floor 2000000 900000 544 33
start sealroot 3000000 1700000 424 44
section empty
calls floor 3 mount=2,openat=1
"#;

    #[test]
    fn sections_hold_what_was_measured_in_them() {
        let output = Output::parse(PRINTED).unwrap();
        assert_eq!(output.kernel, "7.2.12");
        let full = output.section("full").unwrap();
        assert_eq!(full.sample("sealroot", |start| start.peak).unwrap().median(), 422.0);
        assert_eq!(full.ratios("sealroot", "floor").unwrap().range().to_string(), "1.75 (1.50–2.00)");
        let reports: Vec<_> = full.starts("sealroot").unwrap().iter().map(|start| start.report.as_ref()).collect();
        assert_eq!(reports[0].unwrap().checks[0].name, "ask");
        assert_eq!(reports[1], None);
        assert_eq!(full.cpu(Kind::Emulated, "floor").unwrap(), Some(0.0009));
        assert_eq!(full.cpu(Kind::Native, "floor").unwrap(), None);
        let calls = output.section("empty").unwrap().calls("floor").unwrap();
        assert_eq!((calls.total, calls.each["mount"]), (3, 2));
    }

    #[test]
    fn what_is_missing_is_named() {
        let output = Output::parse(PRINTED).unwrap();
        let error = output.section("counted").unwrap_err().to_string();
        assert_eq!(error, "what a machine printed: expected a section 'counted', found empty, full");
        let error = output.section("empty").unwrap().starts("floor").unwrap_err().to_string();
        assert_eq!(error, "floor: expected starts, found none");
        assert!(Output::parse("section full\n").is_err());
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "mount: permission denied",
            "start",
            "start floor 1 2 3",
            "start floor 1 2 3 4 5",
            "start floor 0 2 3 4",
            "start floor fast 2 3 4",
            "report floor {}",
            "calls floor 3",
            "calls floor 3 mount",
        ] {
            assert!(Output::parse(&format!("kernel 7\n{line}\n")).is_err(), "{line}");
        }
    }
}
