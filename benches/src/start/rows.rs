//! The tables of starts and of their stages.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::machine::Kind;
use crate::meter::{Output, Report, Section};
use crate::statistics::{Sample, Spread};
use crate::table::{Row, Table};

const PROGRAMS: [&str; 4] = ["sealroot", "peer", "peer-static", "floor"];

/// The starts of a program with one state of the page cache.
#[derive(Debug, Serialize)]
struct StartRow {
    table: &'static str,
    machine: &'static str,
    row: &'static str,
    kernel: String,
    cache: &'static str,
    rounds: usize,
    wall_to_floor: f64,
    wall_to_floor_lower_quartile: f64,
    wall_to_floor_upper_quartile: f64,
    wall_to_peer_static: f64,
    wall_to_peer_static_lower_quartile: f64,
    wall_to_peer_static_upper_quartile: f64,
    wall: f64,
    cpu: Option<f64>,
    /// With the page cache full, and where a machine can count them.
    instructions: Option<u64>,
    peak: u64,
    faults: u64,
    calls: u64,
    each_call: BTreeMap<String, u64>,
}

impl Row for StartRow {
    fn cells(&self) -> Vec<String> {
        let floor = Spread {
            median: self.wall_to_floor,
            low: self.wall_to_floor_lower_quartile,
            high: self.wall_to_floor_upper_quartile,
        };
        let peer_static = Spread {
            median: self.wall_to_peer_static,
            low: self.wall_to_peer_static_lower_quartile,
            high: self.wall_to_peer_static_upper_quartile,
        };
        vec![
            format!("{}, cache {}", self.row, self.cache),
            floor.to_string(),
            peer_static.to_string(),
            format!("{:.2} ms", self.wall * 1e3),
            self.cpu.map_or_else(String::new, |cpu| format!("{:.2} ms", cpu * 1e3)),
            self.instructions.map_or_else(String::new, |count| format!("{:.2} million", count as f64 / 1e6)),
            format!("{} KiB", self.peak),
            self.faults.to_string(),
            self.calls.to_string(),
        ]
    }
}

/// A row per program and state of the page cache.
pub fn starts(kind: Kind, timed: &Output, counted: Option<&Output>) -> Result<Table> {
    let mut rows = Vec::new();
    for cache in ["full", "empty"] {
        for program in PROGRAMS {
            let instructions = match counted.filter(|_| cache == "full") {
                // An instruction counts as a nanosecond there.
                Some(output) => Some(output.section("counted")?.sample(program, |start| start.cpu)?.median() * 1e9),
                None => None,
            };
            rows.push(start(kind, timed, cache, program, instructions)?);
        }
    }
    let title = format!("start, Linux {}, {}", timed.kernel, kind.name());
    let columns = [
        &title,
        "wall to floor",
        "wall to peer-static",
        "wall",
        "CPU",
        "instructions",
        "peak memory",
        "faults",
        "calls",
    ];
    Table::of(&columns, &rows)
}

fn start(
    kind: Kind,
    timed: &Output,
    cache: &'static str,
    program: &'static str,
    instructions: Option<f64>,
) -> Result<StartRow> {
    let section = timed.section(cache)?;
    let floor = section.ratios(program, "floor")?.quartiles();
    let peer_static = section.ratios(program, "peer-static")?.quartiles();
    // Counted once, behind the starts with an empty cache.
    let calls = timed.section("empty")?.calls(program)?;
    Ok(StartRow {
        table: "start",
        machine: kind.key(),
        row: program,
        kernel: timed.kernel.clone(),
        cache,
        rounds: section.starts(program)?.len(),
        wall_to_floor: floor.median,
        wall_to_floor_lower_quartile: floor.low,
        wall_to_floor_upper_quartile: floor.high,
        wall_to_peer_static: peer_static.median,
        wall_to_peer_static_lower_quartile: peer_static.low,
        wall_to_peer_static_upper_quartile: peer_static.high,
        wall: section.sample(program, |start| start.wall)?.median(),
        cpu: section.cpu(kind, program)?,
        instructions: instructions.map(|count| count as u64),
        peak: section.sample(program, |start| start.peak)?.median() as u64,
        faults: section.sample(program, |start| start.faults)?.median() as u64,
        calls: calls.total,
        each_call: calls.each.clone(),
    })
}

/// A stage of sealroot's starts.
#[derive(Debug, Serialize)]
struct StageRow {
    table: &'static str,
    machine: &'static str,
    row: String,
    time: f64,
}

impl Row for StageRow {
    fn cells(&self) -> Vec<String> {
        vec![self.row.clone(), format!("{:.2} ms", self.time * 1e3)]
    }
}

/// A row per stage of sealroot's starts with a full page cache, from its own reports, and one for what lies outside.
pub fn stages(kind: Kind, timed: &Output) -> Result<Table> {
    let rows: Vec<StageRow> = stage_times(timed.section("full")?)?
        .into_iter()
        .map(|(row, times)| {
            let time = Sample::new(times)?.median();
            Ok(StageRow { table: "stages", machine: kind.key(), row, time })
        })
        .collect::<Result<_>>()?;
    Table::of(&[&format!("stage of sealroot, cache full, {}", kind.name()), "time"], &rows)
}

/// The seconds of each stage, start by start, in the order of the stages, and those outside of them as `other`.
fn stage_times(section: &Section) -> Result<Vec<(String, Vec<f64>)>> {
    let mut stages: Vec<(String, Vec<f64>)> = Vec::new();
    let mut other = Vec::new();
    for start in section.starts("sealroot")? {
        let Report { checks } = start.report.as_ref().context("a start of sealroot: expected a report, found none")?;
        if stages.is_empty() {
            stages = checks.iter().map(|stage| (stage.name.clone(), Vec::new())).collect();
        }
        ensure!(
            checks.iter().map(|stage| &stage.name).eq(stages.iter().map(|(name, _)| name)),
            "the stages of a start: expected the same in each, found others: {checks:?}"
        );
        for (stage, (_, times)) in checks.iter().zip(&mut stages) {
            times.push(stage.microseconds / 1e6);
        }
        other.push(start.wall - checks.iter().map(|stage| stage.microseconds / 1e6).sum::<f64>());
    }
    stages.push(("other".to_owned(), other));
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str =
        r#"report sealroot {"checks":[{"name":"ask","microseconds":700},{"name":"mount","microseconds":300}]}"#;

    fn printed() -> String {
        let mut text = "kernel 7.2\n".to_owned();
        for (section, floor) in [("full", 1_000_000), ("empty", 2_000_000)] {
            text += &format!("section {section}\n");
            for wall in [2_000_000, 3_000_000, 4_000_000] {
                text += &format!("start sealroot {wall} 1500000 420 40\n{REPORT}\n");
                for program in ["peer", "peer-static", "floor"] {
                    text += &format!("start {program} {floor} 900000 544 33\n");
                }
            }
        }
        text + &PROGRAMS.map(|program| format!("calls {program} 3 mount=2,openat=1\n")).concat()
    }

    #[test]
    fn a_row_compares_a_start_with_the_floor() {
        let output = Output::parse(&printed()).unwrap();
        let row = start(Kind::Native, &output, "empty", "sealroot", None).unwrap();
        let cells = row.cells();
        assert_eq!(cells[..2], ["sealroot, cache empty", "1.50 (1.25–1.75)"]);
        assert_eq!(cells[3..], ["3.00 ms", "", "", "420 KiB", "40", "3"]);
        let object = serde_json::to_value(&row).unwrap();
        assert_eq!(object["machine"], "native");
        assert_eq!(object["each_call"]["mount"], 2);
        assert!(object["instructions"].is_null());
    }

    #[test]
    fn stages_and_the_rest_are_a_start() {
        let output = Output::parse(&printed()).unwrap();
        let times = stage_times(output.section("full").unwrap()).unwrap();
        let names: Vec<_> = times.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ask", "mount", "other"]);
        let other = Sample::new(times[2].1.iter().copied()).unwrap();
        assert!((other.median() - 0.002).abs() < 1e-9);
    }

    #[test]
    fn starts_with_other_stages_are_refused() {
        let text = printed().replacen("\"ask\"", "\"find\"", 1);
        assert!(stage_times(Output::parse(&text).unwrap().section("full").unwrap()).is_err());
        let text = printed().replacen(&format!("{REPORT}\n"), "", 1);
        assert!(stage_times(Output::parse(&text).unwrap().section("full").unwrap()).is_err());
    }
}
