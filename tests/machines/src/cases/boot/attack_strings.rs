//! Attacks by SMBIOS strings, which whoever sets up a machine gives it: systemd's stub puts one of them behind the signed command
//! line, Secure Boot or not, and PID 1 takes others for credentials.

use super::expect::Expected;
use super::library::library;
use super::scenario::{Scenario, case};

const EXTRA: &str = "io.systemd.stub.kernel-cmdline-extra";
const ADDS: &str = "ask: machine set-up: expected no string that adds to the kernel command line (policy.firmware-strings = \"refuse\"), found";
const REPORTED: &str = "firmware-strings = \"report\"";
/// What dash says as PID 1.
const SHELL: &str = "can't access tty; job control turned off";

/// Two structures of a vendor's: the second is shorter than its own header.
const BREAKS_OFF: [&[u8]; 2] = [b"\xc9\x04\x06\0A\0\0", b"\xc8\x02\x05\0A\0\0"];

/// Each with firmware only: a native machine has no SMBIOS.
pub fn all() -> Vec<Scenario> {
    // The stub of the project takes none of them: these boots show what systemd's adds.
    let with = |name, extra: &str| case(name).systemd_stub().smbios(&format!("{EXTRA}={extra}"));
    vec![
        // What pivoted into an unmeasured root once: the last value wins in systemd, the units are skipped, and the gate is gone.
        // The shell would come first.
        with("command_line_appended", "systemd.import_credentials=yes rd.break=pre-mount")
            .boundary()
            .refused_drop_in("sealroot.service", "[Unit]\nConditionPathExists=/skipped-by-a-credential\n")
            .refused_drop_in("initrd-switch-root.service", "[Service]\nExecStartPre=\n")
            .refused(&format!("{ADDS} '{EXTRA}=systemd.import_credentials=yes rd.break=pre-mount'"))
            .never_says("Starting sealroot.service"),
        // The same four strings on a machine whose config lets strings be: nobody appends, so nobody imports.
        case("strings_without_effect")
            .firmware_only()
            .manifest()
            .smbios(&format!("{EXTRA}=systemd.import_credentials=yes rd.break=pre-mount"))
            .smbios("io.systemd.boot.kernel-cmdline-extra=systemd.import_credentials=yes rd.break=pre-mount")
            .drop_in("sealroot.service", "[Unit]\nConditionPathExists=/skipped-by-a-credential\n")
            .drop_in("initrd-switch-root.service", "[Service]\nExecStartPre=\n")
            .must("report", ".*\"stub\":\"sealroot-stub [^\"]*\".*")
            .never_says("Break before pre-mount")
            .says("is set, skipping importing of credentials"),
        // PID 1 would not import it, by the signed command line. Whoever needs such says so in the signed config.
        case("credential_passed")
            .firmware_only()
            .refused_drop_in("sealroot.service", "[Unit]\n")
            .refused(
                "ask: machine set-up: expected no string that passes a credential to PID 1 (policy.firmware-strings = \"refuse\"), \
                 found 'io.systemd.credential.binary:systemd.unit-dropin.sealroot.service~zz'",
            ),
        // The same by QEMU's own way. Its names have 28 characters at most: too few for a drop-in of sealroot's units.
        case("credential_by_fw_cfg")
            .firmware_only()
            .fw_cfg("systemd.extra-unit.a.service", "[Unit]\n")
            .refused(
                "ask: machine set-up: expected no string that passes a credential to PID 1 (policy.firmware-strings = \"refuse\"), \
                 found 'opt/io.systemd.credentials/systemd.extra-unit.a.service'",
            ),
        with("string_that_hides_itself", "initcall_blacklist=dmi_init rd.break=pre-mount").refused(
            "ask: kernel command line: expected nothing that hides the machine's set-up (policy.firmware-strings = \"refuse\"), \
             found 'initcall_blacklist'",
        ),
        // The kernel shows the table up to the structure that is none; the stub reads on, and finds the string.
        with("string_behind_the_end_of_the_table", "rd.break=pre-mount rd.shell=1 SYSTEMD_SULOGIN_FORCE=1")
            .structures(&BREAKS_OFF)
            .refused_like("ask: '/sys/firmware/dmi/tables/DMI': expected an SMBIOS table with an end, found one that breaks off after .* bytes")
            .never_says("Break before pre-mount"),
        with("command_line_appended_before_emergency_mode", "rd.systemd.debug_shell")
            .policy("on-failure = \"emergency\"")
            .refused(&format!("{ADDS} '{EXTRA}=rd.systemd.debug_shell'")),
        // A config that lets strings be does not let a second digest be.
        with("second_digest_by_a_string", "composefs={SHA512_V2}")
            .policy(REPORTED)
            .debugfs(&["rm /composefs/images/{digest}"])
            .refused(
                "ask: kernel command line: expected one image (policy.alternatives = \"refuse\"), found v1 sha512:{digest} \
                 and sha512:{SHA512_V2}",
            ),
        with("string_reported", "some=appended")
            .policy(REPORTED)
            .must("report", &format!(r#".*"firmware_strings":\["{EXTRA}=some=appended"\].*"#)),
        // Neither does it let an argument be where the initramfs has the signed command line.
        with("argument_by_a_string", "some=appended").manifest().policy(REPORTED).refused(
            "ask: kernel command line: expected its end ('/usr/lib/sealroot/cmdline'), found 'some=appended'",
        ),
        // Neither is anything asked before the units then, nor is there a unit that mounts the physical root.
        with("generators_moved", "SYSTEMD_GENERATOR_PATH=/nonexistent")
            .refused("gate: no report of a sealed root: the boot program did not run, or did not finish"),
        // The kernel gives PID 1 what it does not know for its environment, and the stub has put the file there.
        with("library_in_pid_1", "LD_PRELOAD=/.extra/global_credentials/planted.cred")
            .on_esp(library, "loader/credentials/planted.cred")
            .comes(Expected::Bypassed("a planted library runs in PID 1")),
        // The kernel starts it in the place of PID 1: no program of the initramfs has a say.
        with("rdinit_appended", "rdinit=/bin/sh").comes(Expected::Shell(SHELL)),
    ]
}
