"""The web servers: nginx, which says its machine's name, and has a page that takes its time."""

import hashlib
import os
import signal

from network import PORT, Machine
from tools import RUN, write

DOWNLOAD_BYTES = 600_000
DOWNLOAD_RATE = 40_000  # bytes a second: 15 seconds, longer than any restart takes

CONFIGURATION = """
user root;
{processes}
daemon off;
pid {run}/{name}/pid;
error_log {run}/{name}.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {run}/{name}/body;
  proxy_temp_path {run}/{name}/proxy;
  fastcgi_temp_path {run}/{name}/fastcgi;
  uwsgi_temp_path {run}/{name}/uwsgi;
  scgi_temp_path {run}/{name}/scgi;
  server {{
    listen {port} backlog=1024;
    listen [::]:{port} ipv6only=on backlog=1024;
    root {run};
    location / {{ return 200 "{name}\\n"; }}
    location /healthz {{ return 200 "fine\\n"; }}
    location /download {{ limit_rate {rate}; }}
  }}
}}
"""


class Web:
    def __init__(self, machine: Machine, single=False):
        """`single`: one process only, whose end closes all sockets in the same instant."""
        self.machine, self.name = machine, machine.name
        self.nginx = None
        os.makedirs(f"{RUN}/{self.name}", exist_ok=True)
        self.file = write(
            f"{RUN}/{self.name}.conf",
            CONFIGURATION.format(
                processes="master_process off;" if single else "worker_processes 2;",
                run=RUN, name=self.name, port=PORT, rate=DOWNLOAD_RATE,
            ),
        )

    def start(self):
        self.nginx = self.machine.start("nginx", "-e", f"{RUN}/{self.name}.log", "-c", self.file, output=self.log)

    def kill(self):
        """kill -9 of all its processes. Nobody says goodbye: the kernel closes what they had open."""
        os.killpg(self.nginx.pid, signal.SIGKILL)

    def reap(self):
        self.nginx.wait()

    @property
    def log(self):
        return f"{RUN}/{self.name}.log"


def make_download():
    """The file to download, the same on all servers; returns its checksum."""
    content = os.urandom(DOWNLOAD_BYTES)
    with open(f"{RUN}/download", "wb") as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()
