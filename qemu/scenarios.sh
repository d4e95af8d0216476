#!/bin/bash
# Boots of the sealed Debian and what must come of them, for qemu/demo and tests/boot. Sourced, not run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The caller sets these: folders for disks and for console logs.
work=
logs=

# What ends a boot: the report from inside, a stopped machine, a prompt, the firmware giving up.
boot_ends='^sealroot-probe: end|reboot: (System halted|Power down|Restarting|machine restart)|Press Enter|login: $|No bootable option|Kernel panic'
# Signs that something was started from the disk.
pivot_signs='^sealroot-probe:|decoy:|login:|Switching root|Stopped initrd-switch-root|initrd-switch-root.service: Deactivated|sealed root.* in place|multi-user.target|Debian GNU/Linux 13'

# prepare_scenarios: builds what all boots share, before any of them starts.
prepare_scenarios() {
  local algorithm
  SEALROOT_PROGRAM="$(program_path)"
  export SEALROOT_PROGRAM
  repository="$("$qemu_dir/repository")"
  # shellcheck disable=SC1091 # NAME=VALUE lines
  . "$repository/env"
  for algorithm in "$@"; do
    "$qemu_dir/disk" "$algorithm" >/dev/null
  done
  # Also settles which accelerator is used.
  accelerator >/dev/null
}

# disk_for NAME ALGORITHM UKI_ARGUMENT...: a disk of its own for one boot, as $work/NAME.
disk_for() {
  local name="$1" algorithm="$2" uki
  shift 2
  uki="$("$qemu_dir/uki" "$@")"
  "$qemu_dir/disk" "$algorithm" "$uki" "$work/$name"
}

# boot NAME [SECONDS [ARGUMENT...]]: boots that disk and throws it away; the console is in $logs/NAME.log. The rest goes
# to QEMU.
boot() {
  local status=0 limit="${2:-300}"
  "$qemu_dir/run" --timeout "$limit" --until "$boot_ends" --log "$logs/$1.log" "$work/$1" -- "${@:3}" || status=$?
  rm -f "$work/$1"
  case "$status" in
    0) ;;
    124) echo "the machine still ran after $limit s" ;;
    *) echo "the machine ended by itself" ;;
  esac
}

# image_object DIGEST: where the repository keeps an image.
image_object() {
  echo "objects/${1:0:2}/${1:2}"
}

# probe NAME KEY: what the booted system says about itself.
probe() {
  sed -n "s/^sealroot-probe: $2=//p" "$logs/$1.log" | head -n 1
}

# must NAME KEY PATTERN: complains unless the booted system's answer matches (extended regular expression, whole line).
must() {
  local answer
  answer="$(probe "$1" "$2")"
  [[ $answer =~ ^($3)$ ]] || echo "$2: expected '$3', found '$answer'"
}

# expect_sealed NAME DIGEST: complains about all that isn't as it must be in a system that was booted sealed.
expect_sealed() {
  local name="$1" digest="$2" key
  grep -q '^sealroot-probe: end' "$logs/$name.log" || {
    echo "the system did not come up"
    return
  }
  must "$name" secure-boot on
  must "$name" root "composefs:$digest ro,.*"
  must "$name" root ".*[ ,]verity=require(,.*)?"
  must "$name" report-verdict sealed
  must "$name" report-digest "$digest"
  must "$name" cmdline ".*[:=]$digest( .*)?"
  must "$name" sysroot "ext4 ro,.*"
  for key in root usr file sysroot; do
    must "$name" "write-$key" "no: Read-only file system"
  done
  for key in etc var; do
    must "$name" "$key" "[a-z0-9]+ rw,(.*,)?nosuid,nodev(,.*)?"
    must "$name" "write-$key" yes
  done
  must "$name" multi-user active
  must "$name" failed-units ""
}

# expect_canary NAME VALUE: what reading the file gives that tests damage; nothing else may be unreadable.
expect_canary() {
  must "$1" canary "$2"
  ! grep '^sealroot-probe: unreadable' "$logs/$1.log" || true
}

# expect_refused NAME TEXT: complains unless sealroot refused with exactly this text in the line, and nothing was started.
expect_refused() {
  local name="$1" line
  line="$(refusal "$name")"
  [[ $line == *"boot refused: $2"* ]] || echo "expected the refusal '$2', found '$line'"
  grep -q 'UEFI Secure Boot is enabled' "$logs/$name.log" || echo "Secure Boot was not on"
  grep -qE 'reboot: (System halted|Power down|Restarting|machine restart)|Press Enter' "$logs/$name.log" ||
    echo "the refusal did not end the boot"
  no_pivot "$name"
}

# The refusals that both the demo and the tests wait for; DIGEST and OTHER are SHA-512.

# damaged_image DIGEST
damaged_image() {
  echo "look-inside: image 'images/$1': expected content that belongs to its digest, found damage: "
}

# replaced_image DIGEST OTHER
replaced_image() {
  echo "measure: image 'images/$1': expected sha512:$1, measured sha512:$2"
}

# refusal NAME: the line with which sealroot refused.
refusal() {
  grep -aom1 'sealroot: boot refused: .*' "$logs/$1.log" || true
}

# no_pivot NAME: complains about every sign that something from the disk was started.
no_pivot() {
  grep -aE "$pivot_signs" "$logs/$1.log" | head -n 3 | cut -c1-200 | sed 's/^/sign of a pivot: /' || true
}

# expect_firmware_refusal NAME: complains unless the firmware did not even start the kernel.
expect_firmware_refusal() {
  grep -q 'Access Denied' "$logs/$1.log" || echo "the firmware did not refuse the image"
  ! grep -aE 'EFI stub|Linux version' "$logs/$1.log" | sed 's/^/a kernel was started: /' || true
  no_pivot "$1"
}
