#!/bin/bash
# Boots of the sealed Debian and what must come of them, for qemu/demo and tests/boot. Sourced, not run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The caller sets these: folders for disks and for console logs.
work=
logs=
# For one boot: an option of qemu/run, what the kernel must say about Secure Boot, and what must follow a refusal.
firmware=
secure_boot=
action=

# What ends a boot: the report from inside, a stopped machine, a prompt, the firmware giving up.
boot_ends='^sealroot-probe: end|reboot: (System halted|Power down|Restarting|machine restart)|Press Enter|login: $|No bootable option|Kernel panic'
# Signs that something was started from the disk.
start_signs='^sealroot-probe:|decoy:|Switching root|Stopped initrd-switch-root|initrd-switch-root.service: Deactivated|multi-user.target|Welcome to Debian GNU/Linux 13 .trixie.!$'
# The same, and what looks like a prompt.
pivot_signs="$start_signs|[Ll]ogin:|Press Enter|maintenance|[Pp]assword:|^[a-z0-9@:~/.-]*[#\$] ?\$|sh-[0-9.]+[#\$]"

# prepare_scenarios: builds what all boots share, before any of them starts.
prepare_scenarios() {
  local algorithm
  SEALROOT_PROGRAM="$(program_path)"
  export SEALROOT_PROGRAM
  repository="$("$qemu_dir/repository")"
  # shellcheck disable=SC1091 # NAME=VALUE lines
  . "$repository/env"
  # shellcheck disable=SC2034 # for the caller
  karg="composefs.digest=v1-sha512-12:$SHA512_V1"
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

# on_esp NAME FILE PATH: puts a file on the EFI system partition of that disk.
on_esp() {
  local folder="" part
  while [[ $3 == "${folder:+$folder/}"*/* ]]; do
    part="${3#"${folder:+$folder/}"}"
    folder="${folder:+$folder/}${part%%/*}"
    mmd -D s -i "$work/$1@@1M" "::$folder" 2>/dev/null || true
  done
  mcopy -i "$work/$1@@1M" "$2" "::$3"
}

# sign_efi FILE NEW: a copy that is signed with the key that the firmware knows.
sign_efi() {
  openssl rsa -in /usr/share/ovmf/PkKek-1-snakeoil.key -passin pass:snakeoil -out "$work/signing-key" 2>/dev/null
  sbsign --key "$work/signing-key" --cert /usr/share/ovmf/PkKek-1-snakeoil.pem --output "$2" "$1" 2>/dev/null
}

# config LINE: a configuration whose [policy] has this line; prints its path. The name is always the same, and with it the
# UKI that the cache has.
config() {
  local file
  file="$(mktemp -d "$work/config.XXXXXX")/config.toml"
  printf '[policy]\nfailure-delay = 0\n%s\n' "$1" >"$file"
  echo "$file"
}

# boot NAME [SECONDS [ARGUMENT...]]: boots that disk and throws it away; the console is in $logs/NAME.log. The rest goes
# to QEMU.
boot() {
  local status=0 limit="${2:-300}"
  "$qemu_dir/run" ${firmware:+"$firmware"} --timeout "$limit" --until "$boot_ends" --log "$logs/$1.log" "$work/$1" -- "${@:3}" || status=$?
  rm -f "$work/$1"
  case "$status" in
    0) ;;
    124) echo "the machine still ran after $limit s" ;;
    *) echo "the machine ended by itself" ;;
  esac
}

# outcome NAME TEXT: what came of a boot, for the line of a test.
outcome() {
  printf '%s\n' "$2" >"$work/$1.outcome"
}

# also NAME ATTACK TEXT: one more outcome of a boot in which several attacks were made at once.
also() {
  printf '%s %s\n' "$2" "$3" >>"$work/$1.also"
}

# image_object DIGEST: where the repository keeps an image.
image_object() {
  echo "objects/${1:0:2}/${1:2}"
}

# image_file DIGEST: a copy of an image as it was written, without fs-verity.
image_file() {
  echo "$repository/sha512/composefs/$(image_object "$1")"
}

# replace_by_file NAME FILE: on that disk, the name of the image leads to this content, without fs-verity.
replace_by_file() {
  "$qemu_dir/tamper" "$work/$1" debugfs "cd /composefs/images" "rm $SHA512_V1" "write $2 $SHA512_V1"
}

# prepare_luks: a key for tests, no secret; always the same, so that the UKI that carries it need not be made again.
prepare_luks() {
  luks_key="$work/luks-key"
  echo -n 'a key that everyone knows' >"$luks_key"
}

# encrypt NAME: that boot's disk, so that nothing of the root is readable.
encrypt() {
  "$qemu_dir/encrypt" "$work/$1" "$luks_key"
  ! grep -qaF "decoy: the physical root" "$work/$1" || echo "the root partition is not encrypted"
}

# expect_opened NAME: complains unless systemd opened the partition.
expect_opened() {
  grep -q 'Finished systemd-cryptsetup@sealed.* - Cryptography Setup for sealed' "$logs/$1.log" ||
    echo "systemd-cryptsetup did not open the root partition"
}

# probe NAME KEY: what the booted system says about itself.
probe() {
  sed -n "s|^sealroot-probe: $2=||p" "$logs/$1.log" | head -n 1
}

# must NAME KEY PATTERN: complains unless the booted system's answer matches (extended regular expression, whole line).
must() {
  local answer
  answer="$(probe "$1" "$2")"
  [[ $answer =~ ^($3)$ ]] || echo "$2: expected '$3', found '$answer'"
}

# must_be NAME KEY TEXT: the same with a text as it stands.
must_be() {
  local answer
  answer="$(probe "$1" "$2")"
  [[ $answer == "$3" ]] || printf "%s: expected '%s'\n%s  found    '%s'\n" "$2" "$3" "${2//?/ }" "$answer"
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

# expect_open NAME OPENING REMEDY: complains unless the booted system's report names what the command line leaves open,
# and the boot program warned of it. Prints the warning as the outcome of NAME.
expect_open() {
  local warning
  warning="$(grep -aom1 'sealroot: the kernel command line leaves ways around the seal open, missing: .*' "$logs/$1.log" || true)"
  must "$1" report-verdict sealed
  must "$1" report ".*\"openings\":\\[[^]]*\"$2\".*"
  [[ $warning == *" $3"* ]] || echo "expected a warning that $3 is missing, found '$warning'"
}

# expect_refused NAME TEXT: complains unless sealroot refused with exactly this reason, ended the boot itself, and nothing
# was started. `<errno N>` stands for the C library's words for an error.
expect_refused() {
  local found
  found="$(reason "$1")"
  [[ $found == "$2" ]] || printf "expected the refusal '%s'\n              found      '%s'\n" "$2" "$found"
  expect_end "$1"
}

# expect_refused_like NAME PATTERN: the same with an extended regular expression for the whole reason.
expect_refused_like() {
  local found
  found="$(reason "$1")"
  [[ $found =~ ^($2)$ ]] || printf "expected the refusal '%s'\n              found      '%s'\n" "$2" "$found"
  expect_end "$1"
}

expect_end() {
  local name="$1"
  outcome "$name" "refused: $(reason "$name")"
  grep -q "${secure_boot:-UEFI Secure Boot is enabled}" "$logs/$name.log" || echo "Secure Boot was not as it must be"
  grep -qF "sealroot: boot refused: $(refusal "$name"); ${action:-halt} in " "$logs/$name.log" ||
    echo "the reason was not given at emergency level"
  case "${action:-halt}" in
    halt) grep -q 'reboot: System halted' "$logs/$name.log" ;;
    reboot) grep -qE 'reboot: (Restarting system|machine restart)' "$logs/$name.log" ;;
    poweroff) grep -q 'reboot: Power down' "$logs/$name.log" ;;
  esac || echo "the refusal did not end in ${action:-halt}"
  # Only the gate has a sealed root before it.
  [[ $(reason "$name") == gate:* ]] || ! grep -a 'sealroot: .*root in place' "$logs/$name.log" || true
  no_pivot "$name"
}

# The refusals that both the demo and the tests wait for; DIGEST and OTHER are SHA-512.

# damaged_image DIGEST
damaged_image() {
  echo "look-inside: image 'images/$1': expected content that belongs to its digest, found damage: <errno 5>"
}

# replaced_image DIGEST OTHER
replaced_image() {
  echo "measure: image 'images/$1': expected sha512:$1, measured sha512:$2"
}

# refusal NAME: the reason that sealroot gave first.
refusal() {
  grep -aom1 'sealroot: boot refused: .*' "$logs/$1.log" | sed 's/^sealroot: boot refused: //' || true
}

# reason NAME: the same, with `<errno N>` for the words of an error.
reason() {
  refusal "$1" | sed -E 's/[A-Z][A-Za-z/ -]* \(os error ([0-9]+)\)/<errno \1>/g'
}

# shortened: long digests in a line cut to their beginning.
shortened() {
  sed -E 's/([0-9a-f]{16})[0-9a-f]{48,}/\1…/g'
}

# no_pivot NAME: complains about every sign that something from the disk was started, or that somebody could.
no_pivot() {
  # What the kernel and the firmware said before is no sign.
  sed -n '/Run \/init as init process/,$p' "$logs/$1.log" | grep -aE "$pivot_signs" | head -n 3 | cut -c1-200 |
    sed 's/^/sign of a pivot: /' || true
}

# no_start NAME: complains about every sign that something from the disk was started.
no_start() {
  grep -aE "$start_signs" "$logs/$1.log" | head -n 3 | cut -c1-200 | sed 's/^/sign of a pivot: /' || true
}

# expect_firmware_refusal NAME: complains unless the firmware did not even start the kernel.
expect_firmware_refusal() {
  grep -q 'Access Denied' "$logs/$1.log" || echo "the firmware did not refuse the image"
  ! grep -aE 'EFI stub|Linux version' "$logs/$1.log" | sed 's/^/a kernel was started: /' || true
  no_start "$1"
  outcome "$1" "ignored by the firmware: $(grep -aom1 'Access Denied' "$logs/$1.log" || true)"
}
