#!/bin/bash
# bench_verify: `sealroot verify` beside composefs-rs's check of a repository. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

# What runs in the guest: hundredths of a second for each of the two, by /proc/uptime.
# shellcheck disable=SC2016 # for the guest's shell
verify_guest='
  mount -t ext4 -o ro /dev/vda2 /mnt
  now() { cut -d" " -f1 /proc/uptime | tr -d .; }
  timed() {
    [ "$cache" = full ] || echo 3 >/proc/sys/vm/drop_caches
    start=$(now)
    "$@" >/tmp/said || { cat /tmp/said; exit 1; }
    took=$(($(now) - start))
  }
  for cache in empty full; do
    pair=0
    while [ $((pair += 1)) -le "$pairs" ]; do
      timed /sealroot verify --repo /mnt/composefs --all
      ours=$took
      timed /repository-fsck sha512 /mnt/composefs
      echo "result ${cpus}_CPU,_cache_$cache $ours $took"
    done
  done
  timed /sealroot verify --repo /mnt/composefs --all
  tail -n 1 /tmp/said
  cache=empty
  timed /sealroot verify --data --repo /mnt/composefs --all
  echo "data $cpus CPU: $took hundredths of a second"'

bench_verify() {
  local disk command peer library adds=() cpus
  disk="$("$qemu_dir/disk" sha512)"
  command="$(native_command)"
  peer="$(helper_program repository-fsck)"
  for library in $(ldd "$peer" "$command" | grep -oE '/[^ :]+\.so[^ ]*' | sort -u); do
    adds+=(--add "$library:$library")
  done
  for cpus in 1 2; do
    "$qemu_dir/vm" --read-only "$disk" --cpus "$cpus" --timeout 1500 --add "$command:/sealroot" --add "$peer:/repository-fsck" \
      "${adds[@]}" --env "pairs=$(rounds 11)" --env "cpus=$cpus" -- sh -ec "$verify_guest"
  done >"$scratch/said"
  grep -q '^data ' "$scratch/said" || die "$(tail -n 5 "$scratch/said")"
  heading "| check of a repository ($(grep -m1 'objects are right' "$scratch/said")) | ratio | from–to | sealroot | fsck |" \
    '|---|---|---|---|---|'
  sed -n 's/^result //p' "$scratch/said" | table verify 100
  if [[ -n $json ]]; then
    awk '$1 == "data" { printf "{\"table\":\"verify --data\",\"row\":\"%d CPU\",\"sealroot\":%.2f}\n", $2, $4 / 100 }' "$scratch/said"
  else
    echo
    grep '^data ' "$scratch/said"
  fi
}
