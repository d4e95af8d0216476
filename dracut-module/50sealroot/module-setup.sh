#!/bin/bash
# Puts sealroot into a dracut initramfs, complete, or ends dracut without an image.
# shellcheck disable=SC2154 # variables that dracut sets

# An initramfs that lacks a part must not come into being, and dracut (059 to 111) does not see to that: it ignores what
# install() returns, inst and instmods report some missing files and modules as success, and --omit-drivers removes a
# module silently. So each part is looked for in the image that is being built, and since the functions of a module
# run in dracut's own shell, `exit` is what ends dracut: nothing has been written by then, and its traps clean up.
_sealroot_fail() {
  dfatal "sealroot: $*, no initramfs is made"
  exit 1
}

# Copies the file $1 to the same place in the initramfs.
_sealroot_file() {
  local source=${dracutsysrootdir-}$1
  # A link could lead to another file in the image than the one that is checked here.
  [[ -f $source && ! -L $source ]] || _sealroot_fail "'$1' is missing or not a regular file"
  inst "$1" || _sealroot_fail "'$1' cannot be copied"
  # inst leaves alone what another module has put there.
  cmp -s "$source" "$initdir$1" || _sealroot_fail "'$1' cannot be read, or is another file in the initramfs"
}

# Whether the kernel module $1 is in the initramfs or in the kernel.
_sealroot_has_module() {
  [[ -n $(find "$initdir/lib/modules/$kernel" -name "$1.ko*" -print -quit 2>/dev/null) ]] ||
    grep -qs "/$1\.ko" "$srcmods/modules.builtin"
}

# called by dracut
check() {
  local config=${dracutsysrootdir-}/usr/lib/sealroot/sealroot.toml

  # dracut asks a second time, for the mounts of the host.
  [[ ${mount_needs-} ]] && return 1

  # Any kind of file, a dangling link too: what cannot be used as config is an error in install().
  [[ -e $config || -L $config ]] || return 255

  # A module whose dependency cannot be had is left out, and dracut succeeds. In a subshell, as this is dracut's own
  # function and leaves notes in dracut's variables.
  (check_module systemd-initrd) || _sealroot_fail "dracut's module 'systemd-initrd' is omitted or cannot be installed"
  return 0
}

# called by dracut
depends() {
  echo systemd-initrd
}

# called by dracut
installkernel() {
  local module fs

  # Never only what this host uses (hostonly): a fallback is needed exactly where the host did without.
  hostonly='' instmods erofs overlay loop
  for module in erofs overlay loop; do
    _sealroot_has_module "$module" || _sealroot_fail "kernel module '$module' is missing"
  done

  # The filesystems that have fs-verity. By the names that the kernel asks for: the checksums of these filesystems and
  # the hashes of fs-verity, whatever the modules are called that provide them, optimized ones included.
  hostonly='' instmods ext4 btrfs f2fs \
    crypto-crc32 crypto-crc32c crypto-xxhash64 crypto-blake2b-256 crypto-sha256 crypto-sha512
  for fs in ext4 btrfs f2fs; do
    _sealroot_has_module "$fs" && break
    fs=
  done
  [[ $fs ]] || _sealroot_fail "kernel module 'ext4', 'btrfs' or 'f2fs' is missing"

  # Secure Boot state and boot counting; there are machines without.
  hostonly='' instmods -s efivarfs
}

# Has the unit $1 enabled by the link directory $2, as `systemctl enable` would.
_sealroot_enable() {
  local directory=$initdir$systemdsystemunitdir/$2
  mkdir -p "$directory" && ln -sfn "../$1" "$directory/$1"
  [[ $directory/$1 -ef $initdir$systemdsystemunitdir/$1 ]] || _sealroot_fail "the link '$2/$1' cannot be made"
}

# What the boot program would refuse in the configuration of the initramfs, it refuses here.
_sealroot_check_config() {
  local said status=0
  # Not the copy: the directory of the image may be on a filesystem from which nothing is executed.
  said=$("${dracutsysrootdir-}/usr/lib/sealroot/sealroot-initrd" --check-config --root "$initdir" 2>&1) || status=$?
  case $status in
    0) [[ ! $said ]] || dwarn "sealroot: ${said#sealroot-initrd: }" ;;
    126) dwarn "sealroot: the configuration is not checked: $said" ;; # a program for another machine
    *) _sealroot_fail "${said#sealroot-initrd: }" ;;
  esac
}

# called by dracut
install() {
  local file

  _sealroot_file /usr/lib/sealroot/sealroot-initrd
  [[ -x $initdir/usr/lib/sealroot/sealroot-initrd ]] ||
    _sealroot_fail "'/usr/lib/sealroot/sealroot-initrd' is not executable"

  _sealroot_file "$systemdsystemunitdir/sealroot.service"
  _sealroot_file "$systemdsystemunitdir/sealroot-guard.service"
  _sealroot_file "$systemdsystemunitdir/sealroot-refused.service"
  _sealroot_file "$systemdsystemunitdir/initrd-switch-root.service.d/50-sealroot.conf"
  _sealroot_file "$systemdsystemunitdir/sysroot.mount.d/50-sealroot.conf"
  _sealroot_file "$systemdsystemunitdir/systemd-fsck-root.service.d/50-sealroot.conf"
  _sealroot_file "$systemdsystemunitdir/systemd-growfs@sysroot.service.d/50-sealroot.conf"
  # Parts of systemd that ours hang on; systemd-initrd takes them along only if it finds them.
  for file in initrd-root-fs.target initrd.target initrd-switch-root.service; do
    [[ -f $initdir$systemdsystemunitdir/$file ]] || _sealroot_fail "'$systemdsystemunitdir/$file' is missing"
  done
  _sealroot_enable sealroot.service initrd-root-fs.target.requires
  _sealroot_enable sealroot-guard.service initrd.target.wants

  # What would merge extensions of the EFI system partition or the root disk over what is sealed. In /etc, a mask wins over
  # whatever another module brings.
  mkdir -p "$initdir/etc/systemd/system" || _sealroot_fail "'/etc/systemd/system' cannot be made"
  for file in systemd-sysext systemd-confext systemd-sysext-initrd systemd-confext-initrd systemd-sysext-sysroot \
    systemd-confext-sysroot; do
    ln -sfn /dev/null "$initdir/etc/systemd/system/$file.service" || _sealroot_fail "'$file.service' cannot be masked"
  done
  # What would put another root in place of the physical one, or enrol a key at the console of a machine whose /etc is sealed.
  for file in bootc-root-setup composefs-setup-root ostree-prepare-root systemd-cryptenroll-firstboot; do
    [[ ! -e $initdir$systemdsystemunitdir/$file.service ]] || dwarn "sealroot: '$file.service' is masked: sealroot.service comes instead"
    ln -sfn /dev/null "$initdir/etc/systemd/system/$file.service" || _sealroot_fail "'$file.service' cannot be masked"
  done

  # The first moment that an initramfs has: what refuses there comes before any unit, and before any shell.
  file=$initdir$systemdutildir/system-generators
  mkdir -p "$file" || _sealroot_fail "'system-generators' cannot be made"
  ln -sfn /usr/lib/sealroot/sealroot-initrd "$file/sealroot-generator" ||
    _sealroot_fail "the link 'system-generators/sealroot-generator' cannot be made"

  # Without them, the defaults hold.
  for file in /usr/lib/sealroot/sealroot.toml /usr/lib/composefs/setup-root-conf.toml; do
    if [[ -e ${dracutsysrootdir-}$file || -L ${dracutsysrootdir-}$file ]]; then
      _sealroot_file "$file"
    fi
  done
  _sealroot_check_config

  [[ ${no_kernel-} != yes ]] ||
    dwarn "sealroot: no kernel modules in this initramfs; the kernel needs erofs and overlay built in"
}
