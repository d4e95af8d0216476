#!/bin/bash
# bench_digest: the user-space digest beside that of other programs, on this machine. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

# nanoseconds PROCESSORS COMMAND...: how long it takes on these processors.
nanoseconds() {
  local processors="$1" start
  shift
  start="$(date +%s%N)"
  taskset -c "$processors" "$@" >/dev/null
  echo "$(($(date +%s%N) - start))"
}

# `openssl dgst` hashes the bytes in one go and builds no tree: what the hash function alone takes there.
bench_digest() {
  local command algorithm pair pairs ours theirs
  need cargo fsverity openssl taskset
  pairs="$(rounds 11)"
  command="$(native_command)"
  head -c 1073741824 <(openssl enc -aes-128-ctr -pass pass: -nosalt </dev/zero 2>/dev/null) >"$scratch/data"
  cat "$scratch/data" >/dev/null
  heading '| digest of 1 GiB | ratio | from–to | sealroot | the other |' '|---|---|---|---|---|'
  for ((pair = 0; pair < pairs; pair++)); do
    for algorithm in sha256 sha512; do
      ours="$(nanoseconds 0 "$command" digest --algorithm "$algorithm" "$scratch/data")"
      theirs="$(nanoseconds 0 fsverity digest --hash-alg="$algorithm" "$scratch/data")"
      echo "$algorithm,_one_processor,_\`fsverity_digest\` $ours $theirs"
      theirs="$(nanoseconds 0 openssl dgst "-$algorithm" "$scratch/data")"
      echo "$algorithm,_one_processor,_\`openssl_dgst\` $ours $theirs"
      if (($(nproc) > 1)); then
        ours="$(nanoseconds 0,1 "$command" digest --algorithm "$algorithm" "$scratch/data")"
        theirs="$(nanoseconds 0,1 fsverity digest --hash-alg="$algorithm" "$scratch/data")"
        echo "$algorithm,_two_processors,_\`fsverity_digest\`_(uses_one) $ours $theirs"
      fi
    done
  done | sort -s -k1,1 | table digest 1000000000
  rm "$scratch/data"
}
