"""A program for the runner's tests: serves HTTP on a port, and misbehaves as its options say."""

import argparse
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = argparse.ArgumentParser()
options.add_argument("--port", type=int, required=True)
options.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
options.add_argument("--die", action="store_true", help="end at once with a message")
options.add_argument("--child", action="store_true", help="start a child in a session of its own")
options.add_argument("--unready", action="store_true", help="answer 503")
options.add_argument("--chatter", type=int, default=0, help="print this many lines of 100 bytes")
given = options.parse_args()

print("fake program starts with", ",".join(sorted(os.environ)), flush=True)
if given.die:
    sys.exit("the fake program cannot go on")
if given.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if given.child:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("child", child.pid, flush=True)
for number in range(given.chatter):
    print(f"{number:099d}", flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if given.unready else 200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

    def log_message(self, format: str, *args: object) -> None:
        return


HTTPServer(("127.0.0.1", given.port), Handler).serve_forever()
