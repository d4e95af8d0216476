#!/bin/bash
# A small tree for images, and where a repository keeps its contents. Sourced, not run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# make_tiny_root FOLDER: the least that boots, and files that are worth reading.
make_tiny_root() {
  local root="$1" number
  mkdir -p "$root"/{dev,etc,proc,run,sys,sysroot,tmp,var} "$root"/usr/{bin,lib/systemd,share/more}
  ln -s usr/lib "$root/lib"
  # Without an interpreter and a C library, whose hashes would take most of a boot's time.
  echo 'void _start(void) { for (;;); }' | cc -O2 -s -x c -nostdlib -static -o "$root/usr/lib/systemd/systemd" -
  echo 'ID=tiny-fixture' >"$root/usr/lib/os-release"
  for ((number = 0; number < 20; number++)); do
    seq -f "line %g of file $number, which has its own object" "$((100 + 10 * number))" >"$root/usr/share/file-$number"
    echo "in the image: $number" >"$root/usr/share/more/small-$number"
  done
  # Its Merkle tree has two levels.
  seq -f 'line %g of a file with a taller tree' 7500 >"$root/usr/share/big"
  ln -s file-1 "$root/usr/share/link"
  ln "$root/usr/share/file-2" "$root/usr/share/hardlink"
  chmod 4755 "$root/usr/share/file-3"
  chmod 0600 "$root/usr/share/file-4"
  find "$root" -exec touch -h -d @1700000000 {} +
}

# object_path ALGORITHM FILE: where a repository keeps this content.
object_path() {
  local digest
  digest="$(fsverity digest --compact --hash-alg="$1" --block-size=4096 "$2")"
  echo "objects/${digest:0:2}/${digest:2}"
}
