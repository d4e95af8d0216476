//! Modules that are taken out of the running kernel. These tests run on a stock kernel, whose filesystems are modules;
//! `kernels::filesystems_that_are_missing` shows the same on a kernel that has them built in.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::kmod;

use crate::kernels::missing;
use crate::lab;

/// Takes a module out of the kernel until the value is gone.
struct WithoutModule(PathBuf);

impl WithoutModule {
    fn new(name: &str) -> Self {
        let mut files = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|file| file.to_str().unwrap().ends_with(&format!("-{name}.ko"))).unwrap();
        let c_name = std::ffi::CString::new(name).unwrap();
        for _ in 0..100 {
            // What another test mounted may take a moment to go.
            match kmod::delete_module(&c_name, kmod::DeleteModuleFlags::O_NONBLOCK) {
                Ok(()) => return Self(file),
                Err(nix::errno::Errno::EWOULDBLOCK) => thread::sleep(Duration::from_millis(50)),
                Err(error) => panic!("{name}: {error}"),
            }
        }
        panic!("{name}: still in use");
    }
}

impl Drop for WithoutModule {
    fn drop(&mut self) {
        let file = fs::File::open(&self.0).unwrap();
        kmod::finit_module(&file, c"", kmod::ModuleInitFlags::empty()).unwrap();
    }
}

#[test]
fn that_are_not_in_the_initramfs() {
    for (module, symbol) in [("erofs", "CONFIG_EROFS_FS"), ("overlay", "CONFIG_OVERLAY_FS")] {
        lab::with("sha512", move |lab| {
            let _without = WithoutModule::new(module);
            lab.expect_refused(&lab.boot(), &missing(module, symbol));
        });
    }
}
