//! The table of starts by the number of files.

use anyhow::{Context, Result};
use serde::Serialize;

use super::disk::Image;
use crate::machine::Kind;
use crate::meter::Section;
use crate::statistics::Sample;
use crate::table::{Table, time};

/// The checks, from the least to the most.
pub const CHECKS: [&str; 3] = ["digest", "image", "objects"];

/// What start-meter calls a program, a check or `cat`, with an image.
pub fn name(check: &str, image: &Image) -> String {
    format!("{check}-{}", image.files)
}

/// Where something was measured.
#[derive(Clone, Debug)]
pub struct Place {
    /// The page cache.
    pub cache: &'static str,
    /// How many processors the machine had.
    pub cpus: u32,
    /// What was measured.
    pub section: Section,
}

/// All that was measured in one kind of machine.
#[derive(Debug)]
pub struct Growth {
    /// The kind.
    pub kind: Kind,
    /// The release of its kernel.
    pub kernel: String,
    /// The images, the smallest first.
    pub images: Vec<Image>,
    /// The first with an empty cache, the second with a full one, both with one processor.
    pub places: Vec<Place>,
}

/// The starts with a check and an image at one place.
#[derive(Debug, Serialize)]
struct GrowthRow {
    table: &'static str,
    machine: &'static str,
    row: &'static str,
    kernel: String,
    files: u32,
    objects: u32,
    image: u64,
    cache: &'static str,
    cpus: u32,
    rounds: usize,
    wall: f64,
    wall_to_smallest: f64,
    cpu: Option<f64>,
    peak: u64,
    faults: u64,
    #[serde(flatten)]
    added: Option<Added>,
}

/// What a check adds to the one that looks at nothing but the digest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Added {
    /// By reading the image: in all, and beside `cat` of it.
    Image {
        #[serde(skip)]
        all: f64,
        cat: f64,
        added_to_cat: f64,
    },
    /// By reading every object.
    Objects { added_per_object: f64, added_per_file: f64 },
}

impl Growth {
    /// A row per check and image; in JSON one per place, too.
    ///
    /// # Errors
    /// Something was not measured.
    pub fn table(&self) -> Result<Table> {
        let (mut lines, mut objects) = (Vec::new(), Vec::new());
        for check in CHECKS {
            for image in &self.images {
                let rows: Vec<_> =
                    self.places.iter().map(|place| self.row(check, image, place)).collect::<Result<_>>()?;
                lines.push(cells(&rows).with_context(|| name(check, image))?);
                objects.extend(rows);
            }
        }
        let mut columns = vec![format!("start, Linux {}, {}", self.kernel, self.kind.name())];
        let place = |place: &Place| {
            format!("cache {}, {} CPU{}", place.cache, place.cpus, if place.cpus == 1 { "" } else { "s" })
        };
        columns.extend(self.places.iter().map(place));
        columns.extend(["CPU", "peak memory", "more than `digest`"].map(str::to_owned));
        Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>(), lines, &objects)
    }

    fn row(&self, check: &'static str, image: &Image, place: &Place) -> Result<GrowthRow> {
        let smallest = self.images.first().context("expected images, found none")?;
        let (name, section) = (name(check, image), &place.section);
        Ok(GrowthRow {
            table: "growth",
            machine: self.kind.key(),
            row: check,
            kernel: self.kernel.clone(),
            files: image.files,
            objects: image.objects,
            image: image.bytes,
            cache: place.cache,
            cpus: place.cpus,
            rounds: section.starts(&name)?.len(),
            wall: section.sample(&name, |start| start.wall)?.median(),
            wall_to_smallest: section.ratios(&name, &self::name(check, smallest))?.median(),
            cpu: section.cpu(self.kind, &name)?,
            peak: section.sample(&name, |start| start.peak)?.median() as u64,
            faults: section.sample(&name, |start| start.faults)?.median() as u64,
            added: added(check, image, section)?,
        })
    }
}

fn added(check: &str, image: &Image, section: &Section) -> Result<Option<Added>> {
    let walls = |check| section.walls(&name(check, image));
    let median = |check| Ok::<_, anyhow::Error>(Sample::new(walls(check)?)?.median());
    Ok(match check {
        "image" => {
            let more: Vec<f64> =
                walls("image")?.iter().zip(walls("digest")?).map(|(image, digest)| image - digest).collect();
            Some(Added::Image {
                all: median("image")? - median("digest")?,
                cat: median("cat")?,
                added_to_cat: Sample::ratios(&more, &walls("cat")?)?.median(),
            })
        }
        "objects" => {
            let all = median("objects")? - median("digest")?;
            Some(Added::Objects {
                added_per_object: all / f64::from(image.objects),
                added_per_file: all / f64::from(image.files),
            })
        }
        _ => None,
    })
}

/// What people read of a check and an image: the rows are those of all places.
fn cells(rows: &[GrowthRow]) -> Result<Vec<String>> {
    let [empty, full, ..] = rows else { anyhow::bail!("expected two places or more, found {}", rows.len()) };
    let size = significant(empty.image as f64 / 1e6);
    let mut cells = vec![format!("`{}`, {} files, {} objects, {size} MB", empty.row, empty.files, empty.objects)];
    cells.extend(rows.iter().map(|row| format!("{} ({})", time(row.wall), times(row.wall_to_smallest))));
    // With a full cache, where nothing is waited for.
    cells.extend([full.cpu.map_or_else(String::new, time), format!("{} KiB", full.peak)]);
    cells.push(match empty.added {
        None => String::new(),
        Some(Added::Image { all, added_to_cat, .. }) => format!("{}, {added_to_cat:.2} × `cat`", time(all)),
        Some(Added::Objects { added_per_object, added_per_file }) => {
            format!("{:.0} µs an object, {:.1} µs a file", added_per_object * 1e6, added_per_file * 1e6)
        }
    });
    Ok(cells)
}

fn times(share: f64) -> String {
    if share < 10.0 { format!("{share:.2}") } else { format!("{share:.0}") }
}

/// With three digits that count.
fn significant(value: f64) -> String {
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Output;

    fn growth() -> Growth {
        let mut text = "kernel 7.2\n".to_owned();
        for (section, unit) in [("empty", 2_000_000_u64), ("full", 1_000_000)] {
            text += &format!("section {section}\n");
            for (files, factor) in [(10, 1), (1000, 10)] {
                for (check, more) in [("digest", 0), ("image", 1), ("objects", 500), ("cat", 1)] {
                    let wall = unit * (if check == "cat" { 0 } else { 1 } + more * factor);
                    text += &format!("start {check}-{files} {wall} 1500000 384 40\n").repeat(3);
                }
            }
        }
        let output = Output::parse(&text).unwrap();
        let image = |files, bytes| Image { files, objects: files.min(100), bytes, digest: "digest".to_owned() };
        let places = ["empty", "full"].map(|cache| {
            let section = output.section(cache).unwrap().clone();
            Place { cache, cpus: 1, section }
        });
        let images = vec![image(10, 20_480), image(1000, 86_600_000)];
        Growth { kind: Kind::Emulated, kernel: output.kernel, images, places: places.to_vec() }
    }

    #[test]
    fn a_row_tells_what_a_check_adds() {
        let growth = growth();
        let row = |check: &'static str, image: usize| {
            let rows: Vec<_> =
                growth.places.iter().map(|place| growth.row(check, &growth.images[image], place).unwrap()).collect();
            cells(&rows).unwrap()
        };
        assert_eq!(
            row("digest", 0),
            ["`digest`, 10 files, 10 objects, 0.0205 MB", "2.0 ms (1.00)", "1.0 ms (1.00)", "1.5 ms", "384 KiB", ""]
        );
        assert_eq!(row("image", 1)[..2], ["`image`, 1000 files, 100 objects, 86.6 MB", "22.0 ms (5.50)"]);
        assert_eq!(row("image", 1)[5], "20.0 ms, 1.00 × `cat`");
        assert_eq!(row("objects", 1)[5], "100000 µs an object, 10000.0 µs a file");
    }

    #[test]
    fn an_object_has_the_keys_of_its_check() {
        let growth = growth();
        let object =
            |check| serde_json::to_value(growth.row(check, &growth.images[1], &growth.places[0]).unwrap()).unwrap();
        let (digest, image, objects) = (object("digest"), object("image"), object("objects"));
        assert_eq!((digest.get("cat"), digest["machine"].as_str()), (None, Some("emulated")));
        assert_eq!((image["cat"].as_f64(), image.get("all")), (Some(0.02), None));
        assert!(objects["added_per_file"].is_f64() && objects["rounds"] == 3);
    }

    #[test]
    fn sizes_have_three_digits() {
        for (value, text) in [(0.02048, "0.0205"), (2.694, "2.69"), (10.44, "10.4"), (86.6, "86.6"), (1234.0, "1234")] {
            assert_eq!(significant(value), text);
        }
    }
}
