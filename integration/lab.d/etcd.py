"""The store: Debian's etcd on a machine of its own, and the hand that writes into it.

    balancers ──10.64.0.31:2379──► tunnel.py ──loopback──► etcd ◄──loopback── writers, etcdctl

The balancers come through a tunnel, so that their connections can be cut while the writers'
are not.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import sys

from network import ETCD
from tools import RUN, Failed, wait_for

PORT = 2379
ENDPOINT = f"http://{ETCD.v4}:{PORT}"
LOCAL = f"http://127.0.0.1:{PORT}"
PREFIX = "/conftool/v1/pools/"
LOG, TUNNEL_LOG = f"{RUN}/etcd.log", f"{RUN}/tunnel.log"

SECTION = f"""
[etcd]
endpoints = ["{ENDPOINT}"]
timeout = "2s"
"""


class Etcd:
    def __init__(self):
        self.etcd = self.tunnel = None
        self.starts = 0

    def start(self):
        """With what it had, if it ran before. Its data is on the lab's tmpfs, so no fsync is missed."""
        peer = "http://127.0.0.1:2380"
        self.etcd = ETCD.start(
            "etcd", "--data-dir", f"{RUN}/etcd", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn",
            "--listen-client-urls", LOCAL, "--advertise-client-urls", LOCAL,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
            output=LOG,
        )
        wait_for("etcd to answer", answers, 30, pause=0.05)
        program = os.path.join(os.path.dirname(__file__), "tunnel.py")
        self.tunnel = ETCD.start(
            sys.executable, program, f"{ETCD.v4}:{PORT}", f"127.0.0.1:{PORT}", output=TUNNEL_LOG
        )
        self.starts += 1
        wait_for("the tunnel to listen", lambda: tunnelled("ready") == self.starts, 10)

    def kill(self):
        """kill -9. The balancers' connections are closed, new ones refused."""
        for process in (self.etcd, self.tunnel):
            process.kill()
            process.wait()

    # What befalls the balancers' connections.

    def cut(self):
        """All of them reset; new ones are taken."""
        self.tunnel.send_signal(signal.SIGUSR1)

    def freeze(self):
        """All stay open, and nothing comes or goes."""
        self.tunnel.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.tunnel.send_signal(signal.SIGCONT)


def tunnelled(what="open"):
    """How often the tunnel has said that so far."""
    with open(TUNNEL_LOG) as log:
        return sum(line.rstrip() == what for line in log)


class Writer:
    """One connection to etcd's JSON gateway. Keys are what follows PREFIX; returns are revisions."""

    def __init__(self):
        with ETCD.inside():
            self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
            self.connection.connect()

    def put(self, key, value):
        return revision(self.ask("put", put(key, value)))

    def delete(self, key):
        return revision(self.ask("deleterange", delete(key)))

    def delete_all(self, directory):
        """All that begins so."""
        return revision(self.ask("deleterange", beginning(directory)))

    def together(self, changes):
        """A transaction: {key: value, or None for a deletion}."""
        operations = [
            {"requestDeleteRange": delete(key)} if value is None else {"requestPut": put(key, value)}
            for key, value in changes.items()
        ]
        return revision(self.ask("txn", {"success": operations}))

    def read(self, directory=""):
        """{key: value}, as text, of all that begins so."""
        found = self.ask("range", beginning(directory)).get("kvs", [])
        return {decode(kv["key"])[len(PREFIX):]: decode(kv.get("value", "")) for kv in found}

    def ask(self, what, question):
        self.connection.request("POST", f"/v3/kv/{what}", json.dumps(question))
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise Failed(f"etcd said {response.status} to {what}: {answer.decode(errors='replace')}")
        return json.loads(answer)


def answers():
    with contextlib.suppress(OSError):
        Writer().read()
        return True


def node(weight=10, pooled="yes"):
    """As conftool writes it."""
    return json.dumps({"weight": weight, "pooled": pooled})


def parse(text):
    """A value; what is none counts as not pooled, and is never equal to anything."""
    try:
        value = json.loads(text)
        return {"pooled": value["pooled"], "weight": value["weight"]}
    except (ValueError, KeyError, TypeError):
        return {"pooled": "bad", "weight": text}


def etcdctl(*words):
    return ETCD.run("env", "ETCDCTL_API=3", "etcdctl", "--endpoints", LOCAL, *words)


def put(key, value):
    return {"key": encode(PREFIX + key), "value": encode(value)}


def delete(key):
    return {"key": encode(PREFIX + key)}


def beginning(directory):
    key = PREFIX + directory
    return {"key": encode(key), "range_end": encode(key[:-1] + chr(ord(key[-1]) + 1))}


def encode(text):
    return base64.b64encode(text.encode()).decode()


def decode(text):
    return base64.b64decode(text).decode()


def revision(answer):
    return int(answer["header"]["revision"])
