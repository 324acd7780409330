# libimg: see README.md. Adding a format is a folder and a line in formats/registry.c.
CC       ?= cc
CFLAGS   ?= -O2 -g
BUILD    ?= build
PREFIX   ?= /usr/local
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	    -Wpointer-arith -Wwrite-strings -Wundef -Wvla -Werror

VERSION := $(shell sed -n 's/^.define LIBIMG_VERSION "\(.*\)"/\1/p' libimg/img.h)
SONAME  := libimg.so.0

# Debian's names: what building needs, and what testing needs besides.
PACKAGES      := gcc make pkg-config liburing-dev libdeflate-dev zlib1g-dev libzstd-dev libssl-dev \
		 libjansson-dev libnbd-dev libxml2-dev nettle-dev libargon2-dev libbz2-dev liblzma-dev
TEST_PACKAGES := libcriterion-dev qemu-utils strace xz-utils e2fsprogs jq time p7zip-full \
		 libvmdk-utils libvhdi-utils libqcow-utils clang libclang-rt-dev nbdkit python3
LINT_PACKAGES := clang-format clang-tidy cppcheck

# Without these libraries images that need them are refused, in words. WITHOUT='bzip2 xz' leaves them out.
CODEC_FLAGS :=
CODEC_LIBS  :=
have_header = $(shell $(CC) -E -include $(1) -x c /dev/null >/dev/null 2>&1 && echo yes)
ifeq ($(if $(filter bzip2,$(WITHOUT)),,$(call have_header,bzlib.h)),yes)
CODEC_FLAGS += -DIMG_HAVE_BZIP2
CODEC_LIBS  += -lbz2
endif
ifeq ($(if $(filter xz,$(WITHOUT)),,$(call have_header,lzma.h)),yes)
CODEC_FLAGS += -DIMG_HAVE_LZMA
CODEC_LIBS  += -llzma
endif

override CFLAGS   += -std=gnu11 -fPIC -fno-semantic-interposition -pthread $(WARNINGS)
override CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. $(CODEC_FLAGS) \
		     $(patsubst -I%,-isystem %,$(shell pkg-config --cflags libxml-2.0))
LIBS := -luring -ldeflate -lz -lzstd -lcrypto -ljansson $(CODEC_LIBS) -ldl -pthread

# ---- What there is ----

LIB_SRC  := $(sort $(wildcard libimg/base/*.c libimg/storage/*.c libimg/crypto/*.c libimg/engine/*.c \
	      libimg/image/*.c libimg/jobs/*.c formats/*.c formats/*/*.c))
TOOL_SRC := $(sort $(wildcard tools/*.c))
DOCS_SRC := $(sort $(wildcard tools/docs/*.c))
TEST_SRC := $(sort $(shell find tests -name '*_test.c'))
SHARE_SRC := $(wildcard tests/support/*.c)
PRELOAD_SRC := tests/fault/preload.c tests/crypto/freed.c
HELP_SRC := $(filter-out $(TEST_SRC) $(SHARE_SRC) $(PRELOAD_SRC),$(sort $(wildcard tests/*/*.c)))	# of other suites
FUZZ_SRC := $(sort $(wildcard fuzz/*_fuzz.c))

LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o)
TOOL_OBJ := $(TOOL_SRC:%.c=$(BUILD)/%.o)
DOCS_OBJ := $(DOCS_SRC:%.c=$(BUILD)/%.o)
TESTS    := $(TEST_SRC:%.c=$(BUILD)/%)
SHARED   := $(SHARE_SRC:%.c=$(BUILD)/%.o)
HELPERS  := $(HELP_SRC:%.c=$(BUILD)/%)
PRELOADS := $(PRELOAD_SRC:%.c=$(BUILD)/%.so)
FUZZERS  := $(FUZZ_SRC:%.c=$(BUILD)/%)
ALL_SRC  := $(LIB_SRC) $(TOOL_SRC) $(DOCS_SRC) $(TEST_SRC) $(HELP_SRC) $(PRELOAD_SRC) $(SHARE_SRC) \
	    $(FUZZ_SRC) $(wildcard libimg/examples/*.c)
HEADERS  := $(sort $(shell find libimg formats tools tests fuzz -name '*.h'))

# ---- Building ----

all: $(BUILD)/libimg.a $(BUILD)/$(SONAME) $(BUILD)/imgtool $(BUILD)/qemu-img $(BUILD)/qemu-io \
	$(BUILD)/share/.made

$(BUILD)/libimg.a: $(LIB_OBJ)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libimg.so.$(VERSION): $(LIB_OBJ) libimg/libimg.map
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=libimg/libimg.map \
		-Wl,--no-undefined -o $@ $(LIB_OBJ) $(LIBS)

$(BUILD)/$(SONAME): $(BUILD)/libimg.so.$(VERSION)
	ln -sf libimg.so.$(VERSION) $@

$(BUILD)/imgtool: $(TOOL_OBJ) $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# Nothing links to a program: what it exported could only take the place of a library's function.
$(TOOL_OBJ): override CFLAGS += -fvisibility=hidden

# Under these names it answers as those tools do.
$(BUILD)/qemu-img $(BUILD)/qemu-io: $(BUILD)/imgtool
	ln -sf imgtool $@

# Manual pages and completion, from the tables of imgtool's commands.
MAN_DIR  := share/man/man1
BASH_DIR := share/bash-completion/completions
ZSH_DIR  := share/zsh/site-functions
FISH_DIR := share/fish/vendor_completions.d

$(BUILD)/docs: $(DOCS_OBJ) $(filter-out %/main.o,$(TOOL_OBJ)) $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/share/.made: $(BUILD)/docs tools/docs/completion.bash
	@rm -rf $(BUILD)/share
	@mkdir -p $(addprefix $(BUILD)/,$(MAN_DIR) $(BASH_DIR) $(ZSH_DIR) $(FISH_DIR))
	$(BUILD)/docs $(BUILD)/share
	cat tools/docs/completion.bash >> $(BUILD)/$(BASH_DIR)/imgtool
	@touch $@

# What tests run has the engine's invariants checked; the library has it without.
ifeq ($(findstring -DIMG_DEBUG,$(CFLAGS)),)
CHECKED := $(patsubst %.c,$(BUILD)/checked/%.o,$(wildcard libimg/engine/*.c))
endif

$(BUILD)/checked/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -DIMG_DEBUG -MMD -MP -c -o $@ $<

$(TESTS): %: %.o $(CHECKED) $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lcriterion $(LIBS)

$(HELPERS): %: %.o $(SHARED) $(CHECKED) $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# Loaded into programs that are not sanitized.
$(PRELOADS) $(PRELOADS:.so=.o): override CFLAGS := $(filter-out -fsanitize=% -fno-sanitize%,$(CFLAGS))
$(PRELOADS): %.so: %.o
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $^ -ldl

# The judge of ciphers.
$(BUILD)/tests/crypto/cipher_test: LIBS += -lnettle

# What an image names comes from memory there.
$(BUILD)/tests/crash/crash: LDFLAGS += -Wl,--wrap=img_storage_open_fd,--wrap=img_storage_open_file

$(FUZZERS): %: %.o $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

-include $(LIB_OBJ:.o=.d) $(CHECKED:.o=.d) $(TOOL_OBJ:.o=.d) $(DOCS_OBJ:.o=.d) $(TESTS:=.d) \
	 $(HELPERS:=.d) $(SHARED:.o=.d) $(FUZZERS:=.d)

tests: all unit-tests $(HELPERS) $(PRELOADS)
unit-tests: $(TESTS)
fuzzers: $(FUZZERS)

# ---- Installing ----

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
		$(DESTDIR)$(PREFIX)/include/libimg
	install -m 755 $(BUILD)/imgtool $(DESTDIR)$(PREFIX)/bin/
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,$(MAN_DIR) $(BASH_DIR) $(ZSH_DIR) $(FISH_DIR))
	install -m 644 $(BUILD)/$(MAN_DIR)/imgtool*.1 $(DESTDIR)$(PREFIX)/$(MAN_DIR)/
	install -m 644 $(BUILD)/$(BASH_DIR)/imgtool $(DESTDIR)$(PREFIX)/$(BASH_DIR)/
	install -m 644 $(BUILD)/$(ZSH_DIR)/_imgtool $(DESTDIR)$(PREFIX)/$(ZSH_DIR)/
	install -m 644 $(BUILD)/$(FISH_DIR)/imgtool.fish $(DESTDIR)$(PREFIX)/$(FISH_DIR)/
	install -m 644 $(BUILD)/libimg.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/libimg.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/
	ln -sf libimg.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libimg.so
	install -m 644 libimg/img.h $(DESTDIR)$(PREFIX)/include/libimg/
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@CODEC_LIBS@|$(CODEC_LIBS)|' libimg/libimg.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/libimg.pc

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/imgtool $(DESTDIR)$(PREFIX)/lib/libimg.a \
		$(DESTDIR)$(PREFIX)/lib/libimg.so $(DESTDIR)$(PREFIX)/lib/libimg.so.* \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/libimg.pc $(DESTDIR)$(PREFIX)/include/libimg/img.h \
		$(DESTDIR)$(PREFIX)/$(MAN_DIR)/imgtool.1 $(DESTDIR)$(PREFIX)/$(MAN_DIR)/imgtool-*.1 \
		$(DESTDIR)$(PREFIX)/$(BASH_DIR)/imgtool $(DESTDIR)$(PREFIX)/$(ZSH_DIR)/_imgtool \
		$(DESTDIR)$(PREFIX)/$(FISH_DIR)/imgtool.fish
	-rmdir $(DESTDIR)$(PREFIX)/include/libimg

deps:
	@.ci/deps $(PACKAGES)
deps-test:
	@.ci/deps $(PACKAGES) $(TEST_PACKAGES)
deps-lint:
	@.ci/deps $(LINT_PACKAGES)

# ---- Trying it: a VMDK becomes a qcow2 ----

SAMPLE := tests/data/vmdk/good-ext4-stream.vmdk

run: deps
	@$(MAKE) --no-print-directory -s -j$$(nproc) all
	@echo "A streamOptimized VMDK with a small ext4 file system: $(SAMPLE)"
	$(BUILD)/imgtool convert -O qcow2 $(SAMPLE) $(BUILD)/sample.qcow2
	$(BUILD)/imgtool info $(BUILD)/sample.qcow2
	$(BUILD)/imgtool check $(BUILD)/sample.qcow2
	$(BUILD)/imgtool compare $(SAMPLE) $(BUILD)/sample.qcow2
	@echo "Converted $(SAMPLE) to $(BUILD)/sample.qcow2: checked, and the same content."

# ---- Testing: each suite is tests/NAME/run.sh, and its last line says what it found ----

# Longest first: they run side by side.
SUITES := tools asan interop random unit fault fuzz nbd crash corpus chains cases callers install docs repair

ASAN := -O1 -g -DIMG_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
MAKE_ASAN = $(MAKE) --no-print-directory -s -j$$(nproc) BUILD=build-asan CFLAGS="$(ASAN)"
MAKE_TSAN = $(MAKE) --no-print-directory -s -j$$(nproc) BUILD=build-tsan CC=clang \
	    CFLAGS="-O1 -g -DIMG_DEBUG -fsanitize=thread -fno-omit-frame-pointer"
MAKE_FUZZ = $(MAKE) --no-print-directory -s -j$$(nproc) BUILD=build-fuzz CC=clang \
	    CFLAGS="$(ASAN) -fsanitize=fuzzer-no-link"

test: deps-test build-all build-asan build-fuzz
	@BUILD=$(BUILD) tests/run $(SUITES)

build-all:
	@$(MAKE) --no-print-directory -s -j$$(nproc) tests
build-asan:
	@$(MAKE_ASAN) unit-tests build-asan/tests/fault/fault
build-tsan:
	@$(MAKE_TSAN) build-tsan/imgtool build-tsan/tests/random/random
build-fuzz:
	@$(MAKE_FUZZ) fuzzers

check: check-unit
check-unit: build-all
	@BUILD=$(BUILD) tests/run unit
check-asan asan: build-asan
	@BUILD=$(BUILD) tests/run asan
check-install check-docs tools nbd callers cases interop corpus random chains crash repair: build-all
	@BUILD=$(BUILD) tests/run $(@:check-%=%)
crash-full: build-all
	@BUILD=$(BUILD) FULL=1 tests/run crash
crash-recorded: build-all
	@BUILD=$(BUILD) tests/run crash-recorded
repair-full: build-all
	@BUILD=$(BUILD) FULL=1 tests/run repair
fault: build-all build-asan
	@BUILD=$(BUILD) tests/run fault
fuzz: build-fuzz
	@BUILD=$(BUILD) tests/run fuzz
race: build-tsan
	@BUILD=build-tsan IO=threads tests/run random
fuzz-long: build-fuzz
	@BUILD=$(BUILD) FUZZ_SECONDS=$${FUZZ_SECONDS:-1800} tests/run fuzz

mutants: build-all
	@BUILD=$(BUILD) tests/run mutants

bench: build-all
	@BUILD=$(BUILD) tests/bench/bench.sh

# ---- Reading it over ----

lint: deps-lint
	clang-format --dry-run -Werror $(ALL_SRC) $(HEADERS)
	@for f in $(ALL_SRC) $(HEADERS); do expand $$f | awk -v f=$$f \
		'length > 100 && !/["*]/ { print f ":" NR ": longer than 100 columns"; bad = 1 } \
		END { exit bad }' || exit; done
	printf '%s\n' $(filter-out libimg/base/error.c,$(ALL_SRC)) | xargs -P $$(nproc) -n 6 sh -c \
		'clang-tidy --quiet "$$@" -- -include tests/lint.h $(CPPFLAGS) -std=gnu11 2>/dev/null' sh
	clang-tidy --quiet libimg/base/error.c -- $(CPPFLAGS) -std=gnu11
	perl tests/mutants/apply.pl --check tests/mutants/*.faults
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
		--inline-suppr --suppressions-list=.cppcheck -j $$(nproc) -I. -D_GNU_SOURCE \
		$(filter-out $(TEST_SRC),$(ALL_SRC))

format:
	clang-format -i $(ALL_SRC) $(HEADERS)

clean:
	rm -rf build build-*

.PHONY: all tests unit-tests fuzzers install uninstall deps deps-test deps-lint run test build-all build-asan \
	build-fuzz build-tsan check check-unit check-asan asan check-install check-docs tools nbd callers \
	cases interop corpus random chains crash crash-full crash-recorded repair repair-full mutants fault race fuzz \
	fuzz-long bench lint format clean
.DELETE_ON_ERROR:
# Objects of tests are kept.
.SECONDARY:
