"""What the scenario's steps have in common: who plays, what they wait for, what they show."""

import time

import router
from balancer import ALL
from lab import Lab
from report import Report, check
from tools import duration, wait_for
from traffic import FAMILIES, Traffic

FOREIGN = "203.0.113.99:443"  # a service of somebody else in the first balancer's kernel


class Stage:
    def __init__(self, **settings):
        self.report = Report()
        self.lab = Lab(**settings)
        self.webs, self.balancers = self.lab.webs, self.lab.balancers
        self.first, self.second = self.balancers
        self.table = self.lab.tables[0]  # the first balancer's, for what must be seen quickly
        self.traffic = None
        self.foreign = None

    # What is waited for. Each returns how long it took, to be printed.

    def all_pooled(self, balancer, deadline, servers=frozenset(ALL)):
        return wait_for(
            f"{sorted(servers)} and no others in IPVS of {balancer.name}",
            lambda: balancer.has_pooled(servers), deadline, balancer.table,
        )

    def route_moves_to(self, balancer, start, deadline):
        """The router's best routes lead to this balancer: for BIRD and for the kernel, v4 and v6."""
        wait_for(
            f"the best routes to lead to {balancer.name}",
            lambda: router.leads_to(balancer.name), deadline, router.routes,
        )
        self.report.note(f"best route at {balancer.name} after {duration(time.monotonic() - start)}")
        self.report.show("router", "birdc show route", router.routes())

    def announced_by(self, names, deadline):
        """The router has the routes of these balancers, of no other, and of each for both VIPs."""
        wanted = dict.fromkeys(router.PREFIXES, set(names)) if names else {}
        wait_for(
            f"routes from {sorted(names) or 'nobody'}",
            lambda: router.announced() == wanted, deadline, router.routes,
        )

    def answers(self, count, start=None, servers=frozenset()):
        """So many answers more for each family, and at least one from each of the servers."""
        start = start or time.monotonic()

        def enough():
            window = self.traffic.window(start)
            spreads = [window.spread(family) for family in FAMILIES]
            return all(sum(spread.values()) >= count and servers <= set(spread) for spread in spreads)

        wait_for(f"{count} answers of each family", enough, 30, lambda: self.traffic.window(start), pause=0.1)
        return self.traffic.window(start)

    # What must be so.

    def gap_is_below(self, limit, start):
        """The client's longest time without an answer since `start`, and a little beyond now."""
        self.answers(50)
        window = self.traffic.window(start)
        self.report.show("client", f"client.py, the last {duration(window.end - start)}", str(window))
        self.report.note(f"client's longest gap {duration(window.longest_gap())}")
        check(f"no gap of {duration(limit)} or longer", window.longest_gap() < limit, window)

    def add_foreign_service(self):
        self.first.ipvsadm("-A", "-t", FOREIGN, "-s", "rr")
        self.first.ipvsadm("-a", "-t", FOREIGN, "-r", "10.64.0.99:443", "-g", "-w", "7")
        self.foreign = self.foreign_service()

    def foreign_service(self):
        return [line for line in self.first.ipvsadm("-Sn").splitlines() if FOREIGN in line]

    def foreign_is_untouched(self):
        seen = self.foreign_service()
        check(f"the foreign service {self.foreign}", seen == self.foreign and len(seen) == 2, seen)
        self.report.note("foreign service untouched")

    def vips_are_on_lo(self, balancer):
        seen = balancer.machine.run("ip", "-brief", "address", "show", "dev", "lo")
        check("the VIPs on lo", all(prefix in seen for prefix in router.PREFIXES), seen)

    # What is shown.

    def show(self, *balancers):
        for balancer in balancers:
            self.report.show(balancer.name, "ipvsadm -Ln", balancer.table())
            for path in ("/pools/web", "/pools/web6"):
                self.report.show(balancer.name, f"curl :9090{path}", balancer.api(path))
