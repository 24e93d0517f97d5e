"""Runs one of the article's programs as it is printed, but elsewhere, faster, or several times over.

    run.py PROGRAM

CONTACT_ADDRESS  connect or listen here instead of at port 50051; a server that is told port 0 prints its port
CONTACT_PACE     sleep so many times shorter
CONTACT_FIELD    how Result's field is spelled in the stubs: the article has `ret` in its proto, and now `ret`, now
                 `result` in its code. Not set: as printed, mistakes included
CONTACT_TLS      the files of the authority, of a key and of its certificate, with `:` between: connect by TLS
CONTACT_COPIES   run so many in this process, each on a connection of its own; what the third prints begins with "3 "
"""

import os
import pathlib
import re
import sys
import threading
import time

import grpc

ADDRESS = os.environ.get("CONTACT_ADDRESS")
PACE = float(os.environ.get("CONTACT_PACE", 1))
FIELD = os.environ.get("CONTACT_FIELD")
TLS = os.environ.get("CONTACT_TLS")
COPIES = int(os.environ.get("CONTACT_COPIES", 1))

_connect, _server, _sleep = grpc.insecure_channel, grpc.server, time.sleep


def insecure_channel(address):
    # Without it, all channels of a process share one connection.
    if TLS:
        credentials = grpc.ssl_channel_credentials(*[pathlib.Path(file).read_bytes() for file in TLS.split(":")])
        return grpc.secure_channel(ADDRESS, credentials, options=[("grpc.use_local_subchannel_pool", 1)])
    return _connect(ADDRESS or address, options=[("grpc.use_local_subchannel_pool", 1)])


def server(*arguments):
    made = _server(*arguments)
    listen = made.add_insecure_port
    made.add_insecure_port = lambda address: say(f"port {listen(ADDRESS or address)}")
    return made


def say(text):
    # In one piece: print writes a line and its end one after the other, and other threads' lines come between.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main():
    path = pathlib.Path(sys.argv[1])
    source = path.read_text(encoding="utf-8")
    if FIELD:
        source, found = re.subn(r"(pb2\.Result\(\s*|\b(?:ret|response)\.)(?:ret|result)\b", rf"\g<1>{FIELD}", source)
        assert found == 2, f"{path} names the field {found} times, not twice"
    program = compile(source, path, "exec")

    grpc.insecure_channel, grpc.server = insecure_channel, server
    time.sleep = lambda seconds: _sleep(seconds / PACE)

    def run(say):
        exec(program, {"__name__": "__main__", "print": say})

    if COPIES == 1:
        run(say)
    for copy in range(1, COPIES + 1) if COPIES > 1 else ():
        threading.Thread(target=run, args=(lambda text, copy=copy: say(f"{copy} {text}"),)).start()


main()
