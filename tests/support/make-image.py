#!/usr/bin/env python3
"""Images of formats that no installed program writes, made from the formats' descriptions alone.

    make-image.py bochs RAW OUT [version=2] [extent=4096] [bitmap=BYTES] [order=up|down]
    make-image.py cloop RAW OUT [version=2] [block=65536] [kinds=zlib,plain,xz] [place=front|end]

RAW is the disk. What comes out is the same each time.
"""
import lzma
import struct
import sys
import zlib

SECTOR = 512


def is_zero(data):
    return not data.strip(b"\0")


def make_bochs(disk, version=2, extent=4096, bitmap=None, order="up", header=512, entries=None):
    extent = int(extent)
    header = int(header)
    bitmap = int(bitmap) if bitmap else -(-extent // SECTOR // 8)
    extents = [disk[i : i + extent].ljust(extent, b"\0") for i in range(0, len(disk), extent)]
    used = [i for i, data in enumerate(extents) if not is_zero(data)]
    if order == "down":
        used.reverse()
    catalog = [0xFFFFFFFF] * max(len(extents), int(entries or 0))
    out = b""
    for number, i in enumerate(used):
        catalog[i] = number
        bits = bytearray(-(-bitmap // SECTOR) * SECTOR)
        body = b""
        for s in range(extent // SECTOR):
            sector = extents[i][s * SECTOR : (s + 1) * SECTOR]
            if is_zero(sector):
                body += b"\xee" * SECTOR  # not here: it must not be seen
            else:
                bits[s // 8] |= 1 << s % 8
                body += sector
        out += bytes(bits) + body
    head = struct.pack("<32s16s16sIIIII", b"Bochs Virtual HD Image", b"Redolog", b"Growing",
                       int(version) << 16, header, len(catalog), bitmap, extent)
    head += struct.pack("<Q", len(disk)) if int(version) == 1 else struct.pack("<IQ", 0, len(disk))
    return head.ljust(header, b"\0") + struct.pack("<%dI" % len(catalog), *catalog) + out


def make_cloop(disk, version=2, block=65536, kinds="zlib", place="front"):
    block, kinds = int(block), kinds.split(",")
    numbers = {"zlib": 0, "plain": 1, "xz": 2, "lz4": 3, "lzo": 4}
    stored = []
    for n, i in enumerate(range(0, len(disk), block)):
        data, kind = disk[i : i + block].ljust(block, b"\0"), kinds[n % len(kinds)]
        if kind == "zlib":
            data = zlib.compress(data, 9)
        elif kind == "xz":
            data = lzma.compress(data, preset=1, check=lzma.CHECK_CRC32)
        stored.append((numbers[kind], data))
    header = b"#!/bin/sh\n#V%d.0 Format\n" % int(version)
    header += b"modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n"
    header = header.ljust(128, b"\0") + struct.pack(">II", block, len(stored))
    at = 0 if place == "end" else len(header) + (len(stored) + 1) * 8
    table = b""
    for kind, data in stored:
        table += struct.pack(">Q", kind << 60 | at)
        at += len(data)
    table += struct.pack(">Q", at)
    blocks = b"".join(data for _, data in stored)
    return blocks + table + header if place == "end" else header + table + blocks


def main():
    kind, source, target = sys.argv[1:4]
    options = dict(argument.split("=", 1) for argument in sys.argv[4:])
    with open(source, "rb") as f:
        disk = f.read()
    image = globals()["make_" + kind](disk, **options)
    with open(target, "wb") as f:
        f.write(image)


main()
