//! The whole of sealroot in one command: seals a real Debian, boots it under Secure Boot, attacks it in four ways. The boots are
//! those of the tests.

use std::io::IsTerminal;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use machines::builders;
use machines::cases::boot::demonstrated;
use machines::cases::boot::scenario::{On, Scenario};
use machines::cases::boot::world::World;
use machines::console::Console;

/// What each step is about, what is shown of it, and what came of it; in the order of [`demonstrated`].
const STEPS: [(&str, &[&str], &str); 5] = [
    (
        "The sealed Debian, untouched",
        &[
            "os",
            "secure-boot",
            "root",
            "sysroot",
            "write-root",
            "write-usr",
            "write-file",
            "write-etc",
            "write-var",
            "multi-user",
        ],
        "it booted, sealed",
    ),
    ("Attack: one byte of the image changed on the disk", &[], "refused, nothing was started"),
    ("Attack: the image replaced by another well-formed one, with fs-verity", &[], "refused, nothing was started"),
    (
        "Attack: a file's content changed on the disk, another swapped, a third removed",
        &["canary", "multi-user", "failed-units"],
        "those files cannot be read, never wrong content; the rest works",
    ),
    ("Attack: a kernel image without the right signature", &[], "refused by the firmware"),
];

fn main() -> Result<ExitCode> {
    let started = Instant::now();
    let colour = std::io::stdout().is_terminal();
    let paint =
        move |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    title(&paint, 1, "Everything that is needed");
    let setup = Command::new(builders::project().join("qemu/setup")).status().context("qemu/setup")?;
    ensure!(setup.success(), "qemu/setup: {setup}");
    let world = World::get()?;
    let program = builders::built("program", &["sealroot-initrd"])?;
    fact("boot program", &format!("{} bytes, static", program.metadata()?.len()));
    fact("digest", &shortened(world.value("SHA512_V1")?));
    let mut failures = 0;
    for (number, ((heading, keys, came), outcome)) in (2..).zip(STEPS.iter().zip(all(demonstrated()?))) {
        let outcome = outcome.recv().context("a machine's thread ended early")?;
        title(&paint, number, heading);
        match outcome {
            Ok((seen, console)) => {
                for key in *keys {
                    let answer = console.probe(key).filter(|answer| !answer.is_empty()).unwrap_or("none");
                    fact(key, &shortened(answer));
                }
                fact("seen", &shortened(&seen));
                println!("   {}", paint("32", &format!("=> {came}")));
            }
            Err(error) => {
                failures += 1;
                println!("   {}\n{error:#}", paint("31", "=> NOT AS IT MUST BE"));
            }
        }
    }
    let seconds = started.elapsed().as_secs();
    if failures > 0 {
        println!("\n{}", paint("31", &format!("{failures} of {} boots came out wrong.", STEPS.len())));
        return Ok(ExitCode::FAILURE);
    }
    println!("\n{}", paint("32", &format!("All {} boots came out as they must, in {seconds} s.", STEPS.len())));
    Ok(ExitCode::SUCCESS)
}

type Outcome = Result<(String, Console)>;

/// Starts the machines, two at a time; each gives what came of it.
fn all(scenarios: Vec<Scenario>) -> Vec<mpsc::Receiver<Outcome>> {
    let (tokens, free) = mpsc::channel();
    for _ in 0..2 {
        // The receiver is below.
        let _ = tokens.send(());
    }
    let tokens = Arc::new(tokens);
    let mut outcomes = Vec::new();
    let mut queue = Vec::new();
    for scenario in scenarios {
        let (sender, receiver) = mpsc::channel();
        outcomes.push(receiver);
        queue.push((scenario, sender));
    }
    thread::spawn(move || {
        for (scenario, sender) in queue {
            if free.recv().is_err() {
                return;
            }
            let tokens = Arc::clone(&tokens);
            thread::spawn(move || {
                eprintln!("[starting a machine: {}]", scenario.name);
                // Nobody listens where an earlier step ended the program.
                let _ = sender.send(scenario.shown("demo", On::Firmware));
                let _ = tokens.send(());
            });
        }
    });
    outcomes
}

fn title(paint: &dyn Fn(&str, &str) -> String, number: usize, text: &str) {
    println!("\n{}", paint("1", &format!("{number}. {text}")));
}

fn fact(name: &str, value: &str) {
    println!("   {name:16} {value}");
}

/// Long digests cut to their beginning.
fn shortened(text: &str) -> String {
    machines::console::shortened(text)
}
