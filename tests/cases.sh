#!/bin/bash
# Cases that boot machines, for tests/boot and tests/attack: choosing, running and counting them. Sourced, not run.
#
# A case is a function case_NAME. It gets its name, prints what isn't as it must be (nothing: passed), and leaves with
# `outcome` what came of it; with `also` what came of further attacks in the same boot, each of which counts.
. "$(dirname "${BASH_SOURCE[0]}")/../qemu/scenarios.sh"

all_cases() {
  declare -F | sed -n 's/^declare -f case_//p'
}

# run_case NAME: writes what is wrong to $work/NAME.problems and says how it ended.
run_case() {
  local name="$1" started="$EPOCHSECONDS" status=0 seen="" attack
  # In the background, since what is part of a condition doesn't stop at its first error.
  "case_$name" "$name" >"$work/$name.problems" 2>"$work/$name.errors" &
  wait $! || status=$?
  if ((status)); then
    {
      echo "the test itself failed with status $status:"
      tail -n 20 "$work/$name.errors"
    } >>"$work/$name.problems"
  fi
  if [[ -e $work/$name.problems && ! -s $work/$name.problems ]]; then
    # Only a case that came this far has passed, not one that died on the way.
    touch "$work/$name.passed"
    [[ ! -e $work/$name.outcome ]] || seen=": $(shortened <"$work/$name.outcome")"
    printf 'ok   %s %s (%d s)%s\n' "$part" "$name" "$((EPOCHSECONDS - started))" "$seen"
    if [[ -e $work/$name.also ]]; then
      while read -r attack seen; do
        touch "$work/$name.$attack.passed"
        printf 'ok   %s %s (in %s): %s\n' "$part" "$attack" "$name" "$(shortened <<<"$seen")"
      done <"$work/$name.also"
    fi
    return
  fi
  {
    printf 'FAIL %s %s (%d s): %s\n' "$part" "$name" "$((EPOCHSECONDS - started))" "$logs/$name.log"
    sed 's/^/     /' "$work/$name.problems"
    echo "     the end of the console:"
    tail -n 25 "$logs/$name.log" 2>/dev/null | cut -c1-300 | sed 's/^/     | /' || true
  } >"$work/$name.report"
  cat "$work/$name.report"
}

# run_cases PART [WORD...]: all cases, or those whose names contain one of the words, SEALROOT_JOBS at once. Ends with
# `N passed, N failed`; the consoles are in target/PART-tests.
run_cases() {
  local name word cases=() passed failed=0
  part="$1"
  shift
  if [[ ${1:-} == --help ]]; then
    usage "$0"
    printf 'cases:\n'
    all_cases | sed 's/^/  /'
    return
  fi
  # Long ones and short ones mixed, so that two machines are busy to the end.
  for name in $(all_cases | sort -r); do
    if (($# == 0)); then
      cases+=("$name")
      continue
    fi
    for word in "$@"; do
      [[ $name != *"${word//-/_}"* ]] || cases+=("$name")
    done
  done
  ((${#cases[@]})) || die "no case has such a name (see --help)"
  "$qemu_dir/setup" >&2
  scratch_dir
  work="${scratch:?}"
  logs="${CARGO_TARGET_DIR:-$project_dir/target}/$part-tests"
  mkdir -p "$logs"
  (($#)) || rm -f "$logs"/*.log
  prepare_scenarios sha512 sha256
  # One initramfs for all, before several ask for it at once.
  "$qemu_dir/uki" "$karg" >/dev/null
  prepare_cases

  say "booting ${#cases[@]} machines …"
  for name in "${cases[@]}"; do
    while (($(jobs -rp | wc -l) >= ${SEALROOT_JOBS:-2})); do
      wait -n || true
    done
    rm -f "$logs/$name.log"
    run_case "$name" &
  done
  wait

  passed="$(find "$work" -name '*.passed' | wc -l)"
  for name in "${cases[@]}"; do
    [[ -e $work/$name.passed ]] || failed=$((failed + 1))
  done
  # Nothing that anyone writes to a disk may make a program panic.
  if grep -lE 'RUST_BACKTRACE|panicked at' "$logs"/*.log; then
    echo "FAIL $part no_panic: a program panicked, see the logs above"
    failed=$((failed + 1))
  else
    echo "ok   $part no_panic"
    passed=$((passed + 1))
  fi
  echo "$passed passed, $failed failed"
  ((failed == 0))
}

# prepare_cases: what the cases of a script share, in $work; made anew by those that need some.
prepare_cases() {
  :
}
