#!/bin/bash
# bench_growth: what a start costs by the number of files in the image. Sourced by qemu/bench.
# shellcheck disable=SC2154 # variables of the caller

growth_files=(10 10000 100000 1000000)
# That many different contents at most, about as a Debian root has: fs-verity on a million of them takes an emulated machine
# an hour. Files of the same content share an object, and in the image the xattrs that name it: with an object for each
# file, a large image would be about four times as large.
growth_objects=8000

# growth_tree FOLDER FILES: a root that can be booted, of FILES regular files. All of them are too large to lie in the image.
growth_tree() {
  local root="$1" more="$(($2 - 2))" contents
  contents="$((more + 2 < growth_objects ? more : growth_objects - 2))"
  mkdir -p "$root"/{dev,etc,proc,run,sys,sysroot,tmp,var} "$root"/usr/{lib/systemd,share}
  # Without an interpreter and a C library, whose hashes would take most of a start's time.
  echo 'void _start(void) { for (;;); }' | cc -O2 -x c -nostdlib -static -s -o "$root/usr/lib/systemd/systemd" -
  seq -f '# line %g of the release' 20 | sed '1iID=growing' >"$root/usr/lib/os-release"
  # 100 files in a directory, and 100 directories in another.
  (cd "$root/usr/share" &&
    seq 0 100 "$((more - 1))" | awk '{ printf "%02d/%02d\n", $1 / 10000, $1 / 100 % 100 }' | xargs mkdir -p &&
    awk -v files="$more" -v contents="$contents" 'BEGIN {
      padding = sprintf("%4000s", "")
      for (file = 0; file < files; file++) {
        name = sprintf("%02d/%02d/file-%02d", file / 10000, file / 100 % 100, file % 100)
        # The copies of a content lie beside each other: their common xattrs are read one after the other, as in any image.
        content = int(file * contents / files)
        printf "content %d\n%s\n", content, substr(padding, 1, 80 + content % 3900) >name
        close(name)
      }
    }')
  find "$root" -exec touch -h -d @1700000000 {} +
}

# build_growth FOLDER: a disk whose second partition has all images in one repository, and `images`: a line FILES OBJECTS
# BYTES DIGEST for each. For a while it takes 4 GiB more.
build_growth() {
  local new="$1" tree="$1/tree" files digest state size start=2
  mkdir "$tree"
  for files in "${growth_files[@]}"; do
    with_progress "making $files files" growth_tree "$new/root" "$files"
    say "writing their image …"
    digest="$("$writer" sha512 "$new/root" "$tree/composefs" v1)"
    digest="${digest#v1 }"
    state="$tree/state/deploy/$digest"
    mkdir -p "$state"/{etc/upper,var}
    mkdir -m 700 "$state/etc/work"
    echo "$files $((files < growth_objects ? files : growth_objects))" \
      "$(stat -Lc %s "$tree/composefs/images/$digest") $digest" >>"$new/images"
    rm -rf "$new/root"
  done
  # MiB: the content, what fs-verity adds to each object, and the file system's own tables.
  size="$(($(du -sm "$tree" | cut -f1) * 3 / 2 + 96))"
  truncate -s "$((start + size + 1))M" "$new/disk"
  sfdisk -q "$new/disk" <<-END
		label: gpt
		start=1MiB, size=1MiB
		start=${start}MiB, size=${size}MiB
	END
  mke2fs -q -t ext4 -O verity -b 4096 -m 0 -d "$tree" -E "offset=$((start * 1048576))" "$new/disk" "${size}M"
  rm -rf "$tree"
  with_progress "enabling fs-verity" "$qemu_dir/vm" --disk "$new/disk" --add "$enabler:/verity-enabler" -- \
    sh -c 'mount -t ext4 /dev/vda2 /mnt && /verity-enabler sha512:/mnt/composefs && umount /mnt'
  fallocate --dig-holes "$new/disk"
}

# growth_rows KERNEL FILE: a row per image and check (JSON: also per state of the page cache and number of processors) from
# the lines `image FILES OBJECTS BYTES DIGEST`, `cache STATE CPUS` and `start CHECK-FILES WALL_NS CPU_NS PEAK_KIB FAULTS`;
# the n-th starts of all programs belong together.
growth_rows() {
  awk -v kernel="$1" -v json="$json" "$statistics"'
    # The median of the ratios of what a program takes more than `less` to what another takes.
    function ratio(name, less, other,   i, values) {
      for (i = 1; i <= count[name]; i++)
        values[i] = (found[name, i, 3] - (less == "" ? 0 : found[less, i, 3])) / found[other, i, 3]
      sort(values, count[name])
      return quantile(values, count[name], 0.5)
    }
    function name_of(check, files, where) { return where SUBSEP check "-" files }
    function time(nanoseconds) {
      return nanoseconds < 1e9 ? sprintf("%.1f ms", nanoseconds / 1e6) : sprintf("%.2f s", nanoseconds / 1e9)
    }
    function times(share) { return share < 10 ? sprintf("%.2f", share) : sprintf("%.0f", share) }
    # What a check adds to the one that looks at nothing but the digest.
    function added(check, files, where) {
      return column(name_of(check, files, where), 3) - column(name_of("digest", files, where), 3)
    }
    function json_row(check, files, where,   name, more) {
      name = name_of(check, files, where)
      split(where, parts, SUBSEP)
      if (check == "image")
        more = sprintf(",\"cat\":%.6f,\"added_to_cat\":%.4f", column(name_of("cat", files, where), 3) / 1e9,
          ratio(name, name_of("digest", files, where), name_of("cat", files, where)))
      if (check == "objects")
        more = sprintf(",\"added_per_object\":%.9f,\"added_per_file\":%.9f", added(check, files, where) / objects[files] / 1e9,
          added(check, files, where) / files / 1e9)
      printf "{\"table\":\"growth\",\"row\":\"%s\",\"kernel\":\"%s\",\"files\":%d,\"objects\":%d,\"image\":%d," \
        "\"cache\":\"%s\",\"cpus\":%d,\"rounds\":%d,\"wall\":%.6f,\"wall_to_smallest\":%.4f,\"cpu\":%.6f,\"peak\":%d,\"faults\":%d%s}\n",
        check, kernel, files, objects[files], bytes[files], parts[1], parts[2], count[name], column(name, 3) / 1e9,
        ratio(name, "", name_of(check, sizes[1], where)), column(name, 4) / 1e9, column(name, 5), column(name, 6), more
    }
    function row(check, files,   i, name, line) {
      for (i = 1; i <= kinds; i++) {
        name = name_of(check, files, kind[i])
        line = line sprintf(" %s (%s) |", time(column(name, 3)), times(ratio(name, "", name_of(check, sizes[1], kind[i]))))
      }
      # One CPU: cache full, where nothing is waited for, then cache empty.
      name = name_of(check, files, kind[2])
      line = line sprintf(" %s | %d KiB |", time(column(name, 4)), column(name, 5))
      if (check == "digest") line = line " |"
      if (check == "image")
        line = line sprintf(" %s, %.2f × `cat` |", time(added(check, files, kind[1])), ratio(name_of(check, files, kind[1]),
          name_of("digest", files, kind[1]), name_of("cat", files, kind[1])))
      if (check == "objects")
        line = line sprintf(" %.0f µs an object, %.1f µs a file |", added(check, files, kind[1]) / objects[files] / 1e3,
          added(check, files, kind[1]) / files / 1e3)
      printf "| `%s`, %d files, %d objects, %.3g MB |%s\n", check, files, objects[files], bytes[files] / 1e6, line
    }
    $1 == "image" { sizes[++images] = $2; objects[$2] = $3; bytes[$2] = $4 }
    $1 == "cache" { where = $2 SUBSEP $3; kind[++kinds] = where }
    $1 == "start" {
      name = where SUBSEP $2
      n = ++count[name]
      for (i = 3; i <= NF; i++) found[name, n, i] = $i
    }
    END {
      split("digest image objects", checks, " ")
      for (c = 1; c <= 3; c++)
        for (s = 1; s <= images; s++) {
          if (!json) row(checks[c], sizes[s])
          for (k = 1; json && k <= kinds; k++) json_row(checks[c], sizes[s], kind[k])
        }
    }' "$2"
}

# Each image with each check, and a shell that becomes `cat` of the image file, which tells something where the image is
# large, in turn; `objects`, which takes
# longest, by itself and a third as often. Addresses are fixed as in start.sh.
# shellcheck disable=SC2016 # for the guest's shell
growth_guest='
  echo 0 >/proc/sys/kernel/randomize_va_space
  echo "kernel $(uname -r)"
  mkdir -p /usr/lib/sealroot /held
  touch /usr/lib/sealroot/sealroot.toml /cmdline
  while read -r files objects bytes digest; do
    for check in digest image objects; do
      echo "composefs.digest=v1-sha512-12:$digest $sealed" >"/cmdline.$check-$files"
      printf "[policy]\ncheck = \"%s\"\non-failure = \"emergency\"\n" "$check" >"/config.$check-$files"
    done
    printf "#!/bin/sh\nexec cat /sysroot/composefs/images/%s >/dev/null\n" "$digest" >"/cat-$files"
    chmod 755 "/cat-$files"
    often="${often}digest-$files=/sealroot-initrd image-$files=/sealroot-initrd cat-$files=/cat-$files "
    seldom="${seldom}objects-$files=/sealroot-initrd "
  done </images
  measure() {
    echo "cache $1 $cpus"
    /start-meter "$starts" "$2" $often
    /start-meter "$(((starts + 2) / 3))" "$2" $seldom
  }
  # QEMU translates the code of the kernel and of the program when it is first executed.
  /start-meter 1 cold ${often%% cat*} >/dev/null
  measure empty cold
  # The page cache stays full as long as something is mounted from the disk.
  mount -t ext4 /dev/vda2 /held
  /start-meter 1 warm $often $seldom >/dev/null
  measure full warm'

bench_growth() {
  local kernel="${SEALROOT_KERNEL:-newest}" writer enabler program meter made cpus release
  need sfdisk mke2fs fallocate cc
  writer="$(helper_program repository-writer)"
  enabler="$(helper_program verity-enabler "$(static_target)")"
  program="$(program_path)"
  meter="$(helper_program start-meter "$(static_target)")"
  made="$(cached growth "$(key_of "$writer" "$enabler" "${growth_files[*]}" "$growth_objects" \
    "$(declare -f growth_tree build_growth)")" build_growth)"
  sed 's/^/image /' "$made/images" >"$scratch/grown"
  for cpus in 1 2; do
    cp --sparse=always --reflink=auto "$made/disk" "$scratch/growth"
    say "starting with $cpus CPU …"
    "$qemu_dir/vm" --kernel "$kernel" --disk "$scratch/growth" --cpus "$cpus" --timeout 5400 \
      --add "$made/images:/images" --add "$program:/sealroot-initrd" --add "$meter:/start-meter" --env "starts=$(rounds 7)" --env "cpus=$cpus" \
      --env "sealed=${sealed_kargs[*]}" \
      --env often= --env seldom= -- sh -ec "$growth_guest" >>"$scratch/grown" ||
      die "the starts failed: $(tail -n 5 "$scratch/grown")"
  done
  release="$(sed -n 's/^kernel //p' "$scratch/grown" | head -n 1)"
  heading "| start, Linux $release | cache empty, 1 CPU | full, 1 CPU | empty, 2 CPUs | full, 2 CPUs | CPU | peak memory | more than \`digest\` |" \
    '|---|---|---|---|---|---|---|---|'
  growth_rows "$release" "$scratch/grown"
}
