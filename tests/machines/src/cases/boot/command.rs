//! The command for people, asked in the booted system, before and after each of several kinds of damage (see `ask`, which asks).

use std::path::{Path, PathBuf};

use anyhow::Result;
use regex::Regex;

use super::expect::NUMBER;
use super::scenario::{Content, Scenario, case};
use super::world::World;
use crate::builders;
use crate::console::Console;

/// The file whose object is damaged.
const FILE: &str = "/usr/share/common-licenses/Apache-2.0";
/// The exit statuses of the commands that are not about what was damaged, but for the last one.
const OTHERS: &str = "status:0 probe:0 karg:0 inspect:0 enable:0 digest";

/// What the command must answer: exit status and the part of its JSON that is looked at.
fn answers() -> Vec<(&'static str, String)> {
    let broken = |found: &str| format!("1 [\"no\",{NUMBER},[[\"{{expected:{FILE}}}, found {found}\",\"{FILE}\"]]]");
    let good = format!("0 [\"yes\",{NUMBER},[]]");
    let status = |code: u32| format!("{OTHERS}:{code}");
    vec![
        ("karg", "0 \"{karg}\"".into()),
        ("inspect", r#"0 ["v1","kernel","file","0644"]"#.into()),
        ("list", r#"0 ["/",true]"#.into()),
        ("digest", format!("0 [\"yes\",\"{{measured_hex:{FILE}}}\"]")),
        // fs-verity, overlayfs with verity=, and its layers on this filesystem.
        ("probe", r#"0 ["yes",[true,true,true]]"#.into()),
        ("enable", r#"0 ["yes",0,[]]"#.into()),
        ("good-others", status(0)),
        ("verify", good.clone()),
        ("unused", r#"0 ["yes",["objects/00/unused"]]"#.into()),
        ("unused-others", status(0)),
        ("missing", broken("none")),
        ("missing-others", status(1)),
        ("unsealed", broken("a file without fs-verity")),
        ("enabled", r#"0 ["yes",1,[]]"#.into()),
        ("repaired", good.clone()),
        ("flipped", good),
        ("flipped-others", status(1)),
        ("flipped-data", broken("damage (EIO)")),
        ("flipped-digest", format!("1 [\"no\",\"EIO\"]; sealroot digest: '{FILE}': EIO")),
    ]
}

/// Every question, with the answers that depend on the firmware.
pub fn command() -> Vec<Scenario> {
    let state = "/{state}/var/lib";
    let make = |folder: &str| format!("mkdir {folder}");
    let mut scenario = case("command")
        .systemd()
        .debugfs(&[&make(state), &make(&format!("{state}/sealroot-probe"))])
        .write(
            Content::Built("program", &["sealroot"]),
            &["cd /{state}/var/lib/sealroot-probe", "write {file} sealroot"],
        )
        .debugfs(&["set_inode_field /{state}/var/lib/sealroot-probe/sealroot mode 0100755"])
        .write(
            Content::File(builders::project().join("tests/machines/ask")),
            &["cd /{state}/var/lib/sealroot-probe", "write {file} ask", "set_inode_field ask mode 0100755"],
        )
        // A release that would not boot.
        .on_esp(wrong_uki, "EFI/wrong.efi")
        .limit(900)
        .judged(same_number_of_objects)
        .must_be_on("native", "cli-status", &status("unsupported", "null"))
        .must_be_on("firmware", "cli-status", &status("enforced", r#""sealroot-stub""#))
        .must_be_on(
            "firmware",
            "cli-uki",
            r#"0 ["yes",true,"v1 sha512:{digest}",["writable-etc","writable-var"],[],"images/{digest}: measured by the kernel"]"#,
        )
        .must_be_on(
            "firmware",
            "cli-uki-wrong",
            r#"1 ["no",true,"/usr/lib/sealroot/sealroot.toml:3: unknown key 'policy.krag'"]"#,
        );
    for (key, answer) in answers() {
        scenario = scenario.must_be(&format!("cli-{key}"), &answer);
    }
    vec![scenario]
}

fn status(secure_boot: &str, stub: &str) -> String {
    let places = r#"["/etc","/var","/sysroot"]"#;
    format!(
        r#"0 [true,"sha512:{{digest}}","v1","image","{secure_boot}",{stub},false,[],["writable-etc","writable-var"],{places},1]"#
    )
}

/// However the repository is damaged, it is the same image with as many objects.
fn same_number_of_objects(console: &Console) -> Vec<String> {
    let number = Regex::new("[0-9]{4,}").expect("a pattern that was written here");
    let of = |key: &&str| {
        let answer = console.probe(&format!("cli-{key}")).unwrap_or_default();
        number.find(answer).map(|found| found.as_str().to_owned())
    };
    let mut numbers: Vec<_> =
        ["verify", "missing", "unsealed", "repaired", "flipped", "flipped-data"].iter().map(of).collect();
    numbers.dedup();
    if numbers.len() == 1 { Vec::new() } else { vec![format!("expected one number of objects, found {numbers:?}")] }
}

fn wrong_uki(world: &World, scenario: &Scenario, _: &Path) -> Result<PathBuf> {
    let wrong = scenario.clone().policy("krag = \"optional\"");
    wrong.make_uki(world, &[])
}
