//! Watches the console of a boot with a clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use machines::process::{Listener, Next};

/// What a boot took, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// The release of its kernel.
    pub kernel: String,
    /// The figures, in the order of [`super::rows::FIGURES`].
    pub seconds: [f64; 5],
}

/// Hears a console and notes when the root's systemd first spoke.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    text: String,
    seen: usize,
    leaving: bool,
    switched: Option<Duration>,
}

impl Watch {
    /// Begins now, with the machine's start.
    pub fn new() -> Self {
        Self { started: Instant::now(), text: String::new(), seen: 0, leaving: false, switched: None }
    }

    fn hear(&mut self, text: &str, at: Duration) {
        self.text.push_str(text);
        let end = self.text.rfind('\n').map_or(0, |end| end + 1);
        for line in self.text[self.seen.min(end)..end].lines() {
            self.leaving |= line.contains("Starting initrd-switch-root.service");
            // What PID 1 of the root says first.
            let speaks = line.contains("systemd[1]: systemd ") && line.contains(" running in system mode");
            if self.leaving && speaks {
                self.switched.get_or_insert(at);
            }
        }
        self.seen = end;
    }

    /// What it took, where the system came up from this source.
    ///
    /// # Errors
    /// It did not.
    pub fn boot(&self, source: &str) -> Result<Boot> {
        self.figures(source).with_context(|| {
            let lines: Vec<&str> = self.text.lines().collect();
            format!("a boot from '{source}' that ended with:\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
        })
    }

    fn figures(&self, source: &str) -> Result<Boot> {
        let switched = self.switched.context("expected to hear the root's systemd, heard nothing")?;
        // Behind a login prompt, often. The command line, which the kernel prints, has such words too; the last ones count.
        let (_, said) = self.text.rsplit_once("boot-times: ").context("expected a line of boot times, found none")?;
        let line = said.lines().next().unwrap_or_default();
        let values: BTreeMap<_, _> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
        let value = |name: &str| values.get(name).copied().with_context(|| format!("expected {name}=, found '{line}'"));
        let number =
            |name: &str| -> Result<f64> { value(name)?.parse().with_context(|| format!("{name} in '{line}'")) };
        let root = value("root")?;
        ensure!(root == source, "the source of /: expected {source}, found {root}");
        let userspace = number("UserspaceTimestampMonotonic")? / 1e6;
        let multi_user = number("multi-user")? / 1e6;
        ensure!(multi_user > 0.0, "expected multi-user.target to be reached, found that it was not");
        let seconds = [
            switched.as_secs_f64(),
            userspace,
            userspace - number("InitRDTimestampMonotonic")? / 1e6,
            multi_user,
            number("to")? - number("from")?,
        ];
        Ok(Boot { kernel: value("kernel")?.to_owned(), seconds })
    }
}

impl Listener for Watch {
    fn console(&mut self, text: &str) -> Next {
        self.hear(text, self.started.elapsed());
        Next::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: [(&str, u64); 5] = [
        ("[ 0.0] Command line: systemd.run=\"echo boot-times: root=$$(findmnt)\"\n[ 1] systemd[1]: systemd 257 ", 1),
        ("running in system mode (+PAM)\n", 2),
        ("         Starting initrd-switch-root.service - Switch Root...\n[ 9] systemd[1]: systemd 257 running", 8),
        (" in system mode (+PAM)\n[ 11] systemd[1]: systemd 257 running in system mode\nsealed login: boot-times: ", 9),
        (
            "kernel=6.12.1 root=composefs:ab from=20.5 to=23.0 InitRDTimestampMonotonic=3000000 \
             UserspaceTimestampMonotonic=8000000 multi-user=15500000\n[ 30] reboot: Power down\n",
            20,
        ),
    ];

    fn watch(console: &[(&str, u64)]) -> Watch {
        let mut watch = Watch::new();
        for (text, second) in console {
            watch.hear(text, Duration::from_secs(*second));
        }
        watch
    }

    #[test]
    fn a_boot_has_five_figures() {
        let boot = watch(&CONSOLE).boot("composefs:ab").unwrap();
        assert_eq!(boot, Boot { kernel: "6.12.1".into(), seconds: [9.0, 8.0, 5.0, 15.5, 2.5] });
    }

    #[test]
    fn another_root_is_no_boot() {
        let error = format!("{:#}", watch(&CONSOLE).boot("/dev/vda2").unwrap_err());
        assert!(error.contains("expected /dev/vda2, found composefs:ab"), "{error}");
    }

    #[test]
    fn a_boot_that_did_not_end_is_none() {
        for console in [&CONSOLE[..2], &CONSOLE[..4], &[CONSOLE[0], CONSOLE[4]]] {
            assert!(watch(console).boot("composefs:ab").is_err());
        }
        let mut console = CONSOLE;
        let zero = console[4].0.replace("multi-user=15500000", "multi-user=0");
        console[4].0 = &zero;
        assert!(watch(&console).boot("composefs:ab").is_err());
    }
}
