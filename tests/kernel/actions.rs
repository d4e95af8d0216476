//! What follows a refusal. `reboot(2)` and the waiting before it are noted by the tests, not made.

use crate::kernel::Running;
use crate::lab::{self, Lab};

const NO_VERDICT: &str = "earlier-run: expected a verdict, found none: the boot program was killed, or the physical root \
                          was never mounted";
const NO_REPORT: &str = "gate: no report of a sealed root: the boot program did not run, or did not finish";

fn no_karg(lab: &Lab) -> &'static str {
    lab.command_line("quiet");
    "ask: kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither"
}

#[test]
fn every_one_of_them() {
    for (config, action, delay) in [
        ("on-failure = \"emergency\"\nfailure-delay = 3", "emergency", 0),
        ("on-failure = \"reboot\"\nfailure-delay = 0", "reboot", 0),
        ("on-failure = \"poweroff\"", "poweroff", 10),
        ("on-failure = \"halt\"\nfailure-delay = 255", "halt", 255),
        // Without firmware there is no boot loader that counts tries.
        ("on-failure = \"auto\"\nfailure-delay = 1", "auto", 1),
    ] {
        lab::with("sha512", move |lab| {
            lab.config(&format!("[policy]\n{config}\n"));
            let message = no_karg(lab);
            lab.expect_refused_and(&lab.boot(), message, action, delay);
        });
    }
}

/// A boot that is refused by another command of the program ends in the same way.
#[test]
fn after_every_command() {
    for (arguments, message) in [(&["refused"], NO_VERDICT), (&["gate"], NO_REPORT)] {
        lab::with("sha512", move |lab| {
            lab.config("[policy]\non-failure = \"reboot\"\nfailure-delay = 2\n");
            lab.mount_sysroot();
            lab.expect_refused_and(&lab.run(arguments), message, "reboot", 2);
        });
    }
}

/// Who cannot read what to do does what is safe, and whatever else is wrong changes nothing of it.
#[test]
fn with_a_config_that_cannot_be_used() {
    let ours = "ask: /usr/lib/sealroot/sealroot.toml";
    let theirs = "ask: /usr/lib/composefs/setup-root-conf.toml";
    for (config, other, message, action, delay) in [
        (
            "[policy]\non-failure = \"reboot\"\nfailure-delay = 256\n",
            "",
            format!("{ours}:3: policy.failure-delay: expected an integer from 0 to 255, found 256"),
            "reboot",
            10,
        ),
        (
            "[policy]\non-failure = \"again\"\nfailure-delay = 3\n",
            "",
            format!(
                "{ours}:2: policy.on-failure: expected one of 'auto', 'emergency', 'reboot', 'poweroff', 'halt', found 'again'"
            ),
            "auto",
            3,
        ),
        (
            "[policy]\non-failure = \"reboot\"\non-failure = \"poweroff\"\n",
            "",
            format!("{ours}:3: policy.on-failure: set twice"),
            "auto",
            10,
        ),
        (
            "layout = 7\n[policy]\non-failure = \"poweroff\"\nfailure-delay = 3\n",
            "",
            format!("{ours}:1: layout: expected one of 'composefs', 'bootc', found 7"),
            "poweroff",
            3,
        ),
        (
            "[policy]\non-failure = \"poweroff\"\nfailure-delay = 3\n",
            "[etc]\nmount = 7\n",
            format!("{theirs}:2: etc.mount: expected one of 'overlay', 'bind', 'transient', 'none', found 7"),
            "poweroff",
            3,
        ),
    ] {
        lab::with("sha512", move |lab| {
            lab.config(config);
            lab.setup_root_conf(other);
            lab.expect_refused_and(&lab.boot(), &message, action, delay);
        });
    }
}

/// A panic of the program, a signal or a time-out: the unit for failures starts the program anew, which finds no verdict.
#[test]
fn of_a_boot_that_was_sealed_already() {
    lab::with("sha512", |lab| {
        lab.config("[policy]\non-failure = \"poweroff\"\nfailure-delay = 1\n");
        lab.expect_sealed(&lab.boot(), lab.digest());
        lab.expect_refused_and(&lab.run_on(&mut Running, &["refused"]), NO_VERDICT, "poweroff", 1);
    });
}
