"""Slow downloads through the VIPs: connections that live long enough to see a daemon come and go."""

import hashlib
import os
import subprocess

from network import CLIENT
from tools import RUN, Failed, wait_for
from traffic import URLS

FIRST_PORT = 20_000  # of the client; it takes others for what it asks all the time


class Downloads:
    def __init__(self, checksum, each=3):
        """`each`: so many for each family. `checksum`: of what shall arrive."""
        self.checksum = checksum
        self.ports = [FIRST_PORT + i for i in range(each * len(URLS))]
        self.files = [f"{RUN}/download.{port}" for port in self.ports]
        self.curls = [begin(URLS[port % len(URLS)], port, file) for port, file in zip(self.ports, self.files)]
        wait_for("the first bytes of each download", lambda: all(map(has_bytes, self.files)), 10)

    @property
    def count(self):
        return len(self.curls)

    def connections(self, balancer):
        """Those of them that the balancer's IPVS knows as established: {(client, service, server)}."""
        return {one for one in balancer.established() if int(one[0].rsplit(":", 1)[1]) in self.ports}

    def running(self):
        return sum(curl.poll() is None for curl in self.curls)

    def finish(self):
        """Wait until all have ended, complete and unharmed."""
        for curl, file in zip(self.curls, self.files):
            try:
                code = curl.wait(60)
            except subprocess.TimeoutExpired:
                curl.kill()
                code = "nothing, after 60 s"
            with open(file, "rb") as content:
                whole = hashlib.sha256(content.read()).hexdigest() == self.checksum
            if code != 0 or not whole:
                raise Failed(f"expected a complete download; curl ended with {code}, {os.path.getsize(file)} bytes")
        return self.count


def begin(url, port, file):
    # Unbuffered (-N), so that the size of the file tells what has arrived.
    return CLIENT.start(
        "curl", "-sSN", "--local-port", str(port), "-o", file, url + "download", output=f"{RUN}/client.err"
    )


def has_bytes(file):
    return os.path.exists(file) and os.path.getsize(file) > 0
