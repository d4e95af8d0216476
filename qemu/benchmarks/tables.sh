#!/bin/bash
# What the benchmarks print: tables for people, rows of JSON with --json. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

# For awk: quantile() takes what sort() has sorted; column() is the median of a field of all lines that were noted as
# found[NAME, N, FIELD], N from 1 to count[NAME].
# shellcheck disable=SC2016
statistics='
  function sort(values, count,   i, j, swap) {
    for (i = 2; i <= count; i++)
      for (j = i; j > 1 && values[j - 1] > values[j]; j--) { swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap }
  }
  function quantile(values, count, share,   place, below) {
    place = (count - 1) * share + 1; below = int(place)
    return below < count ? values[below] + (place - below) * (values[below + 1] - values[below]) : values[count]
  }
  function column(name, field,   i, values) {
    for (i = 1; i <= count[name]; i++) values[i] = found[name, i, field]
    sort(values, count[name])
    return quantile(values, count[name], 0.5)
  }'

# heading LINE...: of a table; JSON has none.
heading() {
  [[ -n $json ]] || printf '%s\n' '' "$@"
}

# table NAME UNIT: reads lines `LABEL OURS OTHER` (in hundredths of a second or nanoseconds, it does not matter), and
# prints a row per label: medians in seconds, ratio with its spread. UNIT is how many of them a second has.
table() {
  awk -v name="$1" -v unit="$2" -v json="$json" "$statistics"'
    NF != 3 || !($2 > 0 && $3 > 0) { failed = 1; exit 1 }
    {
      if (!($1 in count)) labels[++rows] = $1
      n = ++count[$1]; ours[$1, n] = $2; other[$1, n] = $3
    }
    END {
      if (failed) exit 1
      for (row = 1; row <= rows; row++) {
        label = labels[row]; n = count[label]
        for (i = 1; i <= n; i++) { a[i] = ours[label, i]; b[i] = other[label, i]; r[i] = a[i] / b[i] }
        sort(a, n); sort(b, n); sort(r, n)
        gsub(/_/, " ", label)
        if (json) {
          printf "{\"table\":\"%s\",\"row\":\"%s\",\"pairs\":%d,\"ratio\":%.4f,\"ratio_lowest\":%.4f,\"ratio_highest\":%.4f," \
            "\"sealroot\":%.6f,\"other\":%.6f}\n", name, label, n, quantile(r, n, 0.5), r[1], r[n],
            quantile(a, n, 0.5) / unit, quantile(b, n, 0.5) / unit
          continue
        }
        printf "| %s | %.2f | %.2f–%.2f | %.2f s | %.2f s |\n", label, quantile(r, n, 0.5), r[1], r[n],
          quantile(a, n, 0.5) / unit, quantile(b, n, 0.5) / unit
      }
    }'
}
