"""The steps about pools in etcd: changed by hand and by command, and etcd away."""

import statistics
import time

import etcd
import storm
from balancer import ALL, PLIMSOLL, SERVICES
from etcd import Etcd, Writer, node
from failover import Watch
from report import check
from tools import duration, stays, wait_for
from traffic import Traffic

POOL = "lab/web/http"
LOGS = [etcd.LOG, etcd.TUNNEL_LOG]
GUARD = 2  # of three servers stay, with a threshold of 0.5
HELD_FOR = 2.5  # seconds: longer than it takes the sink to look at all services again
AWAY = 5  # seconds without etcd
WEIGHTS = 50  # changes that are timed


def key(name):
    return f"{POOL}/{name}"


def start(stage):
    storm.write_hosts()
    stage.etcd = Etcd()
    stage.etcd.start()
    stage.writer = Writer()
    stage.writer.together({key(name): node() for name in ALL})
    stage.report.show("etcd1", "etcdctl get --prefix /", etcd.etcdctl("get", "--prefix", "/"))
    stage.add_foreign_service()
    stage.lab.start_router()
    stage.lab.start_webs()
    begun = time.monotonic()
    for balancer in stage.balancers:
        balancer.start()
    for balancer in stage.balancers:
        stage.all_pooled(balancer, 20)
    stage.announced_by({balancer.name for balancer in stage.balancers}, 20)
    stage.report.note(f"all pooled and announced after {duration(time.monotonic() - begun)}")
    stage.traffic = Traffic()
    stage.answers(30, servers=ALL)
    stage.show(stage.first)


def by_etcdctl(stage):
    begun = time.monotonic()

    def put(value):
        etcd.etcdctl("put", etcd.PREFIX + key("web1"), value)

    put(node(pooled="no"))
    everywhere(stage, "web1 gone", {"web2": 10, "web3": 10})
    nobody_asks(stage, "web1")
    stage.show(stage.first)
    put(node(pooled="inactive"))
    remain(stage, "web1 gone", {"web2": 10, "web3": 10})
    put(node(weight=30))
    everywhere(stage, "web1 back, with 30", {"web1": 30, "web2": 10, "web3": 10})
    etcd.etcdctl("del", etcd.PREFIX + key("web1"))
    everywhere(stage, "web1 deleted", {"web2": 10, "web3": 10})
    put(node(weight=0))
    everywhere(stage, "web1 drains", {"web1": 0, "web2": 10, "web3": 10})
    nobody_asks(stage, "web1")
    put(node())
    everywhere(stage, "as before", dict.fromkeys(ALL, 10))
    stage.foreign_is_untouched()
    stage.gap_is_below(0.5, begun)


def by_ctl(stage):
    begun = time.monotonic()
    ctl(stage, "select", "name=web3", "set/pooled=no:weight=7")
    everywhere(stage, "web3 gone", {"web1": 10, "web2": 10})
    ctl(stage, "select", "name=web3", "get")
    ctl(stage, "select", "name=web3", "set/pooled=yes")
    everywhere(stage, "web3 back, with 7", {"web1": 10, "web2": 10, "web3": 7})
    said = ctl(stage, "--wait", "select", "name=web3", "set/weight=10")
    # Whoever has waited need not wait any more.
    for balancer in stage.balancers:
        check(f"a word of {balancer.name}", balancer.name in said, said)
        check(f"weight 10 in {balancer.name} as --wait returns", weights_in(balancer) == [dict.fromkeys(ALL, 10)] * 2,
              balancer.table())
    stage.report.note("--wait: in IPVS of both balancers as it returned")
    fleet = stage.first.machine.run(PLIMSOLL, "fleet", "--config", stage.first.file)
    stage.report.show(stage.first.name, "plimsoll fleet", fleet)
    stage.gap_is_below(0.5, begun)


def ctl(stage, *words):
    said = stage.first.machine.run(PLIMSOLL, "ctl", "--config", stage.first.file, *words)
    stage.report.show(stage.first.name, f"plimsoll ctl {' '.join(words)}", said)
    return said


def weights(stage):
    """Timed as in reaction.py, but with all the rest of the lab at work."""
    web, times, puts = stage.webs[1], [], []
    for weight in range(11, 11 + WEIGHTS):
        before = time.monotonic()
        stage.writer.put(key(web.name), node(weight))
        start = time.monotonic()
        puts.append(start - before)
        wait_for(
            f"weight {weight}", lambda: stage.table.weights(web.machine) == [weight] * 2, 5,
            stage.first.table, pause=0.0002,
        )
        times.append(time.monotonic() - start)
    stage.report.note(
        f"median of {WEIGHTS}: IPVS has it {duration(statistics.median(times))} after the put's return, "
        f"the put took {duration(statistics.median(puts))}"
    )
    stage.writer.put(key(web.name), node())
    everywhere(stage, "as before", dict.fromkeys(ALL, 10))


def all_depooled(stage):
    begun = time.monotonic()
    stage.writer.together({key(name): node(pooled="no") for name in ALL})
    wait_for(
        f"{GUARD} servers held in each service", lambda: all(guarded(one) for one in stage.balancers), 5,
        stage.first.table,
    )
    stays(f"{GUARD} servers held", lambda: guarded(stage.first), HELD_FOR, stage.first.table, pause=0.1)
    stage.report.note(f"{GUARD} of {len(ALL)} held")
    stage.show(stage.first)
    stage.report.show(stage.first.name, "curl :9090/alerts", stage.first.api("/alerts"))
    stage.writer.together({key(name): node() for name in ALL})
    everywhere(stage, "pooled again", dict.fromkeys(ALL, 10))
    stage.gap_is_below(0.5, begun)


def guarded(balancer):
    return all(len(servers) == GUARD for servers in weights_in(balancer))


def all_deleted(stage):
    begun = time.monotonic()
    with Unchanged(stage, "nothing in etcd"):
        stage.writer.delete_all(POOL + "/")
        check("nothing left in etcd", stage.writer.read(POOL) == {}, stage.writer.read(POOL))
        time.sleep(HELD_FOR)
        stage.report.show(stage.first.name, "curl :9090/alerts", stage.first.api("/alerts"))
        # Back in one go: one by one, each would be the whole list.
        stage.writer.together({key(name): node() for name in ALL})
        time.sleep(0.5)
    stage.gap_is_below(0.5, begun)


def etcd_killed(stage):
    begun = time.monotonic()
    with Unchanged(stage, "etcd dead"):
        stage.etcd.kill()
        time.sleep(AWAY)
        stage.report.show(stage.first.name, "curl :9090/alerts", stage.first.api("/alerts"))
    stage.gap_is_below(0.5, begun)


def restarted_without_etcd(stage):
    begun = time.monotonic()
    with Unchanged(stage, "daemon killed and started"):
        stage.first.kill()
        stage.route_moves_to(stage.second, begun, 5)
        stage.first.start()
        stage.route_moves_to(stage.first, begun, 20)
        for pool in ("web", "web6"):
            states = wait_for(f"all of {pool} enabled and up", lambda: all_up(stage.first, pool), 10,
                              lambda: stage.first.api(f"/pools/{pool}"), pause=0.1).value
            stage.report.note(f"{pool}, from the saved list: {', '.join(sorted(states))}")
        time.sleep(HELD_FOR)
    stage.show(stage.first)
    stage.report.show(stage.first.name, "curl :9090/alerts", stage.first.api("/alerts"))
    stage.foreign_is_untouched()
    stage.gap_is_below(1, begun)


def all_up(balancer, pool):
    """The servers' states, if there are all of them and all are as good as can be."""
    states = balancer.pools([pool])[pool]
    good = states.keys() == ALL and all(one["enabled"] and one["up"] and one["pooled"] for one in states.values())
    return states if good else None


def etcd_back(stage):
    begun = time.monotonic()
    with Unchanged(stage, "etcd started"):
        stage.etcd.start()
        stage.writer = Writer()
        time.sleep(HELD_FOR)
    began = time.monotonic()
    stage.writer.put(key("web2"), node(pooled="no"))
    everywhere(stage, "web2 gone", {"web1": 10, "web3": 10}, began)
    stage.writer.put(key("web2"), node())
    everywhere(stage, "as before", dict.fromkeys(ALL, 10))
    stage.gap_is_below(0.5, begun)


# What is waited for, and what must be so.


def everywhere(stage, what, servers, start=None):
    """Both services of both balancers come to have these servers and weights."""
    start = start or time.monotonic()
    wait_for(
        f"{servers} in IPVS of both balancers", lambda: has_exactly(stage.balancers, servers), 10,
        lambda: "\n".join(balancer.table() for balancer in stage.balancers), pause=0.02,
    )
    stage.report.note(f"{what} after {duration(time.monotonic() - start)}")


def remain(stage, what, servers):
    stays(what, lambda: has_exactly(stage.balancers, servers), HELD_FOR, stage.first.table, pause=0.1)
    stage.report.note(f"{what} still after {duration(HELD_FOR)}")


def has_exactly(balancers, servers):
    return all(weights_in(balancer) == [servers] * 2 for balancer in balancers)


def weights_in(balancer):
    """[{server: weight}] of both services."""
    return [
        {name: weight for name, (weight, _, _) in balancer.destinations(family).items()} for family in SERVICES
    ]


def nobody_asks(stage, server):
    """New connections go to the others alone. A request that was on its way may still be answered."""
    start = time.monotonic() + 0.3
    time.sleep(0.3)
    window = stage.answers(60, start)
    for family in SERVICES:
        check(f"no answer ({family}) from {server}", server not in window.spread(family), dict(window.spread(family)))


class Unchanged:
    """While this block runs, IPVS of both balancers stays as it is."""

    def __init__(self, stage, what):
        self.stage, self.what = stage, what
        self.watches = [Watch(table, pause=0.005) for table in stage.lab.tables]

    def __enter__(self):
        for watch in self.watches:
            watch.start()

    def __exit__(self, kind, *_):
        for watch in self.watches:
            watch.stop()
        if kind:
            return
        for watch in self.watches:
            check(f"no change of IPVS in {watch.looks} looks", not watch.changes, watch.changes[:1])
        looks = sum(watch.looks for watch in self.watches)
        self.stage.report.note(f"{self.what}: IPVS of both balancers the same in {looks} looks")
