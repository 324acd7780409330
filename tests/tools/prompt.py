#!/usr/bin/env python3
"""prompt.py ANSWERS COMMAND...: run COMMAND at a terminal, type ANSWERS (each "WHAT IT ASKS=TEXT", in order; \\n ends a
line of its own) and print what appeared there. The exit code is COMMAND's; 99: it asked something else."""
import os
import pty
import select
import sys
import time

answers = [a.split('=', 1) for a in sys.argv[1].split('\n') if a]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
seen, at, until = b'', 0, time.time() + 30
while time.time() < until:
    if not select.select([fd], [], [], 1)[0]:
        continue
    try:
        more = os.read(fd, 4096)
    except OSError:
        break
    if not more:
        break
    seen += more
    if answers and answers[0][0].encode() in seen[at:] and seen.endswith(b': '):
        at = len(seen)
        os.write(fd, answers.pop(0)[1].encode().decode('unicode_escape').encode('latin1') + b'\n')
else:
    os.kill(pid, 9)
sys.stdout.buffer.write(seen.replace(b'\r', b''))
sys.stdout.flush()
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(99 if answers else code)
