//! The table of whole boots.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use super::watch::Boot;
use crate::machine::Kind;
use crate::statistics::{Sample, Spread};
use crate::table::{Row, Table, time};

/// What is measured of a boot, by the keys of JSON and by the columns of the table.
pub const FIGURES: [(&str, &str); 5] = [
    // Of the program that is the machine: QEMU, or the kernel itself where the machine is native.
    ("qemu_to_switch_root", "machine to switch-root"),
    ("kernel_to_switch_root", "kernel to switch-root"),
    ("initrd", "initrd"),
    ("kernel_to_multi_user", "kernel to multi-user"),
    ("read_back", "read back"),
];

/// The boots of one root.
#[derive(Debug, Serialize)]
struct BootRow {
    table: &'static str,
    machine: &'static str,
    row: &'static str,
    kernel: String,
    rounds: usize,
    #[serde(flatten)]
    figures: Map<String, Value>,
    #[serde(skip)]
    cells: Vec<String>,
}

impl Row for BootRow {
    fn cells(&self) -> Vec<String> {
        [self.row.to_owned()].into_iter().chain(self.cells.iter().cloned()).collect()
    }
}

/// A row per root; the n-th boots of all belong together, and the last root is what the others are compared with. `content`
/// is what is read back.
///
/// # Errors
/// Nothing was booted.
pub fn table(kind: Kind, content: &str, boots: &[(&'static str, Vec<Boot>)]) -> Result<Table> {
    let (_, plain) = boots.last().context("expected boots, found none")?;
    let rows: Vec<BootRow> =
        boots.iter().map(|(name, boots)| row(kind, name, boots, plain).context(*name)).collect::<Result<_>>()?;
    let kernel = rows.first().map(|row| row.kernel.as_str()).unwrap_or_default();
    let title = format!("boot, Debian 13, Linux {kernel}, {}; read back: {content}", kind.name());
    let columns: Vec<&str> = [title.as_str()].into_iter().chain(FIGURES.map(|(_, column)| column)).collect();
    Table::of(&columns, &rows)
}

fn row(kind: Kind, name: &'static str, boots: &[Boot], plain: &[Boot]) -> Result<BootRow> {
    let first = boots.first().context("expected boots, found none")?;
    let (mut figures, mut cells) = (Map::new(), Vec::new());
    for (place, (key, _)) in FIGURES.into_iter().enumerate() {
        let column = |boots: &[Boot]| boots.iter().map(|boot| boot.seconds[place]).collect::<Vec<f64>>();
        let median = Sample::new(column(boots))?.median();
        let Spread { median: ratio, low, high } = Sample::ratios(&column(boots), &column(plain))?.range();
        let values = [("", median), ("_to_ext4", ratio), ("_to_ext4_lowest", low), ("_to_ext4_highest", high)];
        figures.extend(values.map(|(suffix, value)| (format!("{key}{suffix}"), value.into())));
        let comparison = if name == "ext4" { String::new() } else { format!(", {ratio:.2} ({low:.2}–{high:.2})") };
        cells.push(time(median) + &comparison);
    }
    let (kernel, rounds) = (first.kernel.clone(), boots.len());
    Ok(BootRow { table: "boot", machine: kind.key(), row: name, kernel, rounds, figures, cells })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_compared_with_ext4_boot_by_boot() {
        let boots = |factors: [f64; 3]| -> Vec<Boot> {
            let boot = |factor| Boot {
                kernel: "6.12".into(),
                seconds: [4.0, 2.0, 1.5, 10.0, 0.5].map(|figure| figure * factor),
            };
            factors.map(boot).to_vec()
        };
        let row = row(Kind::Native, "sealed-sha512", &boots([3.0, 1.0, 2.0]), &boots([2.0, 1.0, 1.0])).unwrap();
        assert_eq!(row.cells()[..2], ["sealed-sha512", "8.00 s, 1.50 (1.00–2.00)"]);
        assert_eq!(row.cells()[5], "1.00 s, 1.50 (1.00–2.00)");
        let object = serde_json::to_value(&row).unwrap();
        assert_eq!((&object["machine"], &object["rounds"]), (&"native".into(), &3.into()));
        assert_eq!((&object["initrd"], &object["read_back_to_ext4_highest"]), (&3.0.into(), &2.0.into()));
        assert!(object.get("cells").is_none());
    }
}
