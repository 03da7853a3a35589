"""A balancer: the daemon under test, its configuration, and the machine's IPVS table as others see it."""

import functools
import http.client
import ipaddress
import json
import os
import re
import signal

from network import BALANCER_AS, PORT, ROUTER, ROUTER_AS, VIP4, VIP6, WEBS
from tools import RUN, Failed, prepare, wait_for, write

PLIMSOLL = os.environ["PLIMSOLL"]
SERVICES = {"v4": f"{VIP4}:{PORT}", "v6": f"[{VIP6}]:{PORT}"}  # as ipvsadm writes them
NAMES = {address: web.name for web in WEBS for address in (web.v4, web.v6)}
ALL = {web.name for web in WEBS}
POOL = f"{RUN}/pool.json"  # one list for both services and both balancers

GLOBAL = """
[daemon]
state-directory = "{state}"
[api]
listen = ["127.0.0.1:9090", "[::1]:9090"]
control = "{state}/control.sock"
[bgp]
local-as = {balancer_as}
router-id = "{router_id}"
next-hop-ipv4 = "{v4}"
next-hop-ipv6 = "{v6}"
med = {med}
hold-time = "3s"
[[bgp.peer]]
address = "{router}"
peer-as = {router_as}
"""
SERVICE = """
[service.{name}]
address = "{address}"
port = {port}
protocol = "tcp"
scheduler = "{scheduler}"
depool-threshold = 0.5
servers = "{servers}"
[service.{name}.bgp]
announce = true
[[service.{name}.monitor]]
type = "idle-connection"
"""
FETCH = """
[[service.{name}.monitor]]
type = "proxy-fetch"
url = ["http://www.example.com/healthz"]
interval = "1s"
timeout = "500ms"
status = [200]
"""


def prepare_pool(weights=None):
    """Write the list of servers, of weight 10 if not said otherwise; what is returned puts it in place."""
    pool = {web.name: {"enabled": True, "weight": (weights or {}).get(web.name, 10)} for web in WEBS}
    return prepare(POOL, json.dumps(pool))


class Balancer:
    def __init__(self, machine, med, router_id, fetch=True, servers=f"file://{POOL}", more=""):
        """`fetch`: watch the servers by proxy-fetch too, not by idle-connection alone.
        `servers`: where their list is; `more`: what else shall be in the configuration."""
        self.machine, self.name = machine, machine.name
        self.med, self.router_id, self.fetch = med, router_id, fetch
        self.servers, self.more = servers, more
        self.log = f"{RUN}/{self.name}.log"
        self.file = f"{RUN}/{self.name}.toml"
        self.daemon = None
        self.configure()

    def configure(self, scheduler="wrr"):
        text = GLOBAL.format(
            state=f"{RUN}/{self.name}", v4=self.machine.v4, v6=self.machine.v6,
            med=self.med, router_id=self.router_id, router=ROUTER.v4, router_as=ROUTER_AS, balancer_as=BALANCER_AS,
        )
        for name, address in (("web", VIP4), ("web6", VIP6)):
            words = dict(name=name, address=address, port=PORT, servers=self.servers, scheduler=scheduler)
            text += SERVICE.format(**words) + (FETCH.format(**words) if self.fetch else "")
        text += self.more
        os.makedirs(f"{RUN}/{self.name}", exist_ok=True)
        write(self.file, text)

    # The daemon.

    def start(self):
        # With a host name of its own: that is what the fleet knows a balancer by.
        name = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'
        self.daemon = self.machine.start(
            "unshare", "--uts", "sh", "-c", name, self.name, PLIMSOLL, "run", "-c", self.file, output=self.log
        )

    def stop(self):
        """SIGTERM, and its exit code."""
        self.daemon.send_signal(signal.SIGTERM)
        wait_for(f"{self.name}'s daemon to end on SIGTERM", lambda: self.daemon.poll() is not None, 15)
        return self.daemon.returncode

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def reload(self):
        self.daemon.send_signal(signal.SIGHUP)

    def api(self, path):
        """For the eye, and to know what the daemon has noticed; proofs are read elsewhere."""
        return self.machine.run("curl", "-s", "--max-time", "2", f"http://127.0.0.1:9090{path}", ok=range(256))

    def pools(self, names):
        """The API's view of pools: {pool: {server: {"pooled": ..., "weight": ..., "up": ..., "enabled": ...}}}"""
        with self.machine.inside():
            api = http.client.HTTPConnection("127.0.0.1", 9090, timeout=5)
            api.connect()
        found = {}
        for name in names:
            api.request("GET", f"/pools/{name}", headers={"Accept": "application/json"})
            found[name] = json.loads(api.getresponse().read())
        api.close()
        return found

    # The kernel's table, as ipvsadm shows it.

    def ipvsadm(self, *words):
        return self.machine.run("ipvsadm", *words)

    def table(self):
        return self.ipvsadm("-Ln")

    def destinations(self, family):
        """{server: (weight, active, inactive)} of our service; {} if it has none or is not there."""
        found = self.services().get(SERVICES[family], {})
        return {NAMES.get(address, address): numbers for address, numbers in found.items()}

    def services(self):
        """The TCP services and their destinations: {service: {address: (weight, active, inactive)}}."""
        found, inside = {}, None
        for line in self.table().splitlines():
            if line[:3] in ("TCP", "UDP", "FWM"):
                kind, service = line.split()[:2]
                inside = found.setdefault(service, {}) if kind == "TCP" else None
            elif inside is not None and line.startswith("  -> "):
                where, method, *numbers = line.split()[1:]
                if method == "Route":
                    inside[where.rsplit(":", 1)[0].strip("[]")] = tuple(map(int, numbers))
        return found

    def pooled(self, family):
        return set(self.destinations(family))

    def has_pooled(self, servers):
        return all(self.pooled(family) == set(servers) for family in SERVICES)

    def connections(self, family):
        """Connections that the service was given since it was made, up to two seconds ago; a new one has 0."""
        for line in self.ipvsadm("-Ln", "--stats", "--exact").splitlines():
            if line.split()[:2] == ["TCP", SERVICES[family]]:
                return int(line.split()[2])
        raise Failed(f"{self.name} has no service {SERVICES[family]}")

    def active(self):
        """ActiveConn of all our servers together."""
        return sum(active for family in SERVICES for _, active, _ in self.destinations(family).values())

    def schedulers(self):
        lines = [line.split() for line in self.table().splitlines()]
        return {words[2] for words in lines if words[:1] == ["TCP"] and words[1] in SERVICES.values()}

    def established(self):
        """The connections that IPVS knows as established: {(client, service, server)}."""
        lines = [line.split() for line in self.ipvsadm("-Lnc").splitlines()]
        return {tuple(words[3:6]) for words in lines if "ESTABLISHED" in words}


class Table:
    """/proc/net/ip_vs of a machine, read quickly and often: the only clock that sees milliseconds."""

    def __init__(self, machine):
        self.file = machine.open_proc("ip_vs")

    def read(self):
        """The first page; a larger table is for `Balancer.services`. (The kernel gives a page at a time, and
        where it goes on it miscounts if other network namespaces have services: ip_vs_info_array() counts
        ours, ip_vs_info_seq_next() counts all.)"""
        return os.pread(self.file, 1 << 16, 0)

    def shape(self):
        """The table without its connection counts: what only an administrator changes."""
        return re.sub(rb"(\S+ +\d+) +\d+ +\d+ *$", rb"\1", self.read(), flags=re.M)

    def has_all(self):
        return all(len(self.weights(web)) == len(SERVICES) for web in WEBS)

    def has(self, server):
        """The server is in one of our services."""
        return self.weights(server) != []

    def weights(self, server):
        """Its weight in each of our services that has it."""
        text = self.read()
        found = [re.search(mark + rb" +Route +(\d+)", text) for mark in marks(server)]
        return [int(match[1]) for match in found if match]


@functools.cache
def marks(server):
    """A server's destinations as /proc/net/ip_vs writes them, in hexadecimal."""
    v4, v6 = ipaddress.ip_address(server.v4), ipaddress.ip_address(server.v6)
    names = f"-> {int(v4):08X}:{PORT:04X}", f"-> [{v6.exploded}]:{PORT:04X}"
    return [re.escape(name.encode()) for name in names]
