//! Which folder of the library may use which: those to its right, and none to its left.

use std::fs;
use std::path::Path;

/// From the one that uses all others to the one that uses none.
const FOLDERS: [&str; 8] = ["boot", "steps", "ask", "disk", "kernel", "formats", "verity", "sys"];

#[test]
fn no_folder_uses_one_to_its_left() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (place, folder) in FOLDERS.iter().enumerate() {
        each_file(&source.join(folder), &mut |path| {
            let text = fs::read_to_string(path).unwrap();
            for left in FOLDERS[..place].iter().filter(|left| text.contains(&format!("crate::{left}"))) {
                wrong.push(format!("{} uses {left}", path.display()));
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A folder that the list does not have is in no order.
    for entry in fs::read_dir(&source).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(name == "bin" || FOLDERS.contains(&name.as_str()), "{name}");
    }
}

fn each_file(path: &Path, each: &mut dyn FnMut(&Path)) {
    if !path.is_dir() {
        return each(path);
    }
    fs::read_dir(path).unwrap().for_each(|entry| each_file(&entry.unwrap().path(), each));
}
