"""The step of 10,000 random changes: four writers, and the balancers' connections to etcd cut at random.

The pools are beside the scenario's own: ten of twenty servers, each the list of an IPv4 and of
an IPv6 service. Their servers do not exist and nobody watches them, so what is pooled is what
etcd says and no more; the depool guard is off for the same reason. At the end etcd, the API and
IPVS of both balancers must say the same of each server of each service.

The scenario's own pool nobody touches meanwhile: it must not change, however often the
connection is lost.
"""

import random
import threading
import time

import etcd
import network
from balancer import SERVICES
from etcd import Writer, node
from report import check
from tools import Failed, duration, wait_for

CHANGES, WRITERS = 10_000, 4
SEED = 3
POOLS = [f"pool{number}" for number in range(10)]
# The first of each pool is never taken off the list: an empty list would not count.
HOSTS = [f"host{number:02}" for number in range(20)]
VIP4, VIP6, FIRST_PORT = "192.0.2.12", "2001:db8:ed1a::12", 8000

BETWEEN_CUTS = (0.05, 2.0)  # seconds
FROZEN = (0.1, 1.0)
SETTLED = 30  # seconds that all three may take to be equal after the last change
BAD = ["", "no", "{}", '{"weight": -1, "pooled": "yes"}', '{"weight": 1, "pooled": "maybe"}', '{"weight": 1.5}']

SERVICE = """
[service.{name}]
address = "{address}"
port = {port}
protocol = "tcp"
scheduler = "wrr"
depool-guard = "off"
servers = "etcd:{directory}"
[service.{name}.bgp]
announce = false
"""


def directory(pool):
    return f"lab/storm/{pool}"


def services():
    """(service's name, its pool, family, address, port): two for each pool."""
    for number, pool in enumerate(POOLS):
        yield f"{pool}-v4", pool, "v4", VIP4, FIRST_PORT + number
        yield f"{pool}-v6", pool, "v6", VIP6, FIRST_PORT + number


def addresses():
    """{host: (IPv4, IPv6)}"""
    return {host: (f"10.64.1.{number}", f"2001:db8:1::{number}") for number, host in enumerate(HOSTS, 1)}


def write_hosts():
    """Before the daemons start: they look at the file now and then, and this step is not about that."""
    network.write_hosts((host, *both) for host, both in addresses().items())


def rage(stage):
    stage.writer.together({f"{directory(pool)}/{host}": node() for pool in POOLS for host in HOSTS[:10]})
    for balancer in stage.balancers:
        for name, pool, _, address, port in services():
            balancer.more += SERVICE.format(name=name, address=address, port=port, directory=directory(pool))
        balancer.configure()
        balancer.reload()
    took = all_equal(stage)
    stage.report.note(f"{len(POOLS)} pools and {2 * len(POOLS)} services more, by SIGHUP, after {took}")

    begun = time.monotonic()
    before = etcd.tunnelled()
    with Still(stage) as still:
        writers = write_at_random()
        harm = harm_at_random(stage.etcd, writers)
        ended = time.monotonic()
        took = all_equal(stage)
    for writer in writers:
        writer.result()
    opened = etcd.tunnelled() - before
    stage.report.note(f"{CHANGES:,} changes by {WRITERS} writers in {duration(ended - begun)}: {kinds(writers)}")
    stage.report.note(f"{', '.join(f'{what} {count}' for what, count in harm.items())}; {opened} connections made anew")
    stage.report.note(f"etcd, API, IPVS of both balancers equal {took} after the last change: {stage.sizes}")
    stage.report.note(f"the pool that nobody touched the same in {still.looks} looks")
    window = stage.traffic.window(begun)
    stage.report.note(f"client: {sum(answer.good for answer in window.answers):,} of {len(window.answers):,} answered")
    check("connections cut, and made anew", harm["reset"] > 0 and opened > 0, harm)
    check("the untouched pool as it was", not still.changes, still.changes[:1])
    stage.foreign_is_untouched()
    show(stage)


# The writers.


class Random(threading.Thread):
    """One writer. What it writes depends on its seed alone; how the four interleave does not."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.random = random.Random(SEED * WRITERS + number)
        self.writer, self.failure = Writer(), None
        self.counts = dict.fromkeys(("set", "deleted", "bad", "of several servers"), 0)

    def run(self):
        try:
            for _ in range(CHANGES // WRITERS):
                self.change()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def change(self):
        pick = self.random
        pool, host = pick.choice(POOLS), pick.choice(HOSTS)
        key = f"{directory(pool)}/{host}"
        kind = pick.choices(list(self.counts), (75, 10, 5, 10))[0]
        if host == HOSTS[0] and kind != "of several servers":
            kind = "set"
        if kind == "set":
            self.writer.put(key, self.value(host))
        elif kind == "deleted":
            self.writer.delete(key)
        elif kind == "bad":
            self.writer.put(key, pick.choice(BAD))
        else:
            hosts = pick.sample(HOSTS, 8)
            self.writer.together({f"{directory(pool)}/{one}": self.value(one) for one in hosts})
        self.counts[kind] += 1

    def value(self, host):
        pooled = ["yes", "no"] if host == HOSTS[0] else ["yes", "yes", "no", "inactive"]
        return node(self.random.randrange(101), self.random.choice(pooled))

    def result(self):
        if self.failure:
            raise Failed(f"a writer ended with {self.failure}")


def write_at_random():
    writers = [Random(number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    return writers


def kinds(writers):
    return ", ".join(f"{what} {sum(writer.counts[what] for writer in writers):,}" for what in writers[0].counts)


def harm_at_random(store, writers):
    """Until the writers are done; then what they left that is no value is replaced by one that is."""
    pick = random.Random(SEED)
    harm = dict.fromkeys(("reset", "frozen", "unplugged"), 0)
    while any(writer.is_alive() for writer in writers):
        time.sleep(pick.uniform(*BETWEEN_CUTS))
        what = pick.choices(list(harm), (8, 1, 1))[0]
        if what == "reset":
            store.cut()
        elif what == "frozen":
            store.freeze()
            time.sleep(pick.uniform(*FROZEN))
            store.thaw()
        else:
            network.cut(network.ETCD)
            time.sleep(pick.uniform(*FROZEN))
            network.mend(network.ETCD)
        harm[what] += 1
    mender = Writer()
    for key, value in mender.read("lab/storm/").items():
        if value in BAD:
            mender.put(key, node())
    return harm


# The three views. Each is {service: {host: (in IPVS or should be, weight)}} of the servers that are listed.


def all_equal(stage):
    """Waits for it; fails with the first difference."""
    return wait_for("etcd, API and IPVS to be equal", lambda: not differences(stage), SETTLED,
                    lambda: "\n".join(differences(stage)[:5]), pause=0.05)


def differences(stage):
    wanted = in_etcd(stage.writer)
    stage.sizes = f"{sum(map(len, wanted.values()))} servers, {sum(map(len, pooled(wanted).values()))} of them pooled"
    found = []
    for balancer in stage.balancers:
        # IPVS knows nothing of servers that are listed and not pooled.
        for view, seen, expected in (
            ("ipvsadm -Ln", in_ipvs(balancer), pooled(wanted)),
            ("API", in_api(balancer), wanted),
        ):
            found += [
                f"{balancer.name}, {view}, {name}: etcd {sorted(expected[name].items() - seen[name].items())}, "
                f"{view} {sorted(seen[name].items() - expected[name].items())}"
                for name in expected if seen[name] != expected[name]
            ]
        if found:
            break
    return found


def pooled(view):
    return {name: {host: weight for host, (yes, weight) in hosts.items() if yes} for name, hosts in view.items()}


def in_etcd(writer):
    listed = {pool: {} for pool in POOLS}
    for key, text in writer.read("lab/storm/").items():
        pool, host = key.split("/")[2:]
        value = etcd.parse(text)
        if value["pooled"] != "inactive":
            listed[pool][host] = (value["pooled"] == "yes", value["weight"])
    return {name: listed[pool] for name, pool, *_ in services()}


def in_api(balancer):
    """`enabled` is what the list says, `pooled` what the daemon does; here they must agree."""
    return {
        name: {
            host: (state["enabled"] if state["enabled"] == state["pooled"] else None, state["weight"])
            for host, state in states.items()
        }
        for name, states in balancer.pools(name for name, *_ in services()).items()
    }


def in_ipvs(balancer):
    names = {address: host for host, both in addresses().items() for address in both}
    table = balancer.services()
    found = {}
    for name, _, family, address, port in services():
        destinations = table.get(f"{address}:{port}" if family == "v4" else f"[{address}]:{port}", {})
        found[name] = {names.get(one, one): weight for one, (weight, _, _) in destinations.items()}
    return found


class Still(threading.Thread):
    """Sees that the scenario's own pool stays as it is while others change."""

    def __init__(self, stage):
        super().__init__(daemon=True)
        self.balancer, self.looks, self.changes = stage.first, 0, []
        self.first, self.over = self.weights(), threading.Event()

    def run(self):
        while not self.over.wait(0.25):
            self.looks += 1
            weights = self.weights()
            if weights != self.first:
                self.changes.append(weights)

    def weights(self):
        table = self.balancer.services()
        return {
            service: {server: numbers[0] for server, numbers in table.get(service, {}).items()}
            for service in SERVICES.values()
        }

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def show(stage):
    name, pool, *_ = next(services())
    stage.report.show("etcd1", f"etcdctl get --prefix {etcd.PREFIX}{directory(pool)}/",
                      etcd.etcdctl("get", "--prefix", f"{etcd.PREFIX}{directory(pool)}/"))
    stage.report.show(stage.first.name, f"curl :9090/pools/{name}", stage.first.api(f"/pools/{name}"))
    stage.report.show(stage.first.name, f"ipvsadm -Ln -t {VIP4}:{FIRST_PORT}",
                      stage.first.ipvsadm("-Ln", "-t", f"{VIP4}:{FIRST_PORT}"))
    with open(stage.first.log, errors="replace") as file:
        lines = [line for line in file if "etcd" in line]
    stage.report.show(stage.first.name, f"grep etcd {stage.first.log} | tail -n 5", "".join(lines[-5:]))
