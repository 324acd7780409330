# libimg: see README.md. Adding a format is a folder and a line in formats/registry.c.
CC       ?= cc
CFLAGS   ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	    -Wpointer-arith -Wwrite-strings -Wundef -Wvla -Werror
BUILD    ?= build
PACKAGES := liburing libdeflate zlib libzstd libcrypto

override CFLAGS   += -std=gnu11 -fPIC -fvisibility=hidden -pthread $(WARNINGS)
override CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I.
LIBS := -luring -ldeflate -lz -lzstd -lcrypto -pthread

LIB_SRC := $(wildcard libimg/base/*.c libimg/storage/*.c libimg/engine/*.c libimg/image/*.c \
	     libimg/jobs/*.c formats/*.c formats/*/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
TOOL_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/*.c))

all: $(BUILD)/imgtool

$(BUILD)/libimg.a: $(LIB_OBJ)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/imgtool: $(TOOL_OBJ) $(BUILD)/libimg.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

-include $(LIB_OBJ:.o=.d) $(TOOL_OBJ:.o=.d)

.PHONY: all
