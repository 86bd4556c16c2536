"""A command in the place of ``gpu-dra``: passes its descriptors to the server, and ends as the command.

Imports next to nothing, so that it starts at once.
"""

import json
import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
order = {"argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o022)}  # noqa: PTH109
socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [0, 1, 2])
answers = connection.makefile("rb")
pid = json.loads(answers.readline())["pid"]
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(pid, number))
status = json.loads(answers.readline())["status"]
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
