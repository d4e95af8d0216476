//! `sealroot verify --all` and composefs-rs's check of a repository (what `cfsctl fsck` calls), the page cache empty and full.

use std::time::Duration;

use anyhow::{Context, Result};
use machines::builders::built;
use machines::native::Drive;
use serde::Serialize;

use crate::machine::{Clock, Job, Kind};
use crate::meter::Output;
use crate::pairs::PairRow;
use crate::programs;
use crate::table::{Row, Table, time};

/// Last, `sealroot verify` says how much it checked.
const SCRIPT: &str = r#"
  mount -t ext4 -o ro "$root" /mnt
  echo "kernel $(uname -r)"
  ours="/sealroot verify --repo /mnt/composefs --all"
  for cache in cold warm; do
    echo "section $cache"
    /start-meter "$pairs" "$cache" - "sealroot=$ours" "fsck=/repository-fsck sha512 /mnt/composefs"
  done
  echo "section data"
  /start-meter 1 cold - "sealroot=/sealroot verify --data --repo /mnt/composefs --all"
  $ours >/tmp/said
  tail -n 1 /tmp/said"#;

/// Reading everything.
#[derive(Serialize)]
struct DataRow {
    table: &'static str,
    machine: &'static str,
    row: String,
    sealroot: f64,
}

impl Row for DataRow {
    fn cells(&self) -> Vec<String> {
        vec![self.row.clone(), time(self.sealroot)]
    }
}

/// Measures so many pairs of each in one kind of machine.
///
/// # Errors
/// A program or a disk cannot be built, or the machine does not do what it should.
pub fn bench(kind: Kind, kernel: &str, pairs: u32) -> Result<Vec<Table>> {
    let image = built("disk", &["sha512"])?;
    let (command, peer, meter) = (programs::command()?, programs::repository_fsck()?, programs::start_meter()?);
    let mut files = programs::libraries(&[&command, &peer])?;
    files.extend([
        (command, "/sealroot".to_owned()),
        (peer, "/repository-fsck".to_owned()),
        (meter, "/start-meter".to_owned()),
    ]);
    let mut rows = Vec::new();
    let mut data_rows = Vec::new();
    let (mut checked, mut release) = (String::new(), String::new());
    for &cpus in kind.processors() {
        let job = Job {
            kind,
            kernel,
            disk: Drive { file: image.clone(), writable: false },
            files: files.clone(),
            cpus,
            clock: Clock::Time,
            limit: Duration::from_secs(1500),
        };
        let text = job.run(SCRIPT, &[("root", &kind.partition(2)), ("pairs", &pairs.to_string())])?;
        // The last line is no line of the meter's.
        let (measured, said) = text.rsplit_once('\n').context("expected what was checked, found nothing")?;
        let output = Output::parse(measured)?;
        for (section, cache) in [("cold", "empty"), ("warm", "full")] {
            let section = output.section(section)?;
            let row = format!("{}, cache {cache}", processors(cpus));
            rows.push(PairRow::new("verify", kind.key(), &row, &section.walls("sealroot")?, &section.walls("fsck")?)?);
        }
        let sealroot = output.section("data")?.sample("sealroot", |start| start.wall)?.median();
        data_rows.push(DataRow { table: "verify --data", machine: kind.key(), row: processors(cpus), sealroot });
        (checked, release) = (said.to_owned(), output.kernel);
    }
    let machine = format!("Linux {release}, {}", kind.name());
    let columns = [&format!("check of a repository ({checked}), {machine}"), "ratio", "from–to", "sealroot", "fsck"];
    let data_columns = [&format!("`sealroot verify --data`, cache empty, {machine}"), "sealroot"];
    Ok(vec![Table::of(&columns, &rows)?, Table::of(&data_columns, &data_rows)?])
}

fn processors(count: u32) -> String {
    format!("{count} CPU{}", if count == 1 { "" } else { "s" })
}
