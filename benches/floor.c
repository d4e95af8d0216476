// Mounts a sealed root with the system calls that cannot be left out, and no check: what the benchmarks compare with.
//
// floor IMAGE attached|detached: IMAGE is a digest; "detached" takes a kernel that builds a tree from mounts that are
// attached nowhere (Linux 6.15), "attached" an older one. Like the programs that it is compared with: /etc is an overlay
// with its changes on the physical root, /var is bound from there, and the physical root goes to /sysroot.

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

static int must(int result, const char *what) {
  if (result < 0) err(1, "%s", what);
  return result;
}

// A string with the value of a descriptor in it.
static char *text(char *buffer, size_t size, const char *format, const void *value) {
  snprintf(buffer, size, format, value);
  return buffer;
}

static char *descriptor(char *buffer, size_t size, int fd) {
  snprintf(buffer, size, "/proc/self/fd/%d", fd);
  return buffer;
}

static int directory(int at, const char *path) {
  return must(openat(at, path, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
}

static int context(const char *filesystem) { return must(fsopen(filesystem, FSOPEN_CLOEXEC), filesystem); }

static void set(int context, const char *key, const char *value) {
  must(fsconfig(context, FSCONFIG_SET_STRING, key, value, 0), key);
}

static int mounted(int context, unsigned attributes) {
  must(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "create");
  return must(fsmount(context, FSMOUNT_CLOEXEC, attributes), "fsmount");
}

static int clone_of(int at, const char *path) {
  return must(open_tree(at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH), path);
}

static void move_to(int mount, int at, const char *path) {
  must(move_mount(mount, "", at, path, MOVE_MOUNT_F_EMPTY_PATH), path);
}

int main(int argc, char **argv) {
  char path[512], buffer[64];
  if (argc != 3) errx(2, "usage: floor IMAGE attached|detached");
  const char *image = argv[1];
  int detached = !strcmp(argv[2], "detached");
  int physical = directory(AT_FDCWD, "/sysroot");

  int file = must(openat(physical, text(path, sizeof path, "composefs/images/%s", image), O_RDONLY | O_CLOEXEC), path);
  int erofs = context("erofs");
  set(erofs, "source", descriptor(buffer, sizeof buffer, file));
  int inner = mounted(erofs, MOUNT_ATTR_RDONLY);
  if (!detached) move_to(inner, AT_FDCWD, "/run");

  int overlay = context("overlay");
  set(overlay, "source", text(path, sizeof path, "composefs:%s", image));
  set(overlay, "metacopy", "on");
  set(overlay, "redirect_dir", "on");
  set(overlay, "verity", "require");
  set(overlay, "lowerdir+", detached ? descriptor(buffer, sizeof buffer, inner) : "/run");
  set(overlay, "datadir+", "/sysroot/composefs/objects");
  int root = mounted(overlay, MOUNT_ATTR_RDONLY);
  if (!detached) must(umount2("/run", MNT_DETACH), "umount /run");

  int copy = clone_of(physical, "");
  must(umount2("/sysroot", MNT_DETACH), "umount /sysroot");
  move_to(root, AT_FDCWD, "/sysroot");
  move_to(copy, root, "sysroot");

  // An overlay's layers are looked up by path, from descriptors, in mounts that are attached by now.
  int state = directory(copy, text(path, sizeof path, "state/deploy/%s", image));
  int etc = context("overlay");
  set(etc, "source", "overlay");
  set(etc, "lowerdir+", descriptor(buffer, sizeof buffer, directory(root, "etc")));
  set(etc, "upperdir", descriptor(buffer, sizeof buffer, directory(state, "etc/upper")));
  set(etc, "workdir", descriptor(buffer, sizeof buffer, directory(state, "etc/work")));
  move_to(mounted(etc, 0), root, "etc");
  move_to(clone_of(state, "var"), root, "var");
  return 0;
}
