//! What `sealroot uki` says of unified kernel images that `ukify` made, good ones and such as a builder's mistake
//! would make.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::command::{answer, path, sealroot};
use crate::builders::{built, scratch, values};
use crate::trial::{Need, Trial};

/// The repository, and what is made for one test.
struct Lab {
    repository: PathBuf,
    /// Of the image with SHA-512 in the format v1.
    digest: String,
    scratch: TempDir,
}

impl Lab {
    fn new() -> Result<Self> {
        let repository = built("repository", &[])?;
        let digest = values(&repository.join("env"))?.remove("SHA512_V1").context("qemu/repository: no SHA512_V1")?;
        Ok(Self { repository, digest, scratch: scratch()? })
    }

    /// The kernel argument, with this in front of the digest's own part.
    fn karg(&self, mark: &str) -> String {
        format!("composefs.digest={mark}v1-sha512-12:{}", self.digest)
    }

    fn repository(&self, algorithm: &str) -> Result<String> {
        text(&self.repository.join(algorithm).join("composefs"))
    }

    /// As messages name the image.
    fn image(&self) -> String {
        format!("v1 sha512:{}", self.digest)
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

/// What is made, asked and expected of one image.
struct Judged {
    name: &'static str,
    /// The options and kernel arguments of `qemu/uki`.
    made: fn(&Lab) -> Result<Vec<String>>,
    /// The algorithm of the repository that is asked for the image.
    repository: Option<&'static str>,
    /// Whether what is open counts.
    options: &'static [&'static str],
    status: i32,
    expect: Expect,
}

enum Expect {
    /// Whether it is signed, its image, and which bypasses; no problems.
    Bypasses { signed: bool, bypasses: &'static [&'static str] },
    /// This problem and no other.
    Problem(fn(&Lab) -> Result<String>),
    /// A problem that starts so, before what was expected.
    ProblemBefore(&'static str, &'static str),
}

use Expect::{Bypasses, Problem, ProblemBefore};

fn with_karg(options: &[&str], lab: &Lab) -> Result<Vec<String>> {
    Ok(options.iter().map(ToString::to_string).chain([lab.karg("")]).collect())
}

const SEALED: Judged = Judged {
    name: "sealed",
    made: |lab| with_karg(&["--manifest"], lab),
    repository: Some("sha512"),
    options: &[],
    status: 0,
    expect: Bypasses { signed: true, bypasses: &LEFT },
};

/// What is left open with a persistent /etc and /var.
const LEFT: [&str; 2] = ["writable-etc", "writable-var"];

const JUDGED: &[Judged] = &[
    SEALED,
    Judged { name: "sealed_but_strict", options: &["--strict"], status: 1, ..SEALED },
    Judged { name: "strict_but_for_one", options: &["--strict", "--accept", "writable-var"], status: 1, ..SEALED },
    Judged {
        name: "strict_but_for_both",
        options: &["--strict", "--accept", "writable-var", "--accept", "writable-etc"],
        ..SEALED
    },
    Judged {
        name: "systemd_stub",
        made: |lab| with_karg(&["--stub", "systemd"], lab),
        expect: Bypasses { signed: true, bypasses: &["writable-etc", "writable-var", "stub-command-line"] },
        ..SEALED
    },
    Judged {
        name: "without_its_image",
        repository: Some("sha256"),
        status: 1,
        expect: Problem(|lab| {
            let (digest, repository) = (&lab.digest, lab.repository("sha256")?);
            let found = "No such file or directory (os error 2)";
            Ok(format!("image 'images/{digest}': expected in the repository '{repository}': {found}"))
        }),
        ..SEALED
    },
    Judged {
        name: "unsigned",
        made: |lab| with_karg(&["--unsigned"], lab),
        repository: None,
        status: 1,
        expect: Bypasses { signed: false, bypasses: &LEFT },
        ..SEALED
    },
    Judged {
        name: "with_bypasses",
        made: |lab| with_karg(&["--open"], lab),
        repository: None,
        options: &["--strict"],
        status: 1,
        expect: Bypasses {
            signed: true,
            bypasses: &[
                "imported-credentials",
                "metadata-service",
                "fstab",
                "initrd-shell",
                "hibernation",
                "extensions",
                "other-partitions",
                "factory-reset",
                "disk-errors",
                "first-boot",
                "shutdown-initrd",
                "writable-etc",
                "writable-var",
            ],
        },
    },
    Judged {
        name: "without_the_boot_program",
        made: |lab| with_karg(&["--without", "usr/lib/sealroot/sealroot-initrd"], lab),
        repository: None,
        status: 1,
        expect: Problem(|_| {
            Ok("initramfs: expected the boot program '/usr/lib/sealroot/sealroot-initrd', found none".into())
        }),
        ..SEALED
    },
    Judged {
        name: "without_the_gate",
        made: |lab| {
            with_karg(&["--without", "usr/lib/systemd/system/initrd-switch-root.service.d/50-sealroot.conf"], lab)
        },
        repository: None,
        status: 1,
        expect: Problem(|_| {
            Ok("initramfs: expected a unit 'initrd-switch-root.service.d/50-sealroot.conf', found none".into())
        }),
        ..SEALED
    },
    Judged {
        name: "with_a_wrong_config",
        made: |lab| {
            let config = lab.scratch.path().join("config.toml");
            fs::write(&config, "[policy]\nfailure-delay = 0\nkrag = \"optional\"\n")?;
            with_karg(&["--config", &text(&config)?], lab)
        },
        repository: None,
        status: 1,
        expect: ProblemBefore("/usr/lib/sealroot/sealroot.toml:3: unknown key 'policy.krag'", ", expected"),
        ..SEALED
    },
    Judged {
        name: "without_a_karg",
        made: |_| Ok(vec!["quiet".into()]),
        repository: None,
        status: 1,
        expect: Problem(|_| {
            Ok("kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither".into())
        }),
        ..SEALED
    },
    Judged {
        name: "unverified",
        made: |lab| Ok(vec![lab.karg("?")]),
        repository: None,
        status: 1,
        expect: Problem(|_| {
            let expected = "verification to be required (policy.unverified = \"refuse\")";
            Ok(format!("kernel command line: expected {expected}, found '?' in karg 'composefs.digest'"))
        }),
        ..SEALED
    },
];

type Test = Box<dyn FnOnce() -> Result<String> + Send>;

/// All tests.
pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: Test| Trial::new(format!("uki::{name}"), test).needs(&[Need::Root]);
    let judged = JUDGED.iter().map(|judged| trial(judged.name, Box::new(|| judge(judged))));
    let unreadable = [
        trial("truncated", Box::new(truncated)),
        trial("that_is_an_addon", Box::new(that_is_an_addon)),
        trial("that_is_no_pe", Box::new(that_is_no_pe)),
    ];
    judged.chain(unreadable).collect()
}

fn made(arguments: &[String]) -> Result<String> {
    text(&built("uki", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?)
}

fn judge(judged: &Judged) -> Result<String> {
    let lab = Lab::new()?;
    let uki = made(&(judged.made)(&lab)?)?;
    let repository = judged.repository.map(|algorithm| lab.repository(algorithm)).transpose()?;
    let mut arguments = vec!["uki"];
    arguments.extend(judged.options);
    arguments.extend(repository.iter().flat_map(|repository| ["--repo", repository]));
    arguments.push(&uki);
    let answer = answer(judged.status, &arguments)?;
    let result = &answer["result"];
    let of_profiles = |field: &str| {
        let lists = result["profiles"].as_array().into_iter().flatten().map(|profile| &profile[field]);
        lists.cloned().collect::<Vec<Value>>()
    };
    let problems = || of_profiles("problems").iter().filter_map(Value::as_array).flatten().cloned().collect::<Vec<_>>();
    let (expected, found) = match &judged.expect {
        Bypasses { signed, bypasses } => (
            json!([signed, [[lab.image()]], [bypasses], [[]]]),
            json!([result["signed"], of_profiles("images"), of_profiles("bypasses"), of_profiles("problems")]),
        ),
        Problem(problem) => (json!([problem(&lab)?]), json!(problems())),
        ProblemBefore(start, end) => {
            let cut = |problem: &Value| problem.as_str().and_then(|text| Some(text.split_once(end)?.0.to_owned()));
            (json!([start]), json!(problems().iter().map(cut).collect::<Vec<_>>()))
        }
    };
    ensure!(expected == found, "answer: expected {expected}\n        found    {found}");
    Ok(String::new())
}

/// Fails unless the command fails with this message and says nothing else.
fn fails(uki: &str, message: &str) -> Result<String> {
    let said = sealroot(&["uki", uki])?;
    ensure!(said.status == Some(1), "status: expected 1, found {:?}", said.status);
    ensure!(said.out.is_empty(), "output: expected none, found {}", said.out);
    let expected = format!("sealroot uki: '{uki}': {message}\n");
    ensure!(said.err == expected, "message: expected {expected}         found    {}", said.err);
    Ok(message.to_owned())
}

fn truncated() -> Result<String> {
    let lab = Lab::new()?;
    let whole = fs::read(made(&(SEALED.made)(&lab)?)?)?;
    let file = lab.scratch.path().join("truncated.efi");
    fs::write(&file, whole.get(..5_000_000).context("the UKI: expected more than 5 MB")?)?;
    fails(&text(&file)?, "section '.linux': expected inside the file: Invalid PE section offset or size")
}

fn that_is_an_addon() -> Result<String> {
    let addon = text(&built("uki", &["--addon", "quiet"])?)?;
    fails(&addon, "expected a unified kernel image, found a PE executable without a section '.initrd'")
}

fn that_is_no_pe() -> Result<String> {
    fails(&text(&path()?)?, "expected a PE executable for a 64-bit machine: Invalid DOS magic")
}
