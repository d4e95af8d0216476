//! An image with sealroot's boot stub: as a file, as the firmware loads it, and beside the command's reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::formats::uki::pe::Uki;
use sealroot_fuzz::bounded;
use sealroot_stub_rules::Payload;
use sealroot_stub_rules::kernel::Kernel;
use sealroot_stub_rules::payload::Layout;
use sealroot_stub_rules::pe::{Machine, Pe};

/// No image in memory is larger here, in bytes.
const MAX_MEMORY: u32 = 1 << 20;

fuzz_target!(|content: &[u8]| {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        if let Ok(kernel) = Kernel::parse(content, machine) {
            load(&kernel);
        }
    }
    let payload = match bounded(content.len(), 64, || Payload::read(content, Layout::File)) {
        Ok(payload) => payload,
        Err(problem) => {
            let text = problem.to_string();
            assert!(!text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
            return;
        }
    };
    let line = payload.command_line();
    assert!(!line.is_empty() && line.len() <= 2047 && line.iter().all(|byte| matches!(byte, b' '..=b'~')));
    load(&payload.kernel());
    if let Some(memory) = loaded(content) {
        let in_memory = Payload::read(&memory, Layout::Memory).expect("the same as in the file");
        assert!(payload.measured().eq(in_memory.measured()));
        assert_eq!((line, payload.initrd()), (in_memory.command_line(), in_memory.initrd()));
    }
    // What the command's reader takes, it reads in the same way.
    if let Ok(uki) = Uki::parse(content) {
        assert_eq!(uki.profiles.len(), 1);
        for (name, part) in payload.measured() {
            assert_eq!(uki.profiles[0][name], part);
        }
    }
});

fn load(kernel: &Kernel<'_>) {
    if kernel.size() <= MAX_MEMORY {
        let mut memory = vec![0xff; kernel.size() as usize];
        kernel.load(&mut memory).expect("what was parsed can be loaded");
        assert!(kernel.entry_point() < kernel.size());
        assert!(kernel.code().all(|span| span.start < memory.len()));
    }
}

/// As firmware loads a file: headers, then the sections in their order. `None` where it would load nothing.
///
/// Source: `PeCoffLoaderLoadImage` of edk2.
fn loaded(file: &[u8]) -> Option<Vec<u8>> {
    let pe = Pe::parse(file).ok().filter(|pe| pe.image_size <= MAX_MEMORY)?;
    let mut memory = vec![0; pe.image_size as usize];
    let headers = pe.headers_size as usize;
    memory.get_mut(..headers)?.copy_from_slice(file.get(..headers)?);
    for section in pe.sections() {
        let size = match section.virtual_size {
            0 => section.raw_size,
            size => size.min(section.raw_size),
        };
        let from = file.get(section.raw_address as usize..)?.get(..size as usize)?;
        let to = memory.get_mut(section.virtual_address as usize..)?;
        to.get_mut(..size.max(section.virtual_size) as usize)?.get_mut(..size as usize)?.copy_from_slice(from);
    }
    Some(memory)
}
