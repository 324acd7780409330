#!/usr/bin/env python3
"""Images of formats that no installed program writes, made from the formats' descriptions alone.

    make-image.py bochs RAW OUT [version=2] [extent=4096] [bitmap=BYTES] [order=up|down]
    make-image.py cloop RAW OUT [version=2] [block=65536] [kinds=zlib,plain,xz] [place=front|end]
    make-image.py dmg RAW OUT [kinds=zlib,bzip2,xz,plain,adc,lzvn,lzfse,zero,ignore] [packer=PROGRAM] [chunk=1048576] [parts=1]
        [trailer=end|front] [behind=BYTES] [fork=xml|resource] [start=BYTES] [gap=SECTORS] [crc=yes|no]

    make-image.py asif RAW OUT [chunk=1048576] [block=512] [first=0|1] [max=BYTES]

Of a dmg, lzfse is packed by the program that tests/interop/lzfse.c is. Chunks of zeroes are stored as zero or ignore where kinds has these, and kinds go by turns else.

RAW is the disk. What comes out is the same each time.
"""
import base64
import bz2
import lzma
import struct
import subprocess
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


# ---- dmg ----

TYPES = {"zero": 0, "plain": 1, "ignore": 2, "adc": 0x80000004, "zlib": 0x80000005, "bzip2": 0x80000006,
         "lzfse": 0x80000007, "lzvn": 0x80000007, "xz": 0x80000008}
LAST = 0xFFFFFFFF


def find_match(data, i, table, least, most, far):
    """How long, and how far back, by the last place where the next bytes were."""
    key = data[i : i + least]
    back = i - table.get(key, -far - 1)
    table[key] = i
    if back > far:
        return 0, 0
    n = 0
    while n < most and i + n < len(data) and data[i + n] == data[i + n - back]:
        n += 1
    return n, back


def pack_adc(data):
    out, plain, table, i = bytearray(), bytearray(), {}, 0

    def flush():
        for at in range(0, len(plain), 128):
            piece = plain[at : at + 128]
            out.append(0x80 | len(piece) - 1)
            out.extend(piece)
        plain.clear()

    while i < len(data):
        n, back = find_match(data, i, table, 4, 67, 65536)
        if n < 4:
            plain.append(data[i])
            i += 1
            continue
        flush()
        if n <= 18 and back <= 1024:
            out += bytes([n - 3 << 2 | back - 1 >> 8, back - 1 & 0xFF])
        else:
            out += bytes([0x40 | n - 4, back - 1 >> 8, back - 1 & 0xFF])
        i += n
    flush()
    return bytes(out)


def pack_lzvn(data):
    """An LZFSE stream of one LZVN block. Each kind of opcode has its turn."""
    out, plain, table, i, before = bytearray(), bytearray(), {}, 0, 0

    def flush(keep):
        while len(plain) > keep:
            n = min(len(plain), 271)
            out.extend(bytes([0xE0, n - 16]) if n >= 16 else bytes([0xE0 | n]))
            out.extend(plain[:n])
            del plain[:n]

    while i < len(data):
        n, back = find_match(data, i, table, 4, 271, 65535)
        if n < 4:
            plain.append(data[i])
            i += 1
            continue
        if back == before:
            flush(0)
            out += bytes([0xF0, n - 16]) if n >= 16 else bytes([0xF0 | n])
        elif n <= 10:
            flush(1 if n <= 8 else 0)
            l = len(plain) if n <= 8 else 0
            if back < 1536:
                out += bytes([l << 6 | n - 3 << 3 | back >> 8, back & 0xFF]) + plain
            else:
                out += bytes([l << 6 | n - 3 << 3 | 7]) + struct.pack("<H", back) + plain
            plain.clear()
        else:
            n = min(n, 34)
            if back < 16384:
                flush(3)
                m = n - 3
                out += bytes([0xA0 | len(plain) << 3 | m >> 2]) + struct.pack("<H", back << 2 | m & 3) + plain
                plain.clear()
            else:
                flush(0)
                n = min(n, 10)
                out += bytes([n - 3 << 3 | 7]) + struct.pack("<H", back)
        before = back
        i += n
    flush(0)
    out += b"\6" + bytes(7)
    return b"bvxn" + struct.pack("<II", len(data), len(out)) + bytes(out) + b"bvx$"


def pack_lzfse(data):
    out = subprocess.run([packer, str(len(data))], input=data, stdout=subprocess.PIPE, check=True).stdout
    return out[4:]


def pack(kind, data):
    if kind == "zlib":
        return zlib.compress(data)
    if kind == "bzip2":
        return bz2.compress(data)
    if kind == "xz":
        return lzma.compress(data, preset=1)
    return {"adc": pack_adc, "lzvn": pack_lzvn, "lzfse": pack_lzfse, "plain": bytes}[kind](data)


def crc_checksum(value):
    return struct.pack(">III", 2, 32, value).ljust(136, b"\0")


def make_table(disk, first, kinds, chunk, number, data, crc, gap):
    """A block table of the disk's bytes, whose chunks are added to data; they count from its present end."""
    start, entries, check = len(data), b"", 0
    empty = [kind for kind in kinds if kind in ("zero", "ignore")]
    full = [kind for kind in kinds if kind not in empty] or ["plain"]
    for n, i in enumerate(range(0, len(disk), chunk)):
        piece = disk[i : i + chunk]
        kind = empty[n % len(empty)] if empty and is_zero(piece) else full[n % len(full)]
        stored = b"" if kind in ("zero", "ignore") else pack(kind, piece)
        if n % 3 == 0:
            entries += struct.pack(">IIQQQQ", 0x7FFFFFFE, 0x2B626567, i // SECTOR, 0, len(data) - start, 0)
        entries += struct.pack(">IIQQQQ", TYPES[kind], 0, i // SECTOR, len(piece) // SECTOR,
                               len(data) - start, len(stored))
        if kind != "ignore":
            check = zlib.crc32(piece, check)
        data += stored
    sectors = len(disk) // SECTOR
    entries += struct.pack(">IIQQQQ", LAST, 0, sectors, 0, len(data) - start, 0)
    head = b"mish" + struct.pack(">IQQQII", 1, first + gap, sectors, start, chunk // SECTOR + 8, number)
    head = head.ljust(64, b"\0") + (crc_checksum(check) if crc else bytes(136))
    return head + struct.pack(">I", len(entries) // 40) + entries, check


def make_dmg(disk, kinds="zlib", chunk=1048576, parts=1, trailer="end", behind=0, fork="xml", start=0, gap=0,
             crc="yes", segments=1, **others):
    global packer
    packer = others.get("packer")
    kinds, chunk, parts, start, gap = kinds.split(","), int(chunk), int(parts), int(start), int(gap)
    crc = crc == "yes"
    if trailer == "front":
        start += 512
    # Of no even size, so that chunks begin anywhere.
    part = -(-len(disk) // SECTOR // parts) * SECTOR
    data, tables, checks = bytearray(), [], b""
    for n, i in enumerate(range(0, len(disk), part)):
        table, check = make_table(disk[i : i + part], i // SECTOR, kinds, chunk, n, data, crc, gap if n else 0)
        tables.append(table)
        checks += struct.pack(">I", check)
    image = bytearray(start) + data
    xml, rsrc = (0, 0), (0, 0)
    if fork == "resource":
        items = b"".join(struct.pack(">I", len(t)) + t for t in [b"other"] + tables)
        rsrc = (len(image), 256 + len(items))
        image += struct.pack(">IIII", 256, 256 + len(items), len(items), 0).ljust(256, b"\0") + items
    else:
        text = b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" '
        text += b'"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0">\n<dict>\n'
        text += b"<key>resource-fork</key><dict><key>blkx</key>\n<array>\n"
        for n, table in enumerate(tables):
            text += b"<dict><key>Attributes</key><string>0x0050</string><key>Data</key><data>\n"
            text += base64.encodebytes(table) + b"</data><key>ID</key><string>%d</string>" % n
            text += b"<key>Name</key><string>part &amp; %d</string></dict>\n" % n
        text += b"</array>\n<key>plst</key><array/></dict></dict>\n</plist>\n"
        xml = (len(image), len(text))
        image += text
    koly = b"koly" + struct.pack(">IIIQQQQQII", 4, 512, 1, 0, start, len(data), *rsrc, 1, int(segments))
    koly = koly.ljust(80, b"\0") + (crc_checksum(zlib.crc32(data)) if crc else bytes(136))
    koly = (koly + struct.pack(">QQ", *xml)).ljust(352, b"\0")
    koly += (crc_checksum(zlib.crc32(checks)) if crc else bytes(136)) + struct.pack(">IQ", 1, len(disk) // SECTOR + gap)
    koly = koly.ljust(512, b"\0")
    if trailer == "front":
        return koly + bytes(image[512:])
    return bytes(image) + koly + b"x" * int(behind)


# ---- asif ----


def make_asif(disk, chunk=1048576, block=512, first=0, max=4 << 50):
    """Full, empty, and partly written chunks; directory 0 or 1 counts, the other one leads nowhere."""
    chunk, block, first, most = int(chunk), int(block), int(first), int(max)
    group = 4 * block
    groups = chunk // 8 // (group + 1)
    cover = groups * group * chunk
    count = -(-most // cover)
    reserved = -(-(4096 + 2 * 8 * (count + 1)) // chunk)
    file = [bytes(chunk)] * reserved

    def add(data):
        file.append(bytes(data).ljust(chunk, b"\0"))
        return len(file) - 1

    directory = [0] * count
    for t, at in enumerate(range(0, len(disk), cover)):
        table, bitmaps = [0] * (chunk // 8), {}
        for n, i in enumerate(range(at, min(at + cover, len(disk)), chunk)):
            data = disk[i : i + chunk].ljust(chunk, b"\0")
            blocks = [data[j : j + block] for j in range(0, chunk, block)]
            full = [not is_zero(b) for b in blocks]
            entry = n + n // group
            if not any(full):
                table[entry] = 2 << 62 if n % 3 == 2 else 0
            elif all(full):
                table[entry] = 1 << 62 | add(data)
            else:
                # what is not written must not be seen
                body = b"".join(b if f else b"\xee" * block for b, f in zip(blocks, full))
                table[entry] = 3 << 62 | add(body)
                bits = bitmaps.setdefault(n // group, bytearray(chunk))
                for j, f in enumerate(full):
                    k = n % group * (chunk // block) + j
                    bits[k // 4] |= (1 if f else j % 7 == 3 and 2 or 0) << 2 * (k % 4)
        for g, bits in bitmaps.items():
            table[(g + 1) * (group + 1) - 1] = add(bits)
        if any(table):
            directory[t] = add(struct.pack(">%dQ" % len(table), *table))
    places = [4096, 4096 + 8 * (count + 1)]
    head = b"shdw" + struct.pack(">IIIQQ", 1, 512, 0, *places) + bytes(range(16))
    head += struct.pack(">QQIHHQ", len(disk) // block, most // block, chunk, block, 0, 0)
    start = bytearray(reserved * chunk)
    start[: len(head)] = head
    good = struct.pack(">%dQ" % (count + 1), 8, *directory)
    old = struct.pack(">%dQ" % (count + 1), 7, *[1 << 50] * count)
    for place, bytes_ in zip(places, (old, good) if first else (good, old)):
        start[place : place + len(bytes_)] = bytes_
    return bytes(start) + b"".join(file[reserved:])


def main():
    kind, source, target = sys.argv[1:4]
    options = dict(argument.split("=", 1) for argument in sys.argv[4:])
    with open(source, "rb") as f:
        disk = f.read()
    image = globals()["make_" + kind](disk, **options)
    with open(target, "wb") as f:
        f.write(image)


main()
