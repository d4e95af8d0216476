//! That the man pages and the completions in `man/` say what the programs do. `SEALROOT_UPDATE=1 cargo test --features cli
//! --bin sealroot` writes the completions anew.

use std::env;
use std::fs;
use std::path::Path;

use clap::{Arg, CommandFactory};
use clap_complete::Shell;
use sealroot::ask::config::Config;
use sealroot::ask::keep::DATA;

use crate::arguments::Arguments;

const COMMAND: &str = include_str!("../../../man/sealroot.1");
const BOOT_PROGRAM: &str = include_str!("../../../man/sealroot-initrd.8");
const CONFIG: &str = include_str!("../../../man/sealroot.toml.5");

/// The words of a man page, without what roff does with them.
fn plain(page: &str) -> String {
    let line = |line: &str| {
        let text = match line.strip_prefix('.') {
            Some(rest) => rest.split_once(' ').map_or("", |(_, text)| text).replace('"', ""),
            None => line.to_owned(),
        };
        text.replace("\\-", "-")
    };
    words(&page.lines().map(line).collect::<Vec<_>>().join(" "))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The part of a page from a heading up to the next of its kind.
fn part<'a>(page: &'a str, macro_name: &str, heading: &str) -> &'a str {
    let start = page.find(&format!("{macro_name} {heading}")).unwrap_or_else(|| panic!("no part '{heading}'"));
    let rest = page[start..].split_once('\n').unwrap().1;
    &rest[..[".SS ", ".SH "].iter().filter_map(|next| rest.find(next)).min().unwrap_or(rest.len())]
}

#[test]
fn every_command_and_option() {
    let command = Arguments::command();
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        // The last of several headings has the text.
        let heading = COMMAND.rfind(&format!(".SS sealroot {name}")).unwrap_or_else(|| panic!("no part '{name}'"));
        let heading = COMMAND[heading..].lines().next().unwrap().strip_prefix(".SS ").unwrap();
        let text = plain(part(COMMAND, ".SS", heading));
        let about = subcommand.get_long_about().or(subcommand.get_about()).unwrap().to_string();
        for paragraph in about.split("\n\n") {
            let paragraph = words(paragraph);
            assert!(text.contains(paragraph.trim_end_matches('.')), "{name}: {paragraph}\n{text}");
        }
        let is_own = |argument: &&Arg| !["help", "json"].contains(&argument.get_id().as_str());
        for argument in subcommand.get_arguments().filter(is_own) {
            let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
            let title = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => value.unwrap(),
            };
            let help = words(&argument.get_help().unwrap().to_string());
            assert!(text.contains(&title) && text.contains(&help), "{name}: {title}: {help}\n{text}");
            for default in argument.get_default_values() {
                let default = default.to_str().unwrap();
                assert!(text.contains(default), "{name}: {title}: default {default}");
            }
        }
        let known = |word: &str| {
            let option = word.trim_start_matches('[').trim_end_matches([']', ',', '.']);
            option == "--json" || subcommand.get_arguments().any(|known| known.get_long() == option.strip_prefix("--"))
        };
        let heading = heading.replace("\\-", "-");
        for word in heading.split_whitespace().filter(|word| word.contains("--")) {
            assert!(known(word), "{name}: {word}");
        }
    }
    let headings = COMMAND.lines().filter_map(|line| line.strip_prefix(".SS sealroot "));
    for name in headings.filter_map(|heading| heading.split(' ').next()) {
        assert!(command.find_subcommand(name).is_some(), "{name}");
    }
}

#[test]
fn the_boot_program() {
    let program = include_str!("../sealroot-initrd.rs");
    let (_, usage) = program.split_once("const USAGE").unwrap();
    let usage = usage.split('"').nth(1).unwrap();
    let page = plain(BOOT_PROGRAM);
    let words = usage.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| !word.is_empty());
    for word in words.filter(|word| *word != "usage") {
        assert!(page.contains(word), "{word}");
    }
}

/// What a message lists between single quotes behind `expected one of`.
fn listed(message: &str) -> Vec<String> {
    let list = message.split("expected one of ").nth(1).unwrap_or_else(|| panic!("no list in: {message}"));
    let list = list.split(", found").next().unwrap();
    list.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

fn refused(text: &str) -> String {
    Config::from_sealroot_toml(text).unwrap_err().to_string()
}

#[test]
fn every_key_and_value() {
    for table in ["policy", "root", "etc", "var", "sysroot"] {
        let text = part(CONFIG, ".SS", &format!("[{table}]"));
        let keys = listed(&refused(&format!("[{table}]\nno-such-key = 1\n")));
        let entries: Vec<_> = text.split(".TP\n").skip(1).map(plain).collect();
        assert_eq!(entries.len(), keys.len(), "man/sealroot.toml.5: [{table}] has other keys than {keys:?}");
        for key in keys {
            let is_it = |entry: &&String| entry.split(' ').next() == Some(&key);
            let entry = entries.iter().find(is_it).unwrap_or_else(|| panic!("[{table}] {key}"));
            let message = refused(&format!("[{table}]\n{key} = \"no such value\"\n"));
            if message.contains("expected one of") {
                for value in listed(&message) {
                    let likewise = entry.contains("likewise") || entry.contains(&format!("\"{value}\""));
                    assert!(likewise, "[{table}] {key}: \"{value}\"\n{entry}");
                }
            }
        }
    }
    for value in listed(&refused("layout = \"no such value\"\n")) {
        assert!(plain(part(CONFIG, ".SH", "KEYS")).contains(&format!("\"{value}\"")), "{value}");
    }
    let example = part(CONFIG, ".SH", "EXAMPLE").replace("\\-", "-");
    let example: Vec<_> = example.lines().filter(|line| !line.starts_with('.')).collect();
    Config::from_sealroot_toml(&example.join("\n")).unwrap();
}

#[test]
fn what_counts_as_data() {
    let list =
        plain(CONFIG).split_once("Only these count as data").unwrap().1.split("If the list").next().unwrap().to_owned();
    let names: Vec<_> = list.split_whitespace().map(|word| word.trim_end_matches([',', '.'])).collect();
    for pattern in DATA {
        assert!(names.contains(&pattern), "{pattern}: {list}");
    }
}

#[test]
fn completions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/completions");
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "sealroot", &mut script);
        let name = match shell {
            Shell::Bash => "sealroot.bash",
            Shell::Fish => "sealroot.fish",
            _ => "_sealroot",
        };
        let path = folder.join(name);
        if env::var_os("SEALROOT_UPDATE").is_some() {
            fs::write(&path, &script).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        assert!(found == script, "{}: write it anew with SEALROOT_UPDATE=1", path.display());
    }
}
