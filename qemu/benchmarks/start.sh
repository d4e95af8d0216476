#!/bin/bash
# bench_start: a start of the boot program beside the peer's and the floor's. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

# start_rows KERNEL FILE: a row per program and state of the page cache from the lines `cache STATE`, `start NAME WALL_NS
# CPU_NS PEAK_KIB FAULTS` and `calls NAME TOTAL CALL=COUNT,…`; the n-th starts of all programs belong together. Where the
# state is `counted`, the page cache was full and what is called nanoseconds are instructions.
start_rows() {
  awk -v kernel="$1" -v json="$json" "$statistics"'
    function ratio(name, other, share,   i, values, n) {
      n = count[name]
      for (i = 1; i <= n; i++) values[i] = found[name, i, 3] / found[other, i, 3]
      sort(values, n)
      return quantile(values, n, share)
    }
    function ratios(name, other) {
      return sprintf("%.2f (%.2f–%.2f)", ratio(name, other, 0.5), ratio(name, other, 0.25), ratio(name, other, 0.75))
    }
    function json_ratios(name, other, label) {
      return sprintf("\"%s\":%.4f,\"%s_lower_quartile\":%.4f,\"%s_upper_quartile\":%.4f", label, ratio(name, other, 0.5),
        label, ratio(name, other, 0.25), label, ratio(name, other, 0.75))
    }
    $1 == "cache" { cache = $2 }
    $1 == "calls" { calls[$2] = $3; each[$2] = $4; gsub(/=/, "\":", each[$2]); gsub(/,/, ",\"", each[$2]) }
    $1 == "start" {
      name = cache SUBSEP $2
      if (!(name in count) && cache != "counted") names[++rows] = name
      n = ++count[name]
      for (i = 3; i <= NF; i++) found[name, n, i] = $i
    }
    END {
      for (row = 1; row <= rows; row++) {
        name = names[row]; split(name, parts, SUBSEP); cache = parts[1]; program = parts[2]
        floor = cache SUBSEP "floor"; peer = cache SUBSEP "peer-static"; counted = "counted" SUBSEP program
        instructions = cache == "full" ? column(counted, 4) / 1e6 : 0
        if (json)
          printf "{\"table\":\"start\",\"row\":\"%s\",\"kernel\":\"%s\",\"cache\":\"%s\",\"rounds\":%d,%s,%s,\"wall\":%.6f,\"cpu\":%.6f," \
            "\"instructions\":%s,\"peak\":%d,\"faults\":%d,\"calls\":%d,\"each_call\":{\"%s}}\n", program, kernel, cache, count[name],
            json_ratios(name, floor, "wall_to_floor"), json_ratios(name, peer, "wall_to_peer_static"), column(name, 3) / 1e9,
            column(name, 4) / 1e9, instructions ? sprintf("%d", instructions * 1e6) : "null", column(name, 5), column(name, 6),
            calls[program], each[program]
        else
          printf "| %s, cache %s | %s | %s | %.1f ms | %.1f ms | %s | %d KiB | %d | %d |\n", program, cache, ratios(name, floor),
            ratios(name, peer), column(name, 3) / 1e6, column(name, 4) / 1e6,
            instructions ? sprintf("%.2f million", instructions) : "", column(name, 5), column(name, 6), calls[program]
      }
    }' "$2"
}

# stage_rows FILE: a row per stage of sealroot's starts with a full page cache, from its own reports, and one for what lies
# outside the stages.
stage_rows() {
  awk '$1 == "cache" { cache = $2 } cache == "full" && $1 == "start" && $2 == "sealroot" { wall = $3 }
    cache == "full" && $1 == "report" { sub(/^report [^ ]* /, ""); print wall, $0 }' "$1" |
    while read -r wall report; do
      jq -r --argjson wall "$wall" '[.checks[] | {name, time: (.microseconds * 1000)}] |
        . + [{name: "other", time: ($wall - (map(.time) | add))}] | .[] | "\(.name) \(.time)"' <<<"$report"
    done | awk -v json="$json" "$statistics"'
      { if (!($1 in count)) stages[++rows] = $1; found[$1, ++count[$1]] = $2 }
      END {
        if (!rows) exit 1
        for (row = 1; row <= rows; row++) {
          stage = stages[row]
          for (i = 1; i <= count[stage]; i++) values[i] = found[stage, i]
          sort(values, count[stage])
          time = quantile(values, count[stage], 0.5)
          if (json) printf "{\"table\":\"stages\",\"row\":\"%s\",\"time\":%.6f}\n", stage, time / 1e9
          else printf "| %s | %.2f ms |\n", stage, time / 1e6
        }
      }'
}

# At the same addresses each time: QEMU translates a program anew for each address, which no processor does, and which
# would cost position-independent programs (not the floor) most of their time. The console shows what it does with `quiet`:
# what an emulated serial port takes for each letter is no program's.
# shellcheck disable=SC2016 # for the guest's shell
start_guest='
  echo 0 >/proc/sys/kernel/randomize_va_space
  dmesg -n 4
  echo "kernel $(uname -r)"
  # The page cache stays full as long as something is mounted from the disk; QEMU translates code when it is first executed.
  mkdir /held
  mount -t ext4 /dev/vda2 /held
  set -- "sealroot=/sealroot-initrd mount" peer=/peer peer-static=/peer-static "floor=/floor $image $mounts"
  /start-meter 1 warm "$@" >/dev/null
  if [ "$clock" = instructions ]; then
    echo cache counted
    exec /start-meter "$starts" warm "$@"
  fi
  echo cache full
  /start-meter "$starts" warm "$@"
  umount /held
  echo cache empty
  /start-meter "$starts" cold "$@"
  /start-meter 1 count "$@"'

bench_start() {
  local kernel="${SEALROOT_KERNEL:-newest}" disk image program meter peer peer_static library release clock mounts=detached counting=() adds=()
  # The floor has one way for each kernel, and no fall-back.
  [[ $kernel != 6.12* ]] || mounts=attached
  need cc jq
  disk="$("$qemu_dir/disk" sha512)"
  cp --sparse=always --reflink=auto "$disk" "$scratch/disk"
  image="$(sed -n 's/^SHA512_V1=//p' "$("$qemu_dir/repository")/env")"
  program="$(program_path)"
  meter="$(helper_program start-meter "$(static_target)")"
  peer="$(peer_program)"
  peer_static="$(peer_program -Ctarget-feature=+crt-static)"
  for library in $(ldd "$peer" | grep -oE '/[^ :]+\.so[^ ]*' | sort -u); do
    adds+=(--add "$library:$library")
  done
  cc -O2 -Wall -Wextra -Werror -static -s -o "$scratch/floor" "$qemu_dir/benchmarks/floor.c"
  # No way around the seal stays open: nothing to warn of.
  echo "composefs.digest=v1-sha512-12:$image ${sealed_kargs[*]}" >"$scratch/cmdline"
  printf '[policy]\ncheck = "digest"\non-failure = "emergency"\nsecure-boot = "report"\n' >"$scratch/config"
  adds+=(--add "$scratch/cmdline:/cmdline" --add "$scratch/config:/usr/lib/sealroot/sealroot.toml"
    --add "$program:/sealroot-initrd" --add "$peer:/peer" --add "$peer_static:/peer-static" --add "$scratch/floor:/floor"
    --add "$meter:/start-meter")
  for clock in time instructions; do
    [[ $clock == time ]] || counting=(--instruction-clock)
    "$qemu_dir/vm" --kernel "$kernel" --disk "$scratch/disk" --timeout 900 "${counting[@]}" "${adds[@]}" --env "image=$image" \
      --env "mounts=$mounts" --env "clock=$clock" --env "starts=$(rounds 40)" -- sh -ec "$start_guest" >>"$scratch/started" ||
      die "the starts failed: $(tail -n 5 "$scratch/started")"
  done
  release="$(sed -n '/^kernel /{s///p;q}' "$scratch/started")"
  heading "| start, Linux $release | wall to floor | wall to peer-static | wall | CPU | instructions | peak memory | faults | calls |" \
    '|---|---|---|---|---|---|---|---|---|'
  start_rows "$release" "$scratch/started"
  heading '| stage of sealroot, cache full | time |' '|---|---|'
  stage_rows "$scratch/started"
}
