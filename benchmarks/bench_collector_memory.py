"""Resident memory of a collector that polls 1,500 stations over HTTP, archives and stores. Promise: under 150 MB.

python benchmarks/bench_collector_memory.py [--polls 120] [--stations 1500] [--postgres URL]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from bench_poll import payloads
from servers import scratch_postgres


class Feed:
    """Serves one status document after the other."""

    def __init__(self, stations: int, polls: int) -> None:
        self.bodies: Iterator[bytes] = iter(
            [next(iter(bodies.values())) for _, bodies in payloads(stations, polls, 0.3)]
        )
        self.asked = 0
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/gbfs.json":
                    listed = [{"name": "station_status", "url": f"{feed.url}/station_status.json"}]
                    body = msgspec.json.encode({"data": {"en": {"feeds": listed}}})
                elif self.path == "/station_status.json" and (found := next(feed.bodies, None)):
                    feed.asked += 1
                    body = found
                else:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def peak_mb(stations: int, polls: int, url: str, folder: Path) -> tuple[int, float]:
    """Polls made, and the process's highest resident memory in MB."""
    feed = Feed(stations, polls)
    command = [sys.executable, "-m", "velib_predictor.cli", "collect", "--every", "0.2s"]
    command += ["--system", "bench", "--url", f"{feed.url}/gbfs.json", "--db", url]
    environment = {**os.environ, "VELIB_DATA_DIR": str(folder), "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(command, env=environment, cwd=folder)
    peak, deadline = 0, time.monotonic() + 0.6 * polls + 30
    while feed.asked < polls and process.poll() is None and time.monotonic() < deadline:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.1)
    process.terminate()
    process.wait(timeout=30)
    feed.server.shutdown()
    return feed.asked, peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=120)
    parser.add_argument("--stations", type=int, default=1500)
    parser.add_argument("--postgres", help="admin address of a PostgreSQL (default: one of our own)")
    options = parser.parse_args()
    print("engine       polls   peak resident MB")
    with tempfile.TemporaryDirectory() as name, scratch_postgres(options.postgres) as postgres:
        for engine, url in (("sqlite", f"sqlite:///{name}/velib.db"), ("postgresql", postgres)):
            if url is None:
                print(f"{engine:<12} skipped: no PostgreSQL here")
                continue
            folder = Path(name) / engine
            folder.mkdir()
            polls, peak = peak_mb(options.stations, options.polls, url, folder)
            print(f"{engine:<12} {polls:5} {peak:18.0f}")


if __name__ == "__main__":
    main()
