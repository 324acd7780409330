# A server that breaks the NBD protocol: liar.py SOCKET MODE. Of 1 MiB of "x".
#
#	short	half of what is read, as if it were all
#	nothing	no bytes at all, as if that were the answer
#	bytes	tells of holes one byte at a time
#	cut	closes the connection in the middle of each answer to a read
#	size:N, least:N, most:N	what it says of its disk's size, its smallest and largest request
import socket
import struct
import sys
import threading

path, mode = sys.argv[1:]
mode, _, value = mode.partition(":")
said = {"size": 1 << 20, "least": 1, "most": 32 << 20}
if value:
    said[mode] = int(value)


def take(c, n):
    data = b""
    while len(data) < n:
        more = c.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def reply(c, option, kind, data=b""):
    c.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)


def chunk(c, cookie, kind, data):
    c.sendall(struct.pack(">IHHQI", 0x668E33EF, 1, kind, cookie, len(data)) + data)


def handshake(c):
    c.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
    take(c, 4)
    while True:
        _, option, length = struct.unpack(">QII", take(c, 16))
        take(c, length)
        if option == 10:  # SET_META_CONTEXT
            reply(c, option, 4, struct.pack(">I", 1) + b"base:allocation")
        if option == 7:  # GO
            reply(c, option, 3, struct.pack(">HQH", 0, said["size"], 0x1))
            reply(c, option, 3, struct.pack(">HIII", 3, said["least"], max(4096, said["least"]), said["most"]))
        reply(c, option, 1 if option in (7, 8, 10) else 0x80000001)
        if option == 7:
            return


def read(c, cookie, off, length):
    if mode == "cut":
        c.sendall(struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, cookie, length + 8, off) + b"x" * (length // 2))
        c.shutdown(socket.SHUT_RDWR)
        raise EOFError
    if mode == "nothing":
        chunk(c, cookie, 0, b"")
    else:
        chunk(c, cookie, 1, struct.pack(">Q", off) + b"x" * (length // (2 if mode == "short" else 1)))


def serve(c):
    try:
        handshake(c)
        while True:
            _, _, kind, cookie, off, length = struct.unpack(">IHHQQI", take(c, 28))
            if kind == 2:  # DISC
                return
            if kind == 0:
                read(c, cookie, off, length)
            elif kind == 7:
                told = 1 if mode == "bytes" else length
                chunk(c, cookie, 5, struct.pack(">III", 1, told, 0))
    except (EOFError, OSError):
        pass


listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(8)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
