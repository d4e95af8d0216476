//! What sealroot puts into an initramfs, beside the boot program.

/// Where units are.
pub const UNITS: &str = "usr/lib/systemd/system";

/// The units that hold it all together, as they are installed.
pub const SHIPPED: [(&str, &str); 6] = [
    ("sealroot.service", include_str!("../../../systemd-units/sealroot.service")),
    ("sealroot-guard.service", include_str!("../../../systemd-units/sealroot-guard.service")),
    ("sealroot-refused.service", include_str!("../../../systemd-units/sealroot-refused.service")),
    (
        "initrd-switch-root.service.d/50-sealroot.conf",
        include_str!("../../../systemd-units/initrd-switch-root.service.d/50-sealroot.conf"),
    ),
    ("sysroot.mount.d/50-sealroot.conf", include_str!("../../../systemd-units/sysroot.mount.d/50-sealroot.conf")),
    (
        "systemd-fsck-root.service.d/50-sealroot.conf",
        include_str!("../../../systemd-units/systemd-fsck-root.service.d/50-sealroot.conf"),
    ),
];
/// What enables them.
pub const ENABLED: [&str; 2] =
    ["initrd-root-fs.target.requires/sealroot.service", "initrd.target.wants/sealroot-guard.service"];
/// What has systemd call the boot program before it starts any unit, and where it must lead.
pub const GENERATOR: &str = "usr/lib/systemd/system-generators/sealroot-generator";
/// Units of others that put a root in place of the physical one. The dracut module masks them.
pub const RIVALS: [&str; 3] =
    ["bootc-root-setup.service", "composefs-setup-root.service", "ostree-prepare-root.service"];
