#!/bin/sh
# The installed tree is all that a program needs: headers, both libraries, pkg-config, the tool.
. "$(dirname "$0")/../lib.sh"

cc=${CC:-cc}
root=$work/root
# No other make's flags and jobs.
unset MAKEFLAGS MFLAGS MAKELEVEL
try "make install" make -s BUILD="$build" DESTDIR="$root" PREFIX=/usr install || finish
for file in bin/imgtool lib/libimg.a lib/libimg.so lib/libimg.so.0 include/libimg/img.h lib/pkgconfig/libimg.pc; do
	try "installed: $file" test -e "$root/usr/$file"
done
try "qemu-img is not replaced unasked" test ! -e "$root/usr/bin/qemu-img"
for file in man/man1/imgtool.1 man/man1/imgtool-convert.1 bash-completion/completions/imgtool zsh/site-functions/_imgtool \
	fish/vendor_completions.d/imgtool.fish; do
	try "installed: share/$file" test -s "$root/usr/share/$file"
done
try "a manual page for each command" test "$(ls "$root/usr/share/man/man1" | wc -l)" -gt 9
version=$(sed -n 's/^.define LIBIMG_VERSION "\(.*\)"/\1/p' libimg/img.h)
try "imgtool runs" "$root/usr/bin/imgtool" --version

pkg() { PKG_CONFIG_PATH=$root/usr/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root pkg-config "$@" libimg; }
try "pkg-config's version" test "$(pkg --modversion)" = "$version"

# Exactly the functions of the header are exported, all under one version.
grep -oE '^[a-z].*\bimg_[a-z0-9_]+\(' libimg/img.h | grep -v '^typedef' |
	grep -oE 'img_[a-z0-9_]+\(' | tr -d '(' | sort -u >"$work/declared"
nm -D --defined-only "$root/usr/lib/libimg.so" | sed -n 's/.* T \(.*\)@@LIBIMG_.*/\1/p' | sort >"$work/exported"
try "what the header declares is what is exported" diff "$work/declared" "$work/exported"
nm -D --defined-only "$root/usr/lib/libimg.so" | grep -vE ' T img_[a-z0-9_]+@@LIBIMG_| A LIBIMG_' >"$work/other"
try "the library exports nothing else" diff /dev/null "$work/other"
nm -D --defined-only "$root/usr/bin/imgtool" >"$work/tool"
try "imgtool exports nothing" diff /dev/null "$work/tool"
try "SONAME" sh -c "readelf -d '$root/usr/lib/libimg.so' | grep -q 'SONAME.*libimg.so.0'"

# The header stands alone, in C and in C++.
echo '#include <libimg/img.h>' >"$work/h.c"
# shellcheck disable=SC2046 # words are wanted
try "the header in C11, pedantic" "$cc" -std=c11 -pedantic -Wall -Werror $(pkg --cflags) -c -o "$work/h.o" "$work/h.c"
if have c++; then
	# shellcheck disable=SC2046
	try "the header in C++" c++ -x c++ -Wall -Werror $(pkg --cflags) -c -o "$work/h.o" "$work/h.c"
fi

# The example, shared and static, drives an image.
# shellcheck disable=SC2046
try "example, shared" "$cc" -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o "$work/shared" libimg/examples/backend.c \
	$(pkg --cflags --libs)
# shellcheck disable=SC2046
try "example, static library" "$cc" -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o "$work/static" libimg/examples/backend.c \
	$(pkg --cflags) "$root/usr/lib/libimg.a" $(PKG_CONFIG_PATH=$root/usr/lib/pkgconfig pkg-config --static --libs libimg |
		sed 's/-limg//; s/-L[^ ]*//')
for options in compat=1.1 compat=0.10 extended_l2=on cluster_size=4k; do
	for how in shared static; do
		rm -f "$work/e.qcow2"
		"$root/usr/bin/imgtool" create -q -f qcow2 -o $options "$work/e.qcow2" 64M
		try "example, $how, $options" env LD_LIBRARY_PATH="$root/usr/lib" "$work/$how" "$work/e.qcow2" 1 $$ && [ -z "$VERBOSE" ] || cat "$work/.out"
		try "example, $how, $options: check" "$root/usr/bin/imgtool" check -q "$work/e.qcow2"
		! have qemu-img || try "example, $how, $options: qemu-img check" qemu-img check -q "$work/e.qcow2"
	done
done

make -s BUILD="$build" DESTDIR="$root" PREFIX=/usr uninstall >/dev/null 2>&1
try "make uninstall leaves no file" test -z "$(find "$root" -type f -o -type l)"
finish
