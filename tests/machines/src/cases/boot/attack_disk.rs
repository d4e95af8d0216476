//! Attacks on the root disk: the image, the objects, the repository, the state.

use super::attack_boot::NO_VERDICT;
use super::expect::Expected;
use super::library::library;
use super::scenario::{Content, Scenario, case};
use super::world::Place;
use crate::disk::Twin;

/// What a damaged image, and one that is replaced by another, is refused with.
const DAMAGED: &str = "look-inside: {image}: expected content that belongs to its digest, found damage: <errno 5>";
const REPLACED: &str = "measure: {image}: expected sha512:{digest}, measured sha512:{other}";
const UNOPENED: &str = "measure: {image}: expected sha512:{digest}, found a file that cannot be opened (damaged fs-verity metadata?): <errno 22>";
const WITHOUT_VERITY: &str = "measure: {image}: expected sha512:{digest}, found a file without fs-verity";
const CASEFOLDED: &str = "mount: overlay: .*: overlay: case-insensitive (directory|capable filesystem) on .*";
const INIT: &str = "/usr/lib/systemd/systemd";

/// What is not as it must be in the image's name or content.
pub fn image() -> Vec<Scenario> {
    let flipped = |name, place| case(name).flip_image(place);
    let named = |name, command: &str, found: &str| {
        case(name)
            .debugfs(&["cd /composefs/images", "rm {digest}", command])
            .refused(&format!("find: {{image}}: {found}"))
    };
    let grown = |name, change: &str| case(name).debugfs(&[change]).refused(UNOPENED);
    vec![
        flipped("image_header_flipped", Place::Header).refused(DAMAGED),
        flipped("image_inode_table_flipped", Place::InodeTable).refused(DAMAGED),
        flipped("image_xattrs_flipped", Place::Xattrs).refused(DAMAGED).boundary(),
        flipped("image_last_byte_flipped", Place::LastByte).refused(DAMAGED),
        flipped("image_merkle_tree_flipped", Place::Merkle).refused(DAMAGED),
        flipped("image_descriptor_flipped", Place::Descriptor(0)).refused(UNOPENED),
        flipped("image_descriptor_root_hash_flipped", Place::Descriptor(16))
            .refused_like("measure: {image}: expected sha512:{digest}, measured sha512:[0-9a-f]{128}"),
        // By the filesystem itself, when it is mounted.
        case("image_overwritten_by_the_journal").journal_replayed().refused(DAMAGED),
        // Flags of the inode: extents and fs-verity, and one more.
        case("image_marked_encrypted")
            .debugfs(&["set_inode_field /composefs/{image_object} flags 0x180800"])
            .refused_like("(find|measure): {image}: .*"),
        case("image_marked_immutable").systemd().debugfs(&["set_inode_field /composefs/{image_object} flags 0x180010"]),
        // Its content would be in the inode itself.
        case("image_marked_inline")
            .debugfs(&["set_inode_field /composefs/{image_object} flags 0x10180000"])
            .refused("find: {image}: <errno 117>"),
        // Nobody waits until that is hashed.
        case("image_without_end")
            .policy("missing-verity = \"enable\"")
            .write(
                Content::Text("x".into()),
                &[
                    "cd /composefs/images",
                    "rm {digest}",
                    "write {file} {digest}",
                    "set_inode_field {digest} size 0xfffffff000",
                ],
            )
            .refused("measure: {image}: expected at most 1073741824 bytes without fs-verity, found 1099511623680"),
        // A file with fs-verity whose size is another in the inode.
        grown("image_truncated", "set_inode_field /composefs/{image_object} size 8192"),
        grown("image_grown", "set_inode_field /composefs/{image_object} size {grown_size}"),
        // A file without fs-verity, whatever its content; where fs-verity would be enabled, only for the right content.
        case("image_copied").image_is(Content::Image(0)).refused(&format!("{WITHOUT_VERITY}: <errno 61>")),
        case("image_copied_with_a_tail")
            .policy("missing-verity = \"enable\"")
            .image_is(Content::Image(4096))
            .refused_like(&format!("{WITHOUT_VERITY}: computed sha512:[0-9a-f]{{128}}")),
        case("image_replaced").image_replaced().refused(REPLACED),
        case("luks_image_replaced").luks().image_replaced().refused(REPLACED),
        named("image_is_a_fifo", "mknod {digest} p", "expected a regular file, found a FIFO"),
        // Another disk, say; opening some devices has effects of its own.
        named("image_is_a_device", "mknod {digest} b 254 1", "expected a regular file, found a block device"),
        // debugfs makes no socket: a FIFO whose inode says that it is one.
        case("image_is_a_socket")
            .debugfs(&[
                "cd /composefs/images",
                "rm {digest}",
                "mknod {digest} p",
                "set_inode_field {digest} mode 0140644",
            ])
            .refused("find: {image}: expected a regular file, found a socket"),
        named("image_is_a_directory", "mkdir {digest}", "expected a regular file, found a directory"),
        named("image_is_a_link_loop", "symlink {digest} {digest}", "<errno 40>"),
        named("image_is_a_link_to_proc", "symlink {digest} /proc/self/exe", "<errno 18>"),
        named("image_is_a_dangling_link", "symlink {digest} ../objects/00/0", "<errno 2>"),
        case("image_missing")
            .policy("on-failure = \"reboot\"")
            .debugfs(&["rm /composefs/images/{digest}"])
            .refused_and("find: {image}: expected in the repository 'composefs': <errno 2>", "reboot"),
        // A signed command line names an image that the disk does not have.
        case("wrong_digest")
            .policy("on-failure = \"poweroff\"")
            .kargs(&["composefs.digest=v1-sha512-12:{half}"])
            .refused_and("find: image 'images/{half}': expected in the repository 'composefs': <errno 2>", "poweroff"),
    ]
}

/// What is not as it must be in the objects.
pub fn objects() -> Vec<Scenario> {
    let swapped = "/usr/share/common-licenses/Artistic";
    let missing = "/usr/share/common-licenses/MPL-2.0";
    let replace = |of: &str, by: &str| {
        [format!("rm /composefs/{{object:{of}}}"), format!("ln /composefs/{by} /composefs/{{object:{of}}}")]
    };
    let swap = replace(swapped, "{object:/usr/lib/os-release}");
    let swap_init = replace(INIT, "{canary_object}");
    let init = |found: &str| format!("prove: new root: '{INIT}': {{expected:{INIT}}}, {found}");
    let canary = |found: &str| format!("objects: '{{canary}}': {{expected:{CANARY}}}, {found}");
    vec![
        // Three objects that no boot needs, each in its own way not what it should be: those files cannot be read, all others
        // can.
        case("object_flipped")
            .systemd()
            .flip_object("{canary_object}")
            .debugfs(&[&swap[0], &swap[1], &format!("rm /composefs/{{object:{missing}}}")])
            .comes(Expected::Unreadable("Input/output error"))
            .unreadable(&["/usr/share/common-licenses/Artistic", "/usr/share/common-licenses/MPL-2.0"])
            .also(&["object_swapped", "object_missing"]),
        case("object_flipped_and_read_before")
            .policy("check = \"data\"")
            .flip_object("{canary_object}")
            .refused(&canary("found damage (<errno 5>)")),
        case("object_of_init_swapped")
            .debugfs(&[&swap_init[0], &swap_init[1]])
            .refused(&init(&format!("measured {{measured:{CANARY}}}: <errno 5>"))),
        case("object_of_init_missing").debugfs(&[&swap_init[0]]).refused(&init("found none: <errno 2>")),
        case("object_missing_and_looked_for")
            .policy("check = \"objects\"")
            .debugfs(&["rm /composefs/{canary_object}"])
            .refused(&canary("found none")),
    ]
}

/// The file that tests damage; no boot reads it.
const CANARY: &str = "/usr/share/common-licenses/GPL-3";

/// The repository as a whole, and the filesystem that it is in.
pub fn repository() -> Vec<Scenario> {
    vec![
        // Only an operating system that is ready to be started.
        case("repository_missing")
            .debugfs(&["unlink /composefs"])
            .refused("find: repository 'composefs': <errno 2>"),
        case("repository_is_a_link_out")
            .debugfs(&["ln /composefs /elsewhere", "unlink /composefs", "symlink /composefs /sysroot/elsewhere"])
            .refused("find: repository 'composefs': <errno 18>"),
        // A link to a repository that has another image by that name, well-formed and with fs-verity.
        case("repository_is_a_link_to_another")
            .debugfs(&[
                "mkdir /elsewhere",
                "mkdir /elsewhere/images",
                "ln /composefs/objects /elsewhere/objects",
                "symlink /elsewhere/images/{digest} ../{other_object}",
                "unlink /composefs",
                "symlink /composefs elsewhere",
            ])
            .refused(REPLACED),
        case("repository_of_a_later_version")
            .write(Content::Text("{\"version\":2,\"policy\":{\"verity\":\"off\"}}\n".into()), &META)
            .refused("find: repository 'composefs': 'meta.json': expected version 1 or lower, found 2"),
        // The superblock asks for a panic of the kernel on any error, and there is one: a directory that is none.
        case("superblock_asks_for_a_panic")
            .systemd()
            .debugfs(&["set_super_value errors 3", "clri /composefs/images"])
            .refused("find: {image}: <errno 117>"),
        // The same, and nothing on the command line that says otherwise.
        case("superblock_gets_its_panic")
            .native_only()
            .open()
            .systemd()
            .debugfs(&["set_super_value errors 3", "clri /composefs/images"])
            .comes(Expected::Panic("EXT4-fs (device ubda2): panic forced after error")),
        // A journal that is to be replayed, and is none: the initramfs's fsck makes it anew.
        case("journal_damaged")
            .systemd()
            .debugfs(&["feature needs_recovery", "zap_block -f <8> -p 0x5a 0"]),
        // What leads to the image.
        case("directory_of_images_overwritten")
            .debugfs(&["zap_block -f /composefs/images -p 0x5a 0"])
            .refused("find: {image}: <errno 74>"),
        // An inode that has an index of the names, and a directory that has none.
        case("directory_of_images_without_its_index")
            .debugfs(&["set_inode_field /composefs/images flags 0x81000"])
            .refused("find: {image}: <errno 74>"),
        // A name that is not there is looked for in all of it, 16 TiB of nothing, by a system call that no signal ends; 1 TiB takes
        // five minutes. The units' limit, made shorter here, does not wait for that.
        case("directory_of_images_without_end")
            .native_only()
            .open()
            // It would be shortened, if the copies of the superblock were not changed, too.
            .and_karg("fsck.mode=skip")
            .drop_in("sealroot.service", "[Service]\nTimeoutStartSec=3\n")
            .limit(120)
            .debugfs(&[
                "feature large_dir",
                "rm /composefs/images/{digest}",
                "set_inode_field /composefs/images size 0xffffffff000",
            ])
            .refused(NO_VERDICT),
        // Names in which upper and lower case are the same. Older kernels take no such filesystem for a layer, whatever directory
        // it is.
        case("directory_of_images_casefolded")
            .systemd()
            .debugfs(&[
                "feature casefold",
                "set_super_value encoding 1",
                "set_inode_field /composefs/images flags 0x40080000",
            ])
            .comes(Expected::SealedOrRefusedLike(CASEFOLDED)),
        case("directory_of_objects_casefolded")
            .debugfs(&[
                "feature casefold",
                "set_super_value encoding 1",
                "set_inode_field /composefs/objects flags 0x40080000",
            ])
            .refused_like(CASEFOLDED),
        // Another partition has all names of the root's: udev takes the one or the other.
        case("twin_of_the_root")
            .twin(Twin::Beside)
            .comes(Expected::SealedOrRefusedLike("find: repository 'composefs': <errno 2>")),
        case("twin_in_place_of_the_root").twin(Twin::Instead).refused("find: repository 'composefs': <errno 2>"),
        case("twin_in_the_copy_of_the_table").twin(Twin::InTheCopy),
        // What the initramfs's own fsck finds, and leaves to a person.
        case("fsck_gives_up")
            .systemd()
            .write(
                Content::Text("planted".repeat(1000)),
                &[
                    "cd /{state}/var",
                    "write {file} planted",
                    "set_inode_field planted flags 0",
                    "set_inode_field planted block[0] 5",
                    "set_super_value state 2",
                ],
            )
            .refused(
                "earlier-run: expected a verdict, found none: the boot program was killed, or the physical root was never mounted; \
                 before, systemd-fsck-root.service failed: exit-code",
            ),
        // A filesystem that can never be written to: the configured /etc and /var cannot be had.
        case("root_can_only_be_read").and_karg("ro").debugfs(&["feature read-only"]).refused(
            "assemble: physical root: expected to be writable for the configured state: physical root: reconfigure: <errno 30>",
        ),
    ]
}

/// Commands that put another meta.json into the repository.
pub(super) const META: [&str; 3] = ["cd /composefs", "rm meta.json", "write {file} meta.json"];

/// What PID 1 reads, planted in the writable /etc: a library for every program, and a unit that is wanted.
fn planted_for_pid_1(name: &'static str) -> Scenario {
    const UNIT: &str = "[Service]\nType=oneshot\nExecStart=/usr/bin/echo the planted unit runs\nStandardOutput=tty\n";
    case(name)
        .systemd()
        .write(Content::Text("/var/planted.so\n".into()), &["cd /{state}/etc/upper", "write {file} ld.so.preload"])
        .write(
            Content::Text(UNIT.into()),
            &[
                "cd /{state}/etc/upper",
                "mkdir systemd",
                "mkdir systemd/system",
                "mkdir systemd/system/multi-user.target.wants",
                "cd systemd/system",
                "write {file} planted.service",
                "symlink multi-user.target.wants/planted.service ../planted.service",
            ],
        )
}

/// A list of what /etc may have from the disk, and an /etc without one, in which the same does work.
pub fn etc() -> Vec<Scenario> {
    const RUNS: &str = "the planted unit runs";
    const PRELOADED: &str = "object '/var/planted.so' from /etc/ld.so.preload cannot be preloaded";
    vec![
        planted_for_pid_1("keep_against_planted_units")
            .etc("keep = [\"machine-id\", \"ssh/ssh_host_*\"]")
            .says(
                "etc: 2 entries that etc.keep does not keep, left in '{state}/etc/upper': 'ld.so.preload' (not-listed), \
                 'systemd' (not-listed)",
            )
            .never_says(RUNS)
            .never_says(PRELOADED)
            .also(&["keep_against_ld_so_preload"]),
        // A time with more nanoseconds than a second has, which the kernel takes from a disk, and gives to nothing else.
        case("keep_against_a_time_that_is_none")
            .systemd()
            .seldom()
            .etc("keep = [\"machine-id\", \"hostname\"]")
            .write(
                Content::Text("0123456789abcdef0123456789abcdef\n".into()),
                &[
                    "cd /{state}/etc/upper",
                    "write {file} machine-id",
                    "write {file} hostname",
                    "set_inode_field machine-id mtime_extra 0xfffffff0",
                ],
            )
            .says(
                "etc: 1 entry that etc.keep does not keep, left in '{state}/etc/upper': 'machine-id' (unreadable)",
            )
            .must("report", ".*\"bypasses\":\\[\"writable-var\"\\].*"),
        // Whoever writes to the disk has a service of the image write to /etc, by a link in /var.
        case("var_that_writes_to_etc")
            .systemd()
            .native_only()
            .etc("keep = [\"machine-id\", \"ssh/ssh_host_*\"]")
            .write(
                Content::Made(library),
                &["cd /{state}/var", "write {file} planted.so", "set_inode_field planted.so mode 0100755"],
            )
            .debugfs(&[
                "mkdir /{state}/var/lib",
                "mkdir /{state}/var/lib/dpkg",
                "mkdir /{state}/var/backups",
                "mkdir /{state}/var/lib/systemd",
                "mkdir /{state}/var/lib/systemd/timers",
                "mkdir /{state}/var/lib/sealroot-probe",
                "symlink /{state}/var/backups/dpkg.arch /etc/ld.so.preload",
                "symlink /{state}/var/backups/dpkg.status /etc/ld.so.preload",
            ])
            .write(Content::Text("/var/planted.so\n".into()), &["cd /{state}/var/lib/dpkg", "write {file} status"])
            .write(
                Content::Text("a run of long ago".into()),
                &[
                    "cd /{state}/var/lib/systemd/timers",
                    "write {file} stamp-dpkg-db-backup.timer",
                    "set_inode_field stamp-dpkg-db-backup.timer mtime 20200101",
                ],
            )
            // What runs afterwards loads it: until then nothing is reported.
            .write(
                Content::Text("#!/bin/sh\nsleep 30\nexec true\n".into()),
                &["cd /{state}/var/lib/sealroot-probe", "write {file} ask", "set_inode_field ask mode 0100755"],
            )
            .comes(Expected::Bypassed("a planted library runs as root"))
            .says("writable-var (var.mount = \"transient\" or \"none\")"),
        // It breaks what the probe says about files, so less is asked of this boot.
        planted_for_pid_1("keep_unset_and_units_planted")
            .comes(Expected::Open(&[]))
            .must("root", "composefs:{digest} ro,.*")
            .must("multi-user", "active")
            .says(RUNS)
            .says(PRELOADED),
        // The upper layer is a directory that lists nothing, and in which the name is found all the same.
        case("keep_against_what_is_not_listed")
            .systemd()
            .etc("keep = [\"machine-id\", \"ssh/ssh_host_*\"]")
            .write(
                Content::Made(library),
                &["cd /{state}/var", "write {file} planted.so", "set_inode_field planted.so mode 0100755"],
            )
            .write(Content::Text("/var/planted.so\n".into()), &["cd /{state}/etc", "write {file} planted"])
            .hidden("/{state}/etc/upper", "ld.so.preload", "/{state}/etc/planted")
            .never_says("a planted library runs in PID 1"),
        // The same in an /etc that keeps everything: what is there is found.
        case("keep_unset_and_a_name_that_is_not_listed")
            .systemd()
            .native_only()
            .write(
                Content::Made(library),
                &["cd /{state}/var", "write {file} planted.so", "set_inode_field planted.so mode 0100755"],
            )
            .write(Content::Text("/var/planted.so\n".into()), &["cd /{state}/etc", "write {file} planted"])
            .hidden("/{state}/etc/upper", "ld.so.preload", "/{state}/etc/planted")
            .comes(Expected::Bypassed("a planted library runs in PID 1")),
        // Its content is the disk's: PID 1 takes what it says for the first boot of the machine, unless it is told.
        machine_id_of_a_first_boot("first_boot_by_the_machine_id")
            .open()
            // It would ask at the console.
            .and_karg("systemd.firstboot=no")
            .comes(Expected::Open(&[("first-boot", "systemd.condition_first_boot=no systemd.firstboot=no")]))
            .says(PRESETS),
        machine_id_of_a_first_boot("first_boot_on_a_sealed_command_line").never_says(PRESETS),
        // What a crash leaves of an overlay that was mounted with the option volatile.
        case("work_of_a_volatile_overlay")
            .debugfs(&["mkdir /{state}/etc/work/work", "mkdir /{state}/etc/work/work/incompat", "mkdir /{state}/etc/work/work/incompat/volatile"])
            .refused("assemble: state directory '{state}/etc/work': expected nothing that forbids the mount, found 'work/incompat': changes may have been lost"),
    ]
}

/// What PID 1 says when it presets all units.
const PRESETS: &str = "Populated /etc with preset unit settings";

fn machine_id_of_a_first_boot(name: &'static str) -> Scenario {
    case(name)
        .systemd()
        .etc("keep = [\"machine-id\"]")
        .write(Content::Text("uninitialized\n".into()), &["cd /{state}/etc/upper", "write {file} machine-id"])
}

/// What was planted where a deployment keeps its state.
pub fn state() -> Vec<Scenario> {
    let linked = |name, what: &str, target: &str, found: &str| {
        let commands = [format!("rmdir /{{state}}/{what}"), format!("symlink /{{state}}/{what} {target}")];
        case(name)
            .debugfs(&[&commands[0], &commands[1]])
            .refused(&format!("assemble: state directory '{{state}}/{what}': {found}"))
    };
    let opened = |name, what: &str, expected: &str| {
        case(name).debugfs(&[&format!("set_inode_field /{{state}}/{what} mode 040777")]).refused(&format!(
            "assemble: state directory '{{state}}/{what}': expected owner and mode {expected}, found 0:0 0777"
        ))
    };
    vec![
        linked("var_is_a_link_out", "var", "/run", "<errno 18>"),
        linked("var_is_a_link_up", "var", "../../../../run", "<errno 18>"),
        linked("upper_is_a_link", "etc/upper", "../../../../usr", "<errno 40>"),
        linked("work_is_a_link", "etc/work", "../var", "<errno 40>"),
        opened("upper_is_open_to_all", "etc/upper", "0:0 0755"),
        opened("work_is_open_to_all", "etc/work", "0:0 0700"),
    ]
}
