//! A repository with something hostile in one of its places: the command says what is wrong with it, and a boot is
//! refused, or sealed without it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::hostile::{Hostile, NO_FILES};
use crate::lab::{self, Lab};
use crate::limited;

/// The parts of a repository, from its metadata to an object: the image itself, one that it needs, and their folders.
fn parts(lab: &Lab) -> Vec<PathBuf> {
    let repository = lab.path("composefs");
    let image_name = repository.join("images").join(lab.value("TINY"));
    let image = fs::canonicalize(&image_name).unwrap();
    let object = objects(&repository).into_iter().find(|object| *object != image).unwrap();
    vec![
        repository.join("meta.json"),
        repository.join("images"),
        image_name,
        repository.join("objects"),
        object.parent().unwrap().into(),
        object,
        image,
    ]
}

fn objects(repository: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut objects: Vec<_> = entries(&repository.join("objects")).iter().flat_map(|folder| entries(folder)).collect();
    objects.sort();
    objects
}

/// Puts each hostile thing in the place of each part, one after the other.
fn for_every_part(lab: &Lab, files: &[Hostile], test: impl Fn(&str)) {
    let aside = lab.path("aside");
    for part in parts(lab) {
        fs::rename(&part, &aside).unwrap();
        for hostile in files {
            hostile.put(&part, &[]);
            test(&format!("{hostile:?} at {}", part.display()));
            hostile.remove(&part);
        }
        fs::rename(&aside, &part).unwrap();
    }
}

/// What no reader comes to the end of is only for those that stop before.
const ENDLESS: [Hostile; 1] = [Hostile::Huge(1 << 40)];

#[test]
fn asked_about() {
    lab::with_disk(Disk::Tiny, "sha512", |lab| {
        let repository = lab.path("composefs");
        let (repository, digest) = (repository.to_str().unwrap(), lab.value("TINY"));
        for_every_part(lab, &NO_FILES, |what| {
            let status = limited::sealroot(&["verify", "--repo", repository, "--all", "--data", "--list-unused"]);
            assert!(status == 1 || what.contains("meta.json"), "{what}: {status}");
            for arguments in [
                &["verify", "--repo", repository, digest][..],
                &["enable", "--repo", repository],
                &["inspect", "--list", "--repo", repository, digest],
                &["karg", "--repo", repository, digest],
                &["probe", "--repo", repository],
            ] {
                limited::sealroot(arguments);
            }
        });
    });
}

#[test]
fn booted() {
    lab::with_disk(Disk::Tiny, "sha512", |lab| {
        lab.command_line(&lab.karg("TINY"));
        for check in ["image", "data"] {
            lab.config(&format!("[policy]\ncheck = \"{check}\"\n[etc]\nmount = \"none\"\n[var]\nmount = \"none\"\n"));
            for_every_part(lab, &[&NO_FILES[..], &ENDLESS].concat(), |what| {
                let run = lab.boot();
                if run.status == Some(0) {
                    lab.expect_sealed(&run, lab.value("TINY"));
                    assert!(check == "image" || what.contains("meta.json"), "{what}: {run:?}");
                } else {
                    lab.expect_refused_somewhere(&run);
                }
                lab.forget();
            });
        }
    });
}
