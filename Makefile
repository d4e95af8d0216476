# Builds the programs, and installs what a distribution or an image builder needs. The boot program's place in the initramfs is
# /usr/lib/sealroot, whatever PREFIX is where it is built.
#
#   make                              builds both programs, static, and the boot stub
#   make install DESTDIR=DIR          below DIR, which may be the root of an image
#   make test                         what CI runs

PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
TARGET ?= $(shell uname -m)-unknown-linux-musl
# The boot stub's, and what the firmware calls that machine.
EFI_TARGET ?= $(shell uname -m)-unknown-uefi
efi_name = $(patsubst aarch64-%,aa64,$(patsubst x86_64-%,x64,$(EFI_TARGET)))

lib = $(DESTDIR)$(PREFIX)/lib
share = $(DESTDIR)$(PREFIX)/share
target = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)

# What is installed, if it was built elsewhere.
BOOT_PROGRAM ?= $(target)/release/sealroot-initrd
COMMAND ?= $(target)/cli/sealroot
STUB ?= $(or $(CARGO_TARGET_DIR),stub/target)/$(EFI_TARGET)/release/sealroot-stub.efi

# The stub is the same wherever it is built: it has no names of folders in it.
cargo_home = $(or $(CARGO_HOME),$(HOME)/.cargo)
stub_flags = --remap-path-prefix=$(CURDIR)=sealroot --remap-path-prefix=$(cargo_home)=cargo

.PHONY: all install stub test

all: stub
	$(CARGO) build --release --locked --target $(TARGET) --bin sealroot-initrd
	$(CARGO) build --profile cli --locked --target $(TARGET) --features cli --bin sealroot

stub:
	RUSTFLAGS='$(stub_flags)' $(CARGO) build --release --locked --target $(EFI_TARGET) --manifest-path stub/Cargo.toml

# What was built by `make` is installed, so that root need not build.
install:
	install -D -m 755 $(BOOT_PROGRAM) $(lib)/sealroot/sealroot-initrd
	install -D -m 755 $(COMMAND) $(DESTDIR)$(PREFIX)/bin/sealroot
	install -D -m 644 $(STUB) $(lib)/sealroot/sealroot-stub-$(efi_name).efi
	cd systemd-units && find . -type f -exec install -D -m 644 {} $(abspath $(lib))/systemd/system/{} \;
	install -d $(lib)/systemd/system/sysinit.target.wants
	ln -sf ../sealroot-keep.service $(lib)/systemd/system/sysinit.target.wants/sealroot-keep.service
	install -D -m 755 dracut-module/50sealroot/module-setup.sh $(lib)/dracut/modules.d/50sealroot/module-setup.sh
	install -D -m 644 -t $(share)/man/man1 man/sealroot.1
	install -D -m 644 -t $(share)/man/man5 man/sealroot.toml.5
	install -D -m 644 -t $(share)/man/man8 man/sealroot-initrd.8
	install -D -m 644 man/completions/sealroot.bash $(share)/bash-completion/completions/sealroot
	install -D -m 644 -t $(share)/zsh/site-functions man/completions/_sealroot
	install -D -m 644 -t $(share)/fish/vendor_completions.d man/completions/sealroot.fish
	install -D -m 644 -t $(share)/doc/sealroot README.md SECURITY.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT $(wildcard docs/*.md)

test:
	./tests/run
