#!/bin/sh
# Both directions with other programs: what qemu-img and qemu-io write we read; what we write they
# read, and qemu-img, libqcow, libvmdk and 7-Zip find nothing wrong with it.
#
#   tests/interop/run.sh [PART...]	read-qcow2 read-vmdk read-vhdx read-vpc read-vdi read-qed read-qcow read-parallels read-bochs read-cloop read-dmg read-asif write-qcow2 write-vmdk write-vhdx write-vpc write-vdi write-qed write-qcow write-parallels packed sizes resize same pairs copies encrypted luks script tool
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io to agree with"; finish; }
cd "$work" || exit 1

# Text, zeroes, noise, a repeated pattern, zeroes at the end; no whole number of clusters.
make_content() {
	{
		cat /usr/include/*.h /usr/include/linux/*.h 2>/dev/null | head -c 3000000
		head -c 5000000 /dev/zero
		head -c 2500000 /dev/urandom
		yes "0123456789abcdef and so on" | head -c 1500000
		head -c 700000 /dev/zero
		head -c 100000 /dev/urandom
	} >content.raw
	truncate -s $((15 * 1048576 + 3584)) content.raw
}

# What qemu-io does to an image, so that it has more than plain clusters: overwritten, zeroed with
# and without giving space back, discarded, unaligned.
scribble() {	# FORMAT FILE
	qemu-io -f "$1" "$2" >/dev/null <<-END
		write -q -P 0x11 0 4096
		write -q -P 0x22 70000 200000
		write -q -P 0x33 5111808 65536
		write -q -z 1048576 524288
		write -q -z -u 2097152 1048576
		discard -q 9437184 1048576
		write -q -P 0x44 14000128 3072
		write -q -P 0x55 9500672 1536
		flush
	END
}

# ---- Agreeing about an image ----

# reads NAME FORMAT FILE: our reading of it is qemu-img's.
reads() {
	qemu-img convert -f "$2" -O raw "$3" theirs.raw || { fail "$1: qemu-img cannot read it"; return; }
	rm -f ours.raw
	try "$1: convert" "$imgtool" convert -f "$2" -O raw "$3" ours.raw &&
		try "$1: same content" cmp ours.raw theirs.raw
	rm -f ours.raw theirs.raw
}

# is_content NAME FORMAT FILE [RAW]: they read what was put in.
is_content() {
	try "$1: qemu-img compare" qemu-img compare -q -f "$2" -F raw "$3" "${4:-content.raw}"
}

# agree NAME FILTER: of the two documents in both.json the filter makes the same. (jq takes longer to
# begin than the programs that it listens to: once for both.)
agree() {
	jq -c "map($2) | if length == 2 and .[0] == .[1] then empty else length, .[] end" --slurp both.json \
		>unlike.json 2>&1 || echo "no JSON" >>unlike.json
	try "$1" sh -c 'cat unlike.json; test ! -s unlike.json'
}

# The keys that both versions have, neighbours that are alike merged. Not compared: holes of the
# file inside of what the format calls data, where each program looks as closely as it finds useful;
# offsets of what is not there.
# same_map NAME FORMAT FILE
same_map() {
	{ qemu-img map -f "$2" --output=json "$3"; "$imgtool" map -f "$2" --output=json "$3"; } >both.json
	agree "$1: same map" "reduce .[] as \$e ([];
		(\$e | {start, length, depth, present, zero, data, offset} |
			if .data and .zero and \"$2\" != \"raw\" then .zero = false else . end |
			if .present then . else .offset = null end) as \$n |
		if length > 0 and ((.[-1] | [.depth, .present, .zero, .data]) == (\$n | [.depth, .present, .zero, .data]))
			and ((.[-1].offset == null and \$n.offset == null) or
			     (.[-1].offset != null and \$n.offset == .[-1].offset + .[-1].length))
		then .[-1].length += \$n.length else . + [\$n] end)"
}

# Without what differs from version to version or from file to file. The grain of a split VMDK is in
# its extents, which our info does not open: it opens nothing that an image names.
# same_info NAME FORMAT OURS [THEIRS]: both programs say the same of OURS, or of OURS and THEIRS.
same_info() {
	{ qemu-img info -f "$2" --output=json "${4:-$3}"; "$imgtool" info -f "$2" --output=json "$3"; } >both.json
	agree "$1: same info" "del(.children, .\"format-specific\".data.cid, .filename, .\"actual-size\",
		.\"full-backing-filename\", .\"format-specific\".data.extents[]?.filename) |
		if .\"format-specific\".data.\"create-type\" == \"twoGbMaxExtentSparse\"
		then del(.\"cluster-size\", .\"format-specific\".data.extents[].\"cluster-size\") else . end"
}

# same_check NAME FORMAT FILE
same_check() {
	{ qemu-img check -f "$2" --output=json "$3"; "$imgtool" check -f "$2" --output=json "$3"; } >both.json
	agree "$1: same check" "del(.filename)"
}

# sound NAME FORMAT FILE: their checker and ours find nothing.
sound() {
	try "$1: qemu-img check" qemu-img check -q -f "$2" "$3"
	try "$1: imgtool check" "$imgtool" check -q -f "$2" "$3"
}

# seven NAME FILE [RAW]: 7-Zip unpacks the same.
seven() {
	have 7z || { skip "$1: no 7z"; return; }
	7z x -so "$2" >seven.raw 2>/dev/null </dev/null
	try "$1: 7z" cmp seven.raw "${3:-content.raw}"
	rm -f seven.raw
}

# vhdi NAME FILE TYPE [RAW]: libvhdi tells such a disk, and where FUSE works it has the same content, that of the whole chain.
vhdi() {
	have vhdiinfo || return
	try "$1: vhdiinfo" sh -c "vhdiinfo '$2' >vhdi.txt && grep -q 'Disk type.*: $3' vhdi.txt"
	mkdir -p mounted
	if have vhdimount && timeout 20 vhdimount "$2" mounted >vhdi.txt 2>&1 && mountpoint -q mounted; then
		# the parents come first
		try "$1: vhdimount" qemu-img compare -q -f raw -F raw \
			"mounted/$(ls mounted | sort -V | tail -n 1)" "${4:-content.raw}"
		umount mounted || fusermount -u mounted
	elif [ -w /dev/fuse ] && [ "$(id -u)" = 0 ] && ! grep -q 'fuse' vhdi.txt; then
		fail "$1: vhdimount" <vhdi.txt
	fi
	rm -f vhdi.txt
}
have vhdiinfo || skip "our vpc and vhdx in libvhdi: no vhdiinfo"

# VirtualBox has one registry of all images that it was ever shown: ours, and a new one after vbox_forget.
export VBOX_USER_HOME="$work/registry"
vbox() { timeout 60 VBoxManage "$@"; }
vbox_forget() { rm -rf "$VBOX_USER_HOME" && mkdir "$VBOX_USER_HOME"; }
have VBoxManage || skip "images by VirtualBox, and ours in it: no VBoxManage"

# vbox_reads NAME FILE [RAW]: VirtualBox reads the same, from a file that it has not seen.
vbox_reads() {
	have VBoxManage || return
	vbox_forget
	rm -f vbox.raw
	try "$1: VBoxManage" vbox clonemedium disk "$work/$2" "$work/vbox.raw" --format RAW &&
		try "$1: VBoxManage: the same content" cmp vbox.raw "${3:-content.raw}"
	rm -f vbox.raw
}

# mounts NAME PROGRAM FILE ENTRY [RAW]: libvmdk's or libqcow's file system shows the same.
mounts() {
	have "$2" && [ "$can_mount" ] || return
	mkdir -p mounted
	if timeout 20 "$2" "$3" mounted >mount.log 2>&1; then
		try "$1: $2" cmp "mounted/$4" "${5:-content.raw}"
		umount mounted
	elif ! grep -q 'Unsupported disk type' mount.log; then	# flat ones
		fail "$1: $2: $(tail -n 1 mount.log)"
	fi
}
# ---- Encrypted images: $secret has their passphrase ----

# retried COMMAND...: qemu-img measures its own processor time, which on a busy machine is at times nothing.
retried() {
	for _ in 1 2 3 4 5 6 7 8 9; do
		"$@" 2>retried.err && return
		grep -q 'CPU usage' retried.err || break
	done
	cat retried.err >&2
	return 1
}

# scribble_as DESCRIPTION: as scribble() does.
scribble_as() {
	# shellcheck disable=SC2086 # words are wanted
	qemu-io $secret --image-opts "$1" >/dev/null <<-END
		write -q -P 0x11 0 4096
		write -q -P 0x22 70000 200000
		write -q -P 0x33 5111808 65536
		write -q -z 1048576 524288
		write -q -z -u 2097152 1048576
		write -q -P 0x44 14000128 3072
		write -q -P 0x55 9500672 1536
		flush
	END
}

# same_disk NAME DESCRIPTION: both read the same.
same_disk() {
	rm -f ours.raw theirs.raw
	# shellcheck disable=SC2086
	qemu-img convert $secret --image-opts -O raw "$2" theirs.raw || { fail "$1: qemu-img cannot read it"; return; }
	# shellcheck disable=SC2086
	try "$1: convert" "$imgtool" convert $secret --image-opts -O raw "$2" ours.raw &&
		try "$1: same content" cmp ours.raw theirs.raw
}

can_mount=
if [ "$(id -u)" = 0 ] && [ -c /dev/fuse ] && have vmdkmount; then
	can_mount=yes
else
	skip "vmdkmount and qcowmount: they need the superuser and /dev/fuse"
fi

make_content
for part in ${*:-read-qcow2 read-vmdk read-vhdx read-vpc read-vdi read-qed read-qcow read-parallels read-bochs read-cloop read-dmg read-asif write-qcow2 write-vmdk write-vhdx write-vpc write-vdi write-qed write-qcow write-parallels packed sizes resize same pairs copies encrypted luks script tool}; do
	. "$top/tests/interop/$part.sh"
	rm -f ./*.luks ./*.qcow2 ./*.vmdk ./*.vhdx ./*.vpc ./*.vdi ./*.qed ./*.qcow ./*.parallels ./*.bochs ./*.cloop ./*.dmg ./*.asif ./*.bin
done
finish
