# The same input and options give the same bytes, however many threads there are, once more, and into
# a pipe. Sourced by run.sh.

# Larger than what one thread takes at once, with something of everything, and no whole cluster.
{ cat content.raw; head -c 10000000 /dev/zero; head -c 9000000 content.raw; } >long.raw

# run_into FOLDER ARGS...: convert long.raw to FOLDER/o.*, the same name each time.
run_into() {
	folder=$1
	shift
	rm -rf "$folder" && mkdir "$folder" && (cd "$folder" && "$imgtool" convert -f raw "$@" ../long.raw o.img)
}

while read -r format options; do
	name="the same bytes: $format $options"
	compress=
	case $options in -c*) compress=-c options=${options#-c} options=${options# } ;; esac
	# shellcheck disable=SC2086 # nothing or an option
	set -- $compress -O "$format" ${options:+-o $options}
	try "$name: convert" run_into first "$@" || continue
	run_into again "$@"
	try "$name: once more" diff -r first again
	for threads in 1 16; do
		run_into again -m $threads "$@"
		try "$name: -m $threads" diff -r first again
	done
	case $options in
	*streamOptimized*)
		for threads in 1 16; do
			"$imgtool" convert -f raw -m $threads "$@" long.raw - | cat >piped.vmdk
			try "$name: into a pipe, -m $threads" cmp first/o.img piped.vmdk
		done ;;
	esac
	rm -rf first again piped.vmdk
done <<END
raw
qcow2
qcow2 compat=0.10,cluster_size=4k
vhdx
vhdx block_size=1M
vhdx subformat=fixed,block_size=1M
vdi
vdi static=on
vdi block_size=4k
qcow
qcow -c
qed
qed cluster_size=4k,table_size=2
parallels
parallels cluster_size=32256
parallels preallocation=full
qcow2 extended_l2=on
qcow2 lazy_refcounts=on,refcount_bits=8
qcow2 preallocation=metadata
qcow2 -c compat=1.1
qcow2 -c extended_l2=on
qcow2 -c cluster_size=512
qcow2 -c compression_type=zstd
qcow2 -c compression_type=zstd,cluster_size=2M,compression_level=9
vmdk subformat=monolithicSparse
vmdk subformat=monolithicFlat
vmdk subformat=twoGbMaxExtentSparse
vmdk subformat=twoGbMaxExtentFlat
vmdk subformat=streamOptimized
END

# The format of the source does not matter, nor how its zeroes are kept.
qemu-img convert -c -f raw -O qcow2 long.raw packed.qcow2
qemu-img convert -S 0 -f raw -O raw long.raw full.raw
touch -r long.raw packed.qcow2 full.raw # identifiers have the time in them
for options in monolithicSparse streamOptimized; do
	"$imgtool" convert -f raw -O vmdk -o subformat=$options long.raw o.vmdk
	mv o.vmdk first.img
	for source in packed.qcow2 full.raw; do
		"$imgtool" convert -O vmdk -o subformat=$options $source o.vmdk
		try "the same bytes: vmdk $options from $source" cmp o.vmdk first.img
	done
done
"$imgtool" convert -c -f raw -O qcow2 long.raw o.qcow2
"$imgtool" convert -c -f qcow2 -O qcow2 packed.qcow2 o2.qcow2
try "the same bytes: packed qcow2 from a packed one" cmp o.qcow2 o2.qcow2
rm -f long.raw full.raw first.img

# A disk that was changed, though only where no sample is taken, has other identifiers: a child of
# the image that was made of it before notices.
head -c 60000000 /dev/urandom >changed.raw
"$imgtool" convert -f raw -O vmdk changed.raw parent.vmdk
"$imgtool" create -q -f vmdk -b parent.vmdk -F vmdk child.vmdk
try "a child opens" "$imgtool" compare -q -f vmdk -F raw child.vmdk changed.raw
printf changed | dd of=changed.raw bs=1 seek=50400000 conv=notrunc status=none
"$imgtool" convert -f raw -O vmdk changed.raw parent.vmdk
! "$imgtool" compare -q -f vmdk -F raw child.vmdk changed.raw 2>said
try "a child of an image that was replaced does not" grep -q 'no image of UUID' said
rm -f changed.raw said

# vdi_uuid FILE: as the header has it.
vdi_uuid() {
	od -An -v -tx1 -j392 -N16 "$1" | tr -d ' '
}

# changed_uuid NAME SOURCE COMMAND...: what the command does to a disk gives the next image of it
# another identifier.
changed_uuid() {
	name=$1 source=$2
	shift 2
	"$imgtool" convert -O vdi "$source" o.vdi
	was=$(vdi_uuid o.vdi)
	"$@"
	"$imgtool" convert -O vdi "$source" o.vdi
	try "$name: other identifiers" [ "$was" != "$(vdi_uuid o.vdi)" ]
}

# Also where the data lies in a file beside the image, which itself stays as it is.
change_byte() {
	printf x | dd of="$1" bs=1 seek=50400000 conv=notrunc status=none
}
head -c 60000000 /dev/urandom >changed.raw
qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat changed.raw flat.vmdk
changed_uuid "a flat extent changed" flat.vmdk change_byte flat-flat.vmdk
qemu-img convert -f raw -O qcow2 -o data_file=data.raw,data_file_raw=on changed.raw outside.qcow2
changed_uuid "a data file changed" outside.qcow2 change_byte data.raw

# Of a pipe nobody knows what is in it before it has ended.
cat changed.raw | "$imgtool" convert -f raw -O vdi - o.vdi
was=$(vdi_uuid o.vdi)
cat changed.raw | "$imgtool" convert -f raw -O vdi - o.vdi
try "a pipe: other identifiers" [ "$was" != "$(vdi_uuid o.vdi)" ]

# Images of one disk made with other options are other images.
"$imgtool" convert -f raw -O vdi changed.raw o.vdi
was=$(vdi_uuid o.vdi)
"$imgtool" convert -f raw -O vdi -o static=on changed.raw o.vdi
try "other options: other identifiers" [ "$was" != "$(vdi_uuid o.vdi)" ]
rm -f changed.raw flat.vmdk flat-flat.vmdk outside.qcow2 data.raw o.vdi
