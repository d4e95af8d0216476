//! Has the linker leave out what differs from build to build: the time, and the name and identity of a file for debuggers.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["/Brepro", "/DEBUG:NONE"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
