//! All the ways in which the sealed Debian must boot.

use super::expect::Expected;
use super::scenario::{Added, Content, Scenario, case};
use crate::builders;

/// Formats, algorithms, kernels, encryption, checks.
pub fn boots() -> Vec<Scenario> {
    let sealed = |name| case(name).systemd();
    let with = |name, algorithm, karg: &str, image| {
        sealed(name).algorithm(algorithm).kargs(&[karg]).comes(Expected::SealedWith(image))
    };
    // The interface that the newest kernels have.
    let newest =
        r#"\{"erofs":"file","layers":"fd","mounts":"detached","mount_table":"statmount","mount_ids":"unique"\}"#;
    vec![
        sealed("sha512_v1").boundary().manifest().must("report", ".*\"secure_boot\":\"(enforced|unsupported)\".*"),
        with("sha512_v2", "sha512", "composefs={SHA512_V2}", "SHA512_V2"),
        with("sha256_v1", "sha256", "composefs.digest=v1-sha256-12:{SHA256_V1}", "SHA256_V1"),
        // An image that the C tool of the composefs project wrote.
        with("c_mkcomposefs", "sha256", "composefs.digest=v1-sha256-12:{SHA256_C}", "SHA256_C"),
        sealed("older_kernel").kernel("6.12").native_only(),
        // Debian's newest kernel, with the same root, which has no modules of it: without the units that need some.
        sealed("newest_kernel")
            .and_karg("systemd.gpt_auto=no")
            .and_karg("systemd.mask=proc-sys-fs-binfmt_misc.automount")
            .and_karg("systemd.mask=systemd-binfmt.service")
            .uki("--kernel")
            .uki("newest")
            .must("report", &format!(".*\"kernel\":{newest}.*")),
        case("luks").luks(),
        // Every object is measured, and read to its end, before the pivot.
        sealed("check_data")
            .policy("check = \"data\"")
            .limit(600)
            .must("report", ".*\"policy.check\":[{]\"value\":\"data\",.*[{]\"name\":\"objects\",.*"),
        // The image was written without fs-verity, and the root is mounted read-only: it is given it at the first boot.
        sealed("missing_verity_enabled")
            .policy("missing-verity = \"enable\"")
            .and_karg("ro")
            .image_is(Content::Image(0))
            .says("sealroot: {image}: fs-verity enabled"),
        sealed("btrfs_in_a_subvolume").seldom().filesystem("btrfs", "subvol=root").must("sysroot", ".*,subvol=/root"),
        sealed("btrfs_compressed_read_write")
            .seldom()
            .filesystem("btrfs", "compress=zstd:1,subvol=root")
            .and_karg("rw"),
        sealed("btrfs_on_two_disks").seldom().filesystem("mirror", "subvol=root"),
        sealed("f2fs").seldom().filesystem("f2fs", "noatime"),
        // What the tools of composefs-rs write, and their key for it.
        sealed("prepared_by_cfsctl")
            .seldom()
            .prepared()
            .kargs(&["composefs.digest=v1-sha512-12:{PREPARED}"])
            .comes(Expected::SealedWith("PREPARED")),
        // What bootc installs: no root=, and further partitions that nobody asked for. By the line that `sealroot karg --for bootc
        // --sealed` prints, the generator finds the root and mounts no other.
        sealed("root_found_by_its_type")
            .firmware_only()
            .root("none")
            .and_karg("rd.systemd.gpt_auto=yes")
            .further_partitions()
            .must("report", ".*\"bypasses\":\\[\"writable-etc\",\"writable-var\"\\].*")
            .never_says("Mounted home.mount")
            .never_says("Mounted srv.mount"),
        // The same by systemd's own ways, which has the partition's flag say that the filesystem grows, in the booted system.
        sealed("root_that_grows_by_its_flag")
            .firmware_only()
            .root("none")
            .and_karg("systemd.gpt_auto=yes")
            .larger_partition()
            .says("Finished systemd-growfs-root.servi")
            .grown(),
        // A builder who ships one root in two formats says so; the first whose image exists is used.
        sealed("alternatives")
            .native_only()
            .policy("alternatives = \"first-existing\"")
            .kargs(&["{karg}", "composefs={SHA512_V2}"])
            .debugfs(&["rm /composefs/images/{digest}"])
            .comes(Expected::SealedWith("SHA512_V2")),
        // The unit of another tool in the same initramfs, enabled: it would mount a root of its own.
        sealed("bootc_root_setup_in_the_initramfs")
            .native_only()
            .systemd()
            .in_front("usr/lib/systemd/system/bootc-root-setup.service", Added::File(RIVAL))
            .in_front(
                "usr/lib/systemd/system/initrd-root-fs.target.wants/bootc-root-setup.service",
                Added::Link("../bootc-root-setup.service"),
            )
            .never_says("another root is in place"),
        // The same where nothing masks it: systemd drops what is only wanted for what is required.
        sealed("bootc_root_setup_unmasked")
            .native_only()
            .systemd()
            .without("etc/systemd/system/bootc-root-setup.service")
            .in_front("usr/lib/systemd/system/bootc-root-setup.service", Added::File(RIVAL))
            .in_front(
                "usr/lib/systemd/system/initrd-root-fs.target.wants/bootc-root-setup.service",
                Added::Link("../bootc-root-setup.service"),
            )
            .never_says("another root is in place"),
    ]
}

/// What systemd does to /sysroot in an initramfs beside sealroot, by its releases 258 and newer.
pub fn newer_systemd() -> Vec<Scenario> {
    // As systemd-gpt-auto-generator enables them, where firmware tells it the disk.
    const VALIDATED: &str = "usr/lib/systemd/system/sysroot.mount.wants/systemd-validatefs@sysroot.service";
    const GROWN: &str = "usr/lib/systemd/system/sysroot.mount.wants/systemd-growfs@sysroot.service";
    const MERGED: &str = "usr/lib/systemd/system/initrd.target.wants/systemd-sysext-sysroot.service";
    vec![
        case("newer_systemd").forky(),
        case("root_validated_grown_and_repartitioned")
            .forky()
            .in_front(VALIDATED, Added::Link("../systemd-validatefs@.service"))
            .in_front(GROWN, Added::Link("../systemd-growfs@.service"))
            .debugfs(&["ea_set / user.validatefs.mount_point /", "mkdir /usr/lib/repart.d"])
            // What repart would do by the disk's own word.
            .write(
                Content::Text("[Partition]\nType=linux-generic\nLabel=planted\nSizeMaxBytes=8M\n".into()),
                &["cd /usr/lib/repart.d", "write {file} 30-planted.conf"],
            )
            .says("Finished systemd-validatefs@sysroo")
            .says("Finished systemd-growfs@sysroot.se")
            .says("Finished systemd-repart.service")
            .grown()
            .partitions(&["esp", "root", "as-sealed"]),
        case("system_extension_on_the_disk")
            .forky()
            .in_front(MERGED, Added::Link("../systemd-sysext-sysroot.service"))
            .debugfs(&[
                "mkdir /{state}/var/lib",
                "mkdir /{state}/var/lib/extensions",
                "mkdir /{state}/var/lib/extensions/planted",
                "mkdir /{state}/var/lib/extensions/planted/usr",
                "mkdir /{state}/var/lib/extensions/planted/usr/lib",
                "mkdir /{state}/var/lib/extensions/planted/usr/lib/extension-release.d",
            ])
            .write(
                Content::Text("ID=_any\n".into()),
                &[
                    "cd /{state}/var/lib/extensions/planted/usr/lib/extension-release.d",
                    "write {file} extension-release.planted",
                ],
            ),
    ]
}

/// What takes its time before the root is there is waited for.
pub fn slow() -> Vec<Scenario> {
    const LATE: &str = "[Service]\nExecStartPre=/bin/sleep 120\n";
    vec![
        case("check_of_the_filesystem_that_takes_long")
            .native_only()
            .seldom()
            .in_front("usr/lib/systemd/system/systemd-fsck-root.service.d/90-late.conf", Added::File(LATE)),
        // As for a passphrase, or a key from the network.
        case("disk_that_is_unlocked_late")
            .luks()
            .native_only()
            .seldom()
            .in_front("usr/lib/systemd/system/systemd-cryptsetup@sealed.service.d/90-late.conf", Added::File(LATE)),
    ]
}

/// sealroot-keep.service under a real systemd, until the machine is switched off as people do it: see `keep`, which runs there.
pub fn keeps() -> Vec<Scenario> {
    let folder = "cd /{state}/var/lib/sealroot-probe";
    let file = |path: &str| Content::File(builders::project().join(path));
    vec![
        case("etc_of_listed_files")
            .native_only()
            .systemd()
            .reboots()
            .etc("keep = [\"machine-id\", \"ssh/ssh_host_*\"]")
            .debugfs(&["mkdir /{state}/var/lib", "mkdir /{state}/var/lib/sealroot-probe"])
            .write(
                Content::Built("program", &["sealroot"]),
                &[folder, "write {file} sealroot", "set_inode_field sealroot mode 0100755"],
            )
            .write(file("systemd-units/sealroot-keep.service"), &[folder, "write {file} sealroot-keep.service"])
            .write(file("tests/machines/keep"), &[folder, "write {file} ask", "set_inode_field ask mode 0100755"])
            .write(
                Content::Text("old".into()),
                &["cd /{state}/etc/upper", "mkdir ssh", "cd ssh", "write {file} ssh_host_old"],
            )
            .must_be("keep", "active")
            .must_be("keep-soon", "a key")
            .never_says("Failed unmounting")
            .leaves("/{state}/etc/upper/ssh/ssh_host_key", "a key\n")
            .leaves("/{state}/etc/upper/ssh/ssh_host_last", "the last word\n")
            .leaves("/{state}/etc/upper/ssh/ssh_host_old", "")
            .leaves("/{state}/etc/upper/ssh/sshd_config", "")
            .leaves("/{state}/etc/upper/ld.so.preload", ""),
    ]
}

/// SELinux enforces Debian's policy: every directory that sealroot makes has the label of the sealed one. See `labels`, which asks there.
pub fn selinux() -> Vec<Scenario> {
    let folder = "cd /{state}/var/lib/sealroot-probe";
    let asked = |name: &'static str| {
        case(name)
            .selinux()
            .debugfs(&["mkdir /{state}/var/lib", "mkdir /{state}/var/lib/sealroot-probe"])
            .write(
                Content::File(builders::project().join("tests/machines/labels")),
                &[folder, "write {file} ask", "set_inode_field ask mode 0100755"],
            )
            // As the policy has it. The state directory itself has no label: nothing has written to it.
            .debugfs(&[
                "ea_set /{state}/var/lib security.selinux system_u:object_r:var_lib_t:s0",
                "ea_set /{state}/var/lib/sealroot-probe security.selinux system_u:object_r:var_lib_t:s0",
                "ea_set /{state}/var/lib/sealroot-probe/ask security.selinux system_u:object_r:bin_t:s0",
            ])
            .limit(900)
            .must_be("selinux", "Enforcing")
            .must_be("init", "system_u:system_r:init_t:s0")
            .must_be("label-/", "system_u:object_r:root_t:s0")
            .must_be("label-/etc", "system_u:object_r:etc_t:s0")
            .must_be("label-/etc/passwd", "system_u:object_r:etc_t:s0")
            .must_be("label-/var", "system_u:object_r:var_t:s0")
            // The policy denies things of Debian's own; none of what sealroot made is without a label.
            .never_says("tcontext=system_u:object_r:unlabeled_t")
    };
    vec![
        asked("selinux"),
        asked("selinux_with_a_transient_etc").etc("mount = \"transient\""),
        asked("selinux_with_an_etc_of_listed_files").etc("keep = [\"machine-id\"]"),
    ]
}

/// Ordered and conditioned as bootc's, 1.16.
const RIVAL: &str = "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=composefs.digest\n\
                     ConditionPathExists=/etc/initrd-release\nRequires=sysroot.mount\nAfter=sysroot.mount\n\
                     Before=initrd-root-fs.target\nOnFailure=emergency.target\nOnFailureJobMode=isolate\n\
                     [Service]\nType=oneshot\nRemainAfterExit=yes\n\
                     ExecStart=/bin/sh -c 'mount -t tmpfs rival /sysroot && echo another root is in place'\n\
                     StandardOutput=tty\n";
