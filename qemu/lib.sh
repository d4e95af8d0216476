#!/bin/bash
# Shared by the scripts in this folder: cache, progress, locks, private apt, the boot program. Sourced, not run.
set -euo pipefail
shopt -s inherit_errexit

qemu_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
project_dir="$(dirname "$qemu_dir")"
cache_dir="${XDG_CACHE_HOME:-$HOME/.cache}/sealroot"
mkdir -p "$cache_dir/tmp" "$cache_dir/lock"

# A signal ends a script the way an error does, with what it has to clean up.
trap 'exit 130' INT
trap 'exit 143' TERM

# Tools of the system administrator live in sbin, which a plain user's PATH lacks.
PATH="$PATH:/usr/sbin:/sbin"
# Progress lines count from the start of the outermost script.
export SEALROOT_STARTED="${SEALROOT_STARTED:-$EPOCHSECONDS}"

# say TEXT...: a progress line on standard error, with the seconds since the start.
say() {
  printf '[%4ds] %s\n' "$((EPOCHSECONDS - SEALROOT_STARTED))" "$*" >&2
}

# die TEXT...: an error line, and the end.
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# usage SCRIPT: the comment block below a script's first line is its help text.
usage() {
  awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$1"
}

# with_progress LABEL COMMAND...: runs a command quietly, says that it runs when it takes long, again every 10 s, and
# shows the end of its output when it fails.
with_progress() {
  local label="$1" log started="$EPOCHSECONDS" pid beat status=0
  shift
  log="$(mktemp "$cache_dir/tmp/log.XXXXXX")"
  "$@" >"$log" 2>&1 &
  pid=$!
  (
    # A sleep that outlives its shell must not hold the caller's pipes open.
    sleep 2 2>/dev/null
    say "$label …"
    while sleep 10 2>/dev/null; do
      say "$label … ($((EPOCHSECONDS - started)) s)"
    done
  ) >/dev/null &
  beat=$!
  wait "$pid" || status=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  if ((status)); then
    say "$label: failed with status $status:"
    tail -n 30 "$log" >&2
  fi
  rm -f "$log"
  return "$status"
}

# key_of ITEM...: the key of an artefact: a digest over texts, files and folders (names, modes and content).
key_of() {
  local item
  for item in "$@"; do
    if [[ $item == /* && -f $item ]]; then
      printf 'file %s ' "${item##*/}"
      sha256sum <"$item"
    elif [[ $item == /* && -d $item ]]; then
      printf 'folder %s\n' "${item##*/}"
      (cd "$item" &&
        find . -type f -printf '%P %m\n' -exec sha256sum {} + , -type l -printf '%P -> %l\n' | LC_ALL=C sort)
    else
      printf 'text %s\n' "$item"
    fi
  done | sha256sum | cut -c1-20
}

# cached KIND KEY BUILDER ARGUMENT...: prints the folder of an artefact. When it isn't there, BUILDER is called with a
# new folder to fill, which is published under its name when complete. Others who want the same one wait.
cached() {
  local kind="$1" key="$2" target
  target="$cache_dir/$kind/$key"
  if [[ ! -d $target ]]; then
    (
      exec 9>"$cache_dir/lock/$kind-$key"
      flock -n 9 || {
        say "$kind: waiting for another script that builds it …"
        flock 9
      }
      [[ ! -d $target ]] || exit 0
      new="$(mktemp -d "$cache_dir/tmp/$kind.XXXXXX")"
      trap 'rm -rf --one-file-system "$new"' EXIT
      shift 2
      "$1" "$new" "${@:2}" >&2 9>&-
      mkdir -p "$cache_dir/$kind"
      chmod 755 "$new"
      mv -T "$new" "$target"
    )
    prune "$kind"
  fi
  touch "$target"
  printf '%s\n' "$target"
}

# prune KIND: forgets artefacts of a kind that nothing asked for in the last three days, but for the newest two, and
# what killed scripts left behind.
prune() {
  find "$cache_dir/tmp" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf --one-file-system {} +
  find "$cache_dir/$1" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d' ' -f2- |
    while read -r old; do
      find "$old" -maxdepth 0 -mmin +4320 -exec rm -rf --one-file-system {} +
    done
}

# scratch_dir: a folder that goes away when the script ends, and what it runs in the background with it. Its path is in
# the variable `scratch`.
scratch_dir() {
  scratch="$(mktemp -d "$cache_dir/tmp/${0##*/}.XXXXXX")"
  trap 'end_tree $(jobs -rp); rm -rf --one-file-system "$scratch"' EXIT
}

# end_tree PROCESS...: ends processes with all their children.
end_tree() {
  local process
  for process; do
    # shellcheck disable=SC2046 # numbers
    end_tree $(pgrep -P "$process" || true)
    kill "$process" 2>/dev/null || true
  done
}

# need COMMAND...: refuses clearly when a tool is missing.
need() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  [[ ${#missing[@]} -eq 0 ]] || die "missing: ${missing[*]} (qemu/setup installs what is needed)"
}

# debian_mirror: the package archive that this machine's own apt uses for its main component.
debian_mirror() {
  local codename mirror
  codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
  # apt fills in the $(…) fields, not the shell.
  # shellcheck disable=SC2016
  mirror="$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v codename="$codename" '$1 == codename && $2 == "main" && !found { print $3; found = 1 }')"
  [[ -n $mirror ]] || die "apt on this machine knows no main archive of '$codename'"
  printf '%s\n' "$mirror"
}

# private_apt ARCHIVE COMMAND ARGUMENT...: apt-get or apt-cache on another archive, without touching the machine's own
# apt. ARCHIVE is SUITE, or SUITE:ARCHITECTURE for another one than amd64.
private_apt() {
  local archive="$1" command="$2" suite architecture=amd64 dir mirror
  shift 2
  suite="${archive%%:*}"
  [[ $archive != *:* ]] || architecture="${archive#*:}"
  dir="$cache_dir/apt/${archive/:/-}"
  if [[ ! -f $dir/complete ]]; then
    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/parts"
    : >"$dir/status"
    mirror="$(debian_mirror)"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" \
      >"$dir/sources.list"
  fi
  local options=(
    -o "Dir::Etc::sourcelist=$dir/sources.list" -o "Dir::Etc::sourceparts=$dir/parts"
    -o "Dir::State::lists=$dir/lists" -o "Dir::State::status=$dir/status"
    -o "Dir::Cache=$dir" -o "Dir::Cache::archives=$dir/archives"
    -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false
    -o APT::Update::Post-Invoke-Success::= -o APT::Update::Post-Invoke::=
  )
  if [[ ! -f $dir/complete || -n $(find "$dir/complete" -mmin +720) ]]; then
    with_progress "package lists of $archive" flock "$cache_dir/lock/apt-${archive/:/-}" \
      apt-get "${options[@]}" -qq update
    touch "$dir/complete"
  fi
  "$command" "${options[@]}" "$@"
}

# remembered FILE REFRESH COMMAND...: what a command printed when it was first asked, from FILE below the cache; it is asked again
# if REFRESH is `yes`.
remembered() {
  local known="$cache_dir/$1" answer
  if [[ $2 == yes || ! -s $known ]]; then
    mkdir -p "${known%/*}"
    answer="$("${@:3}")"
    echo "$answer" >"$known.$$"
    mv "$known.$$" "$known"
  fi
  cat "$known"
}

# fetch_packages ARCHIVE FOLDER PACKAGE...: downloads packages and unpacks them below FOLDER.
fetch_packages() {
  local archive="$1" folder="$2" downloads package
  shift 2
  downloads="$(mktemp -d "$cache_dir/tmp/packages.XXXXXX")"
  (cd "$downloads" && private_apt "$archive" apt-get -q download "$@")
  for package in "$downloads"/*.deb; do
    dpkg -x "$package" "$folder"
  done
  rm -rf "$downloads"
}

# helper_program CRATE [TARGET]: builds one of the helper crates here and prints the path of its program.
helper_program() {
  local crate="$1" target="${2:-}" dir="$cache_dir/target/$1"
  ensure_target "$target"
  local args=(--release --locked --quiet --manifest-path "$qemu_dir/$crate/Cargo.toml" --target-dir "$dir")
  [[ -z $target ]] || args+=(--target "$target")
  local flags=()
  [[ $target != *-gnu ]] || flags=(RUSTFLAGS=-Ctarget-feature=+crt-static)
  with_progress "building $crate" env -u RUSTFLAGS -u CARGO_BUILD_TARGET "${flags[@]}" cargo build "${args[@]}"
  printf '%s\n' "$dir/${target:+$target/}release/$crate"
}

# For programs of another architecture Rust's own linker will do: no cross compiler is needed.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER="${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER:-rust-lld}"

# ensure_target TARGET: adds a compilation target with rustup; returns 1 where that can't be done.
ensure_target() {
  local target="$1" sysroot
  [[ -n $target ]] || return 0
  sysroot="$(rustc --print sysroot)"
  [[ ! -d $sysroot/lib/rustlib/$target/lib ]] || return 0
  command -v rustup >/dev/null && with_progress "adding the target $target" rustup target add "$target"
}

# static_target: the target for static programs: musl, or glibc where rustup can't add musl.
static_target() {
  if ensure_target x86_64-unknown-linux-musl; then
    echo x86_64-unknown-linux-musl
  else
    echo x86_64-unknown-linux-gnu
  fi
}

# program NAME [TARGET]: builds `sealroot-initrd` or `sealroot`, static and without symbols, and prints the path of a copy that
# stays as it is, whatever becomes of the sources meanwhile.
program() {
  local name="$1" target="${2:-$(static_target)}" profile=release options=() flags=() built
  [[ $name != sealroot ]] || profile=cli options=(--features cli)
  [[ $target != *-gnu ]] || flags=(RUSTFLAGS=-Ctarget-feature=+crt-static)
  ensure_target "$target" || die "no target $target"
  (cd "$project_dir" && with_progress "building $name" env "${flags[@]}" \
    cargo build --profile "$profile" --locked --bin "$name" --target "$target" "${options[@]}")
  built="${CARGO_TARGET_DIR:-$project_dir/target}/$target/$profile/$name"
  printf '%s/%s\n' "$(cached program "$(key_of "$built")" keep "$built")" "$name"
}

# keep FOLDER FILE
keep() {
  cp "$2" "$1/"
}

# What a sealed command line carries, as `sealroot karg --sealed` prints it.
# shellcheck disable=SC2034 # for the caller
sealed_kargs=(
  systemd.import_credentials=no systemd.imds=no fstab=no rd.fstab=no rd.shell=0 rd.emergency=halt noresume
  systemd.mask=systemd-sysext.service systemd.mask=systemd-confext.service
  systemd.gpt_auto=no systemd.factory_reset=no rootflags=errors=remount-ro
  systemd.condition_first_boot=no systemd.firstboot=no systemd.mask=dracut-shutdown.service
)

# build_stub FOLDER SUITE
build_stub() {
  with_progress "downloading the boot stub of $2" fetch_packages "$2" "$1/unpacked" systemd-boot-efi
  mv "$1/unpacked/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$1/"
  rm -r "$1/unpacked"
}

# package_version ARCHIVE PACKAGE
package_version() {
  private_apt "$1" apt-cache show --no-all-versions "$2" | sed -n 's/^Version: //p'
}

# boot_stub NAME [TARGET]: prints the path of a boot stub: `sealroot` is the project's own, for that target, `mutant:NAME` a mutant of it
# (qemu/stub), `systemd` the Debian root's own, which ukify takes by itself (no path), and else that of another Debian's systemd, by
# the name of its suite.
boot_stub() {
  case "$1" in
    sealroot) "$qemu_dir/stub" "${@:2}" ;;
    mutant:*) "$qemu_dir/stub" --mutant "${1#mutant:}" ;;
    systemd) ;;
    *) echo "$(cached stub "$(key_of "$(declare -f build_stub)" \
      "$(remembered "resolved/stub-$1" no package_version "$1" systemd-boot-efi)")" build_stub "$1")/linuxx64.efi.stub" ;;
  esac
}

# sign_with_the_test_key PROGRAM TO [FOLDER]: signs a program for UEFI with the test key of Debian's ovmf package, or with one in a
# folder of qemu/firmware.
sign_with_the_test_key() {
  local key pair="${3:-/usr/share/ovmf}/PkKek-1-snakeoil"
  key="$(mktemp "$cache_dir/tmp/key.XXXXXX")"
  openssl rsa -in "$pair.key" -passin pass:snakeoil -out "$key" 2>/dev/null
  with_progress "signing ${1##*/}" sbsign --key "$key" --cert "$pair.pem" --output "$2" "$1"
  rm "$key"
}

# in_root ROOT COMMAND...: runs a command in another root, in a mount namespace that takes the mounts along at its end.
in_root() {
  # The script is for the other shell.
  # shellcheck disable=SC2016
  unshare --mount sh -ec 'root="$1"; shift
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" "$@"' sh "$@"
}

# native_machine SCRIPT DISK... [-- FILE:PATH...]: runs a shell script as root in a native machine; the disks are its /dev/ubda,
# /dev/ubdb, …, and the files are at those paths.
native_machine() {
  local script="$1" folder kernel disks=() letter=0 file status=0
  shift
  folder="$(mktemp -d "$cache_dir/tmp/machine.XXXXXX")"
  mkdir "$folder/root"
  printf '#!/bin/sh -e\n%s\n' "$script" >"$folder/root/job"
  chmod 755 "$folder/root/job"
  while (($#)) && [[ $1 != -- ]]; do
    disks+=("ubd$((letter++))=$1")
    shift
  done
  for file in "${@:2}"; do
    install -D -m "$(stat -Lc %a "${file%%:*}")" "${file%%:*}" "$folder/root/${file#*:}"
  done
  kernel="$("$qemu_dir/native-kernel")"
  {
    cat "$("$qemu_dir/guest")"
    (cd "$folder/root" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0)
  } >"$folder/initramfs"
  TMPDIR="$folder" timeout -k 5 300 "$kernel/linux" seccomp=on mem=1024M "initrd=$folder/initramfs" "${disks[@]}" \
    con=null con0=fd:0,fd:1 ssl=null console=tty0 guest_output=/dev/console panic=-1 oops=panic </dev/null \
    >"$folder/console" 2>&1 || status=$?
  if ! grep -q '^guest: status 0' "$folder/console"; then
    tail -n 30 "$folder/console" >&2
    rm -rf "$folder"
    echo "the machine ended without success (status $status)" >&2
    return 1
  fi
  rm -rf "$folder"
}
