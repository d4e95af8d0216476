//! Both configuration files and the command line, up to the decision. The three stand in one input, with lines `----`
//! between them; what is missing is empty.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::cmdline::CommandLine;
use sealroot::ask::config::{Check, Config, KargPolicy, SecureBootPolicy};
use sealroot::ask::firmware::SecureBoot;
use sealroot::ask::policy::{self, Decision, Resolved};
use sealroot::refusal::Refusal;
use sealroot_fuzz::{bounded, check_message};

fuzz_target!(|input: &[u8]| {
    // What is no text never gets this far.
    let Ok(text) = str::from_utf8(input) else { return };
    let mut parts = text.splitn(3, "----\n");
    let mut next = || parts.next().unwrap_or_default();
    let (ours, theirs, line) = (next(), next(), next());
    bounded(ours.len(), 1024, || Config::on_refusal(ours));
    let line = CommandLine::split(line.as_bytes());
    let (Some(ours), Some(theirs)) =
        (parse(ours, Config::from_sealroot_toml), parse(theirs, Config::from_setup_root_conf))
    else {
        return;
    };
    // What is read of a broken file is read of a good one in the same way.
    let on_refusal = Config::on_refusal(text.split("----\n").next().unwrap_or_default()).policy;
    assert_eq!(on_refusal.on_failure, ours.policy.on_failure);
    assert_eq!(on_refusal.failure_delay, ours.policy.failure_delay);
    let resolved = Resolved::new(line.clone(), ours.clone(), theirs);
    let settings = resolved.settings();
    assert_eq!(*settings.karg.value(), ours.policy.karg.unwrap_or(KargPolicy::Require));
    assert_eq!(*settings.check.value(), ours.policy.check.unwrap_or(Check::Image));
    for secure_boot in [SecureBoot::Enforced, SecureBoot::Off, SecureBoot::Unsupported, SecureBoot::Unknown] {
        match policy::decide(&resolved, secure_boot, &[]) {
            Err(error) => check_message(&error),
            Ok(decision) => {
                let required = *settings.secure_boot.value() == SecureBootPolicy::Require;
                assert!(!required || secure_boot == SecureBoot::Enforced);
                check_decision(&decision, &line);
            }
        }
    }
});

fn parse(text: &str, parser: fn(&str) -> Result<Config, Refusal>) -> Option<Config> {
    match bounded(text.len(), 1024, || parser(text)) {
        Ok(config) => {
            // Another reader, so that nothing passes that is no TOML; and what may weaken a machine is really said. Only in a
            // table that nobody knows may something stand twice.
            let document: toml::Table = match text.parse() {
                Ok(document) => document,
                Err(_) if !config.unknown.is_empty() => return Some(config),
                Err(error) => panic!("what we accept is TOML: {error}"),
            };
            let is_theirs = config.unknown.iter().any(|name| name == "policy");
            let said = |key: &str| document.get("policy").filter(|_| !is_theirs).and_then(|policy| policy.get(key));
            assert_eq!(config.policy.karg.map(KargPolicy::name), said("karg").and_then(toml::Value::as_str));
            assert_eq!(config.policy.check.map(Check::name), said("check").and_then(toml::Value::as_str));
            let transient = document.get("root").and_then(|root| root.get("transient")).and_then(toml::Value::as_bool);
            assert_eq!(config.root.transient, transient);
            Some(config)
        }
        Err(error) => {
            check_message(&error);
            None
        }
    }
}

fn check_decision(decision: &Decision, line: &CommandLine) {
    let is_asked = ["composefs", "composefs.digest"].iter().any(|key| line.values(key).next().is_some());
    match decision {
        Decision::Seal(policy) => assert!(is_asked && !policy.images().is_empty()),
        Decision::NothingToDo(settings) => {
            assert!(!is_asked && *settings.karg.value() == KargPolicy::Optional);
        }
    }
}
