#!/bin/bash
# The programs that are measured, ours and those of others. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

peer_version=0.9.4

# native_command: the command as distributions build it: with this machine's C library, which the others have too.
native_command() {
  (cd "$project_dir" && with_progress "building sealroot" cargo build --profile cli --locked --features cli --bin sealroot)
  echo "${CARGO_TARGET_DIR:-$project_dir/target}/cli/sealroot"
}

# build_peer FOLDER [FLAGS]: composefs-setup-root; the default build is linked to this machine's C library.
build_peer() {
  with_progress "building composefs-setup-root $peer_version" env RUSTFLAGS="${2:-}" cargo install --quiet --locked \
    --root "$1" --target x86_64-unknown-linux-gnu --target-dir "$1/target" "composefs-setup-root@$peer_version"
  rm -r "$1/target"
  strip "$1/bin/composefs-setup-root"
}

# peer_program [FLAGS]
peer_program() {
  local folder
  folder="$(cached peer "$(key_of "$peer_version" "$(rustc -V)" "$(declare -f build_peer)" "$@")" build_peer "$@")"
  printf '%s/bin/composefs-setup-root\n' "$folder"
}
