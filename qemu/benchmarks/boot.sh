#!/bin/bash
# bench_boot: a whole boot of a sealed root, of dm-verity and of plain ext4, and reading files back. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

# All have the tree that qemu/repository seals, its kernel, the same firmware and command line, and dracut's initramfs;
# what mounts the root differs, and what goes with it: the initramfs of dm-verity has dracut's modules systemd-veritysetup
# and dm (1 MB of drivers), that of ext4 nothing. dm-verity is the ext4 image of the third with a hash tree beside it.
# The sealed one has the default config (check = "image") and so a writable /etc, the others have a read-only one. /var
# is empty and in memory, so that a read-only root comes up without complaints, and nothing is made anew as on a first boot,
# which an empty /var looks like. composefs has SHA-512 by default and dm-verity SHA-256: the seal with SHA-256 tells what
# the algorithm costs.
boot_roots=(sealed-sha512 sealed-sha256 dm-verity ext4)
boot_root_uuid=5ea17007-0000-4000-8000-000000000003
boot_hash_uuid=5ea17007-0000-4000-8000-000000000004
boot_root_start=97 # MiB, as in qemu/disk

# What the booted system runs, as a part of the command line: without double quotes, and systemd makes $ of $$. It waits
# until the drivers that come late are loaded. Files are read in the order of their names, which is the order of no disk.
# shellcheck disable=SC2016 # for the guest's shell
boot_guest='systemctl start multi-user.target; udevadm settle; sleep 1; echo 3 >/proc/sys/vm/drop_caches; read from idle </proc/uptime;
  find /usr -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 cat >/dev/null; read to idle </proc/uptime;
  echo boot-times: root=$$(findmnt -no SOURCE /) from=$$from to=$$to
  $$(systemctl show -p InitRDTimestampMonotonic,UserspaceTimestampMonotonic)
  multi-user=$$(systemctl show --value -p ActiveEnterTimestampMonotonic multi-user.target) >/dev/console'
boot_line=(systemd.volatile=state systemd.condition_needs_update=no systemd.wants=multi-user.target systemd.mask=sealroot-probe.service
  systemd.run_success_action=poweroff-force systemd.run_failure_action=poweroff-force
  "systemd.run=\"/bin/sh -ec '$(tr -s '\n ' ' ' <<<"$boot_guest")'\"")

# build_boot_disk FOLDER: a disk like that of qemu/disk, with the tree itself on ext4, and dm-verity's hash tree.
build_boot_disk() {
  local new="$1" size hash_size hash_start
  sealed_tree "$rootfs/root" "$new/tree"
  find "$new/tree/usr" -type f -printf '%s\n' | awk '{ bytes += $1 } END { print NR, bytes }' >"$new/usr"
  size="$(($(du -sm "$new/tree" | cut -f1) * 5 / 4 + 96))"
  hash_size="$((size / 100 + 2))"
  hash_start="$((boot_root_start + size))"
  say "writing a root of ext4 ($size MiB) and its hash tree …"
  mke2fs -q -t ext4 -b 4096 -m 0 -d "$new/tree" "$new/root" "${size}M"
  rm -rf "$new/tree"
  veritysetup format "$new/root" "$new/hash" | awk '$1 == "Root" { print $3 }' >"$new/roothash"
  truncate -s "$((hash_start + hash_size + 1))M" "$new/disk"
  sfdisk -q "$new/disk" <<-END
		label: gpt
		start=1MiB, size=96MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
		start=${boot_root_start}MiB, size=${size}MiB, type=linux, uuid=$boot_root_uuid, name=root
		start=${hash_start}MiB, size=${hash_size}MiB, type=linux, uuid=$boot_hash_uuid, name=hash
	END
  mformat -i "$new/disk@@1M" -v ESP -F -T "$((96 * 2048))" ::
  mmd -i "$new/disk@@1M" ::EFI ::EFI/BOOT
  dd if="$new/root" of="$new/disk" bs=1M seek="$boot_root_start" conv=notrunc,sparse status=none
  dd if="$new/hash" of="$new/disk" bs=1M seek="$hash_start" conv=notrunc status=none
  rm "$new/root" "$new/hash"
}

# boot_disk ROOT: makes the disk that boots this root, in $scratch, and notes what its / is mounted from.
boot_disk() {
  local uki algorithm digest roothash
  case "$1" in
    sealed-*)
      algorithm="${1#sealed-}"
      digest="$(sed -n "s/^${algorithm^^}_V1=//p" "$repository/env")"
      uki="$("$qemu_dir/uki" "composefs.digest=v1-$algorithm-12:$digest" "${boot_line[@]}")"
      "$qemu_dir/disk" "$algorithm" "$uki" "$scratch/$1"
      echo "composefs:$digest" >"$scratch/$1.source"
      return
      ;;
    dm-verity)
      roothash="$(<"$plain/roothash")"
      uki="$("$qemu_dir/uki" --peer dm-verity --root /dev/mapper/root "roothash=$roothash" \
        "systemd.verity_root_data=PARTUUID=$boot_root_uuid" "systemd.verity_root_hash=PARTUUID=$boot_hash_uuid" \
        ro "${boot_line[@]}")"
      echo /dev/mapper/root >"$scratch/$1.source"
      ;;
    ext4)
      uki="$("$qemu_dir/uki" --peer plain --root "PARTUUID=$boot_root_uuid" ro "${boot_line[@]}")"
      echo /dev/vda2 >"$scratch/$1.source"
      ;;
  esac
  cp --sparse=always --reflink=auto "$plain/disk" "$scratch/$1"
  mcopy -i "$scratch/$1@@1M" "$uki" ::EFI/BOOT/BOOTX64.EFI
}

# boot_once ROOT: boots it and prints seconds: from QEMU's start (with that of qemu/run) and from the kernel's to
# switch-root, in the initrd, from the kernel's start to multi-user, and of reading the files.
boot_once() {
  local line started="${EPOCHREALTIME/,/.}"
  "$qemu_dir/run" --timeout 600 "$scratch/$1" | while IFS= read -r line; do
    printf '%s %s\n' "${EPOCHREALTIME/,/.}" "$line"
  done >"$scratch/console" || die "$1 did not end: $(tail -n 5 "$scratch/console")"
  awk -v started="$started" -v source="$(<"$scratch/$1.source")" '
    /Starting initrd-switch-root.service/ { leaving = 1 }
    # What PID 1 of the root says first.
    leaving && !switched && /systemd\[1\]: systemd .* running in system mode/ { switched = $1 }
    # Behind a login prompt, often. The command line, which the kernel prints, has such words too; the last ones count.
    / boot-times: / { for (i = 2; i <= NF; i++) if (split($i, pair, "=") == 2) value[pair[1]] = pair[2] }
    END {
      if (!switched || value["root"] != source || !value["multi-user"]) exit 1
      userspace = value["UserspaceTimestampMonotonic"] / 1e6
      print switched - started, userspace, userspace - value["InitRDTimestampMonotonic"] / 1e6,
        value["multi-user"] / 1e6, value["to"] - value["from"]
    }' "$scratch/console" || die "$1 did not come up as it should: $(tail -n 5 "$scratch/console")"
}

# boot_rows: a row per root from the lines `ROOT SECONDS…` of all rounds; the n-th boots of all roots belong together.
boot_rows() {
  awk -v json="$json" "$statistics"'
    function median(root, column,   n, values) {
      for (n = 1; n <= count[root]; n++) values[n] = took[root, n, column]
      sort(values, count[root])
      return quantile(values, count[root], 0.5)
    }
    # In order: the lowest is the first of `ratios`.
    function compare(root, column,   n) {
      for (n = 1; n <= count[root]; n++) ratios[n] = took[root, n, column] / took["ext4", n, column]
      sort(ratios, count[root])
      return quantile(ratios, count[root], 0.5)
    }
    BEGIN { columns = split("qemu_to_switch_root kernel_to_switch_root initrd kernel_to_multi_user read_back", names) }
    {
      if (!($1 in count)) roots[++rows] = $1
      n = ++count[$1]
      for (i = 1; i <= columns; i++) took[$1, n, i] = $(i + 1)
    }
    END {
      for (row = 1; row <= rows; row++) {
        root = roots[row]; n = count[root]
        printf json ? "{\"table\":\"boot\",\"row\":\"%s\",\"rounds\":%d" : "| %s |", root, n
        for (i = 1; i <= columns; i++) {
          ratio = compare(root, i)
          if (json)
            printf ",\"%s\":%.6f,\"%s_to_ext4\":%.4f,\"%s_to_ext4_lowest\":%.4f,\"%s_to_ext4_highest\":%.4f",
              names[i], median(root, i), names[i], ratio, names[i], ratios[1], names[i], ratios[n]
          else if (root == "ext4")
            printf " %.2f s |", median(root, i)
          else
            printf " %.2f s, %.2f (%.2f–%.2f) |", median(root, i), ratio, ratios[1], ratios[n]
        }
        print json ? "}" : ""
      }
    }'
}

bench_boot() {
  local rootfs repository plain root round boots times files bytes
  boots="$(rounds 5)"
  need sfdisk mformat mmd mcopy mke2fs veritysetup
  rootfs="$("$qemu_dir/rootfs")"
  repository="$("$qemu_dir/repository")"
  plain="$(cached boot "$(key_of "$(declare -f build_boot_disk sealed_tree)" "${rootfs##*/}")" build_boot_disk)"
  read -r files bytes <"$plain/usr"
  for root in "${boot_roots[@]}"; do
    boot_disk "$root"
  done
  # So that probing for KVM is not in the time of the first boot.
  accelerator >/dev/null
  for ((round = 1; round <= boots; round++)); do
    for root in "${boot_roots[@]}"; do
      say "boot $round: $root …"
      times="$(boot_once "$root")"
      echo "$root $times"
    done
  done >"$scratch/boots"
  heading "| boot, Debian 13; read back: /usr, $files files, $((bytes / 1000000)) MB | QEMU to switch-root | kernel to switch-root | initrd | kernel to multi-user | read back |" \
    '|---|---|---|---|---|---|'
  boot_rows <"$scratch/boots"
}
