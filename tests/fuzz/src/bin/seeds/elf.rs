//! ELF headers, a note and an interpreter's name behind them, and nothing else.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::bytes::{Bytes, Order};

const INTERPRETER: &str = "/lib/ld.so\0";

pub fn write(folder: &Path) -> Result {
    for (order, encoding, name) in [(Order::Little, 1, "l"), (Order::Big, 2, "b")] {
        fs::write(folder.join(format!("wide-{name}")), wide(order, encoding))?;
        fs::write(folder.join(format!("narrow-{name}")), narrow(order, encoding))?;
    }
    fs::write(folder.join("script"), "#!/bin/sh\n")?;
    Ok(())
}

fn start(order: Order, class: u64, encoding: u64) -> Bytes {
    let mut file = Bytes::new(order);
    // Class, encoding, version, ABI, padding.
    file.text("\x7fELF").fields(&[(1, class), (1, encoding), (1, 1), (1, 0), (8, 0)]);
    file
}

fn wide(order: Order, encoding: u64) -> Vec<u8> {
    let length = INTERPRETER.len() as u64;
    let mut file = start(order, 2, encoding);
    // Type, machine, version, entry, program headers, section headers, flags; sizes and counts.
    file.fields(&[(2, 3), (2, 62), (4, 1), (8, 0), (8, 64), (8, 0), (4, 0)]);
    file.fields(&[(2, 64), (2, 56), (2, 2), (2, 0), (2, 0), (2, 0)]);
    // Type, flags, offset, two addresses, two sizes, alignment: of a note, and of the interpreter's name.
    file.fields(&[(4, 4), (4, 4), (8, 0), (8, 0), (8, 0), (8, 0), (8, 0), (8, 4)]);
    file.fields(&[(4, 3), (4, 4), (8, 176), (8, 0), (8, 0), (8, length), (8, 0), (8, 1)]);
    file.text(INTERPRETER);
    file.content
}

fn narrow(order: Order, encoding: u64) -> Vec<u8> {
    let length = INTERPRETER.len() as u64;
    let mut file = start(order, 1, encoding);
    file.fields(&[(2, 2), (2, 3), (4, 1), (4, 0), (4, 52), (4, 0), (4, 0)]);
    file.fields(&[(2, 52), (2, 32), (2, 1), (2, 0), (2, 0), (2, 0)]);
    // Type, offset, two addresses, two sizes, flags, alignment.
    file.fields(&[(4, 3), (4, 84), (4, 0), (4, 0), (4, length), (4, 0), (4, 4), (4, 1)]);
    file.text(INTERPRETER);
    file.content
}
