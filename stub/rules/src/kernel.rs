//! The kernel in an image, and how it is loaded.
//!
//! It is a PE executable, and the stub loads it itself. The firmware has verified the whole image, of which the kernel is a part. So
//! the kernel needs no signature of its own, and must not have one that the firmware accepts: whoever cuts it out could start it
//! with any command line and initramfs.

use crate::pe::{Machine, Pe, part};
use crate::problem::Problem;

/// No kernel takes more memory, in bytes.
const MAX_SIZE: u32 = 1 << 30;
/// What the firmware's memory comes in, in bytes, and the largest alignment that arm64 asks for.
pub const PAGE: u32 = 4096;
const MAX_ALIGNMENT: u32 = 64 << 10;
/// What a compressed arm64 kernel has behind `MZ` and two zeros.
const ZBOOT: &[u8] = b"zimg";

/// A kernel that can be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    file: &'a [u8],
    pe: Pe<'a>,
}

/// A stretch of memory: offset and length in bytes, both multiples of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From the start of the kernel.
    pub start: usize,
    /// To its end.
    pub length: usize,
}

fn wrong<T>(expected: &'static str, found: &'static str) -> Result<T, Problem> {
    Err(Problem::Kernel(expected, found))
}

impl<'a> Kernel<'a> {
    /// Looks at a kernel for a machine.
    ///
    /// # Errors
    /// It is none that [`load`](Self::load) can load.
    pub fn parse(file: &'a [u8], machine: Machine) -> Result<Self, Problem> {
        if file.get(4..8) == Some(ZBOOT) {
            return wrong("an image that is not compressed", "one for EFI zboot");
        }
        let pe = match Pe::parse(file) {
            Ok(pe) => pe,
            Err(Problem::Headers(found)) => return wrong("a PE executable", found),
            Err(other) => return Err(other),
        };
        if pe.machine != machine {
            return Err(Problem::KernelMachine { expected: machine, found: pe.machine });
        }
        if pe.base_relocations != 0 {
            return wrong("no base relocations", "some");
        }
        let alignment = pe.section_alignment;
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return wrong("sections aligned to 64 KiB at most", "another alignment");
        }
        if pe.image_size == 0 || pe.image_size > MAX_SIZE || pe.headers_size > pe.image_size {
            return wrong("at most 1 GiB in memory", "another size");
        }
        if part(file, 0, pe.headers_size).is_none() {
            return wrong("headers inside the file", "a file that is shorter");
        }
        let mut entry_is_code = false;
        let mut end = pe.headers_size;
        for section in pe.sections() {
            let section_end = section.virtual_address.checked_add(section.virtual_size);
            let copied = section.raw_size.min(section.virtual_size);
            // In order and one behind the other, so that none overwrites what another put there.
            if section.relocations != 0
                || section.virtual_address < end
                || section_end.is_none_or(|end| end > pe.image_size)
                || part(file, section.raw_address, copied).is_none()
            {
                return wrong("sections inside the file and the image", "another one");
            }
            end = section_end.unwrap_or(u32::MAX);
            entry_is_code |= section.is_code() && (section.virtual_address..end).contains(&pe.entry_point);
        }
        if !entry_is_code {
            return wrong("an entry point in its code", "one elsewhere");
        }
        Ok(Self { file, pe })
    }

    /// How much memory it takes, in bytes.
    pub fn size(&self) -> u32 {
        self.pe.image_size
    }

    /// What its address in memory is a multiple of: a page, or more.
    pub fn alignment(&self) -> u32 {
        self.pe.section_alignment.max(PAGE)
    }

    /// Where it starts, from its start in memory.
    pub fn entry_point(&self) -> u32 {
        self.pe.entry_point
    }

    /// Writes it into memory of its size, all of which is overwritten.
    ///
    /// # Errors
    /// The memory has another size.
    pub fn load(&self, memory: &mut [u8]) -> Result<(), Problem> {
        if u32::try_from(memory.len()) != Ok(self.pe.image_size) {
            return wrong("memory of its size", "another size");
        }
        memory.fill(0);
        let headers = (0, 0, self.pe.headers_size);
        let sections = self
            .pe
            .sections()
            .map(|section| (section.virtual_address, section.raw_address, section.raw_size.min(section.virtual_size)));
        for (to, from, length) in core::iter::once(headers).chain(sections) {
            let source = part(self.file, from, length);
            let target = usize::try_from(to).ok().and_then(|to| memory.get_mut(to..));
            let target = target.and_then(|target| target.get_mut(..usize::try_from(length).ok()?));
            match (source, target) {
                (Some(source), Some(target)) => target.copy_from_slice(source),
                _ => return wrong("sections inside the file and the image", "another one"),
            }
        }
        Ok(())
    }

    /// What of it is code, for firmware that keeps code and data apart; nothing if the kernel cannot bear that.
    pub fn code(&self) -> impl Iterator<Item = Span> + use<'a> {
        let apart = self.pe.nx_compatible && self.pe.section_alignment >= PAGE;
        self.pe.sections().filter(move |section| apart && section.is_code()).filter_map(|section| {
            let length = usize::try_from(section.virtual_size.checked_next_multiple_of(PAGE)?).ok()?;
            Some(Span { start: usize::try_from(section.virtual_address).ok()?, length })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{Sample, kernel};

    fn reason(sample: &Sample) -> String {
        Kernel::parse(&sample.build(), Machine::X86_64).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn loaded_as_its_headers_say() {
        let file = kernel().build();
        let kernel = Kernel::parse(&file, Machine::X86_64).unwrap();
        let mut memory = vec![0xff; kernel.size() as usize];
        kernel.load(&mut memory).unwrap();
        assert_eq!(&memory[..2], b"MZ");
        let entry = kernel.entry_point() as usize;
        assert_eq!(&memory[entry..entry + 5], b"setup");
        // What a section has beyond its content is zero.
        assert!(memory[entry + 5..entry + 0x1000].iter().all(|byte| *byte == 0));
        assert!(kernel.load(&mut memory[1..]).is_err());
        let code: Vec<_> = kernel.code().collect();
        assert_eq!(code, [Span { start: 0x1000, length: 0x1000 }, Span { start: 0x2000, length: 0x1000 }]);
    }

    #[test]
    fn what_is_no_kernel() {
        let zboot = [b"MZ\0\0zimg".to_vec(), vec![0; 64]].concat();
        let problem = Kernel::parse(&zboot, Machine::Aarch64).map(|_| ()).unwrap_err();
        assert_eq!(problem.to_string(), "kernel: expected an image that is not compressed, found one for EFI zboot");
        let file = kernel().build();
        let problem = Kernel::parse(&file, Machine::Aarch64).map(|_| ()).unwrap_err();
        assert_eq!(problem.to_string(), "kernel: expected one for aarch64, found one for x86_64");
        assert_eq!(reason(&kernel().base_relocations(8)), "kernel: expected no base relocations, found some");
        let entry = "kernel: expected an entry point in its code, found one elsewhere";
        // In the headers, in data, behind the end.
        for address in [0, 0x3000, 0x10_0000] {
            assert_eq!(reason(&kernel().entry(address)), entry);
        }
    }

    #[test]
    fn sections_of_a_kernel() {
        let problem = "kernel: expected sections inside the file and the image, found another one";
        for (field, value) in [
            (8, 0x10_0000),
            (8, u32::MAX),
            (12, 0),
            (12, 0x1000),
            (12, u32::MAX),
            (16, u32::MAX),
            (20, u32::MAX),
            (32, 1),
        ] {
            let sample = kernel().patched(".data", 8, 0x10).patched(".data", field, value);
            let found = Kernel::parse(&sample.build(), Machine::X86_64).map(|_| ());
            // A size in the file that is larger than the one in memory is rounding.
            if field != 16 {
                assert_eq!(found.unwrap_err().to_string(), problem, "{field} {value:#x}");
            }
        }
    }

    #[test]
    fn sizes_and_alignments() {
        for size in [0, 0x10, u32::MAX] {
            assert_eq!(reason(&kernel().size(size)), "kernel: expected at most 1 GiB in memory, found another size");
        }
        for alignment in [0, 3, 0x2_0000] {
            let problem = "kernel: expected sections aligned to 64 KiB at most, found another alignment";
            assert_eq!(reason(&kernel().alignment(alignment)), problem);
        }
    }
}
