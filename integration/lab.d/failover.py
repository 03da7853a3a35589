"""The scenario's steps about balancers: stopped, killed, cut off, and back."""

import threading
import time

import network
import router
from balancer import ALL
from download import Downloads
from report import check
from tools import stays
from traffic import FAMILIES

HOLD = 3  # seconds, the hold time in the configurations: the smallest that BGP allows


def stopped(stage):
    begun = time.monotonic()
    code = stage.first.stop()
    check("exit code 0", code == 0, code)
    stage.route_moves_to(stage.second, begun, 5)
    check("IPVS left in place", stage.first.has_pooled(ALL), stage.first.table())
    stage.vips_are_on_lo(stage.first)
    stage.foreign_is_untouched()
    stage.gap_is_below(0.5, begun)


def killed(stage):
    begun = time.monotonic()
    stage.first.kill()
    stage.route_moves_to(stage.second, begun, 5)
    stage.gap_is_below(1, begun)


def started_again(stage):
    begun = time.monotonic()
    stage.first.start()
    stage.route_moves_to(stage.first, begun, 20)
    stage.all_pooled(stage.first, 10)
    stage.foreign_is_untouched()
    stage.gap_is_below(0.5, begun)


def link_cut(stage):
    begun = time.monotonic()
    network.cut(stage.first.machine)
    stage.route_moves_to(stage.second, begun, HOLD + 3)
    stage.gap_is_below(HOLD + 1.5, begun)


def link_mended(stage):
    begun = time.monotonic()
    network.mend(stage.first.machine)
    stage.route_moves_to(stage.first, begun, 30)
    stage.all_pooled(stage.first, 30)
    stage.gap_is_below(0.5, begun)


def connections_outlive_the_daemon(stage):
    """Shown with one balancer: with two, the router would hand the connections to the one that lacks them."""
    first = stage.first
    stage.second.stop()
    stage.announced_by({first.name}, 5)
    downloads = Downloads(stage.lab.download)
    known, counted, active = downloads.connections(first), counters(first), first.active()
    check(f"{downloads.count} connections in IPVS", len(known) == downloads.count, sorted(known))
    stage.report.show(first.name, "ipvsadm -Ln", first.table())

    begun = time.monotonic()
    with Watch(stage.table) as watch:
        first.kill()
        stage.announced_by(set(), 5)
        stage.report.show("router", "birdc show route", router.routes())
        first.start()
        stage.route_moves_to(first, begun, 20)
        stays("the services' connections", lambda: first.active() >= downloads.count, 1, first.table)
    stage.report.show(first.name, "ipvsadm -Ln", first.table())

    # Three proofs that IPVS was adopted, not made anew: the table never changed, the connections
    # are the same, and the services' counters went on, which start at 0 in a new service.
    check("the downloads still running", downloads.running() == downloads.count, downloads.running())
    check(f"no change in {watch.looks} looks at the table", not watch.changes, watch.changes[:1])
    kept = downloads.connections(first)
    check("the same connections in IPVS", kept == known, sorted(kept))
    now = counters(first)
    check(f"counters at {counted} or more", all(now[family] >= counted[family] for family in FAMILIES), now)
    stage.report.note(f"{len(kept)} of {len(known)} connections kept")
    stage.report.note(f"ActiveConn {active} before, {first.active()} after")
    stage.report.note(f"IPVS table the same in {watch.looks} looks")
    stage.gap_is_below(6, begun)
    stage.report.note(f"{downloads.finish()} downloads complete")
    stage.second.start()
    stage.announced_by({first.name, stage.second.name}, 20)


class Watch(threading.Thread):
    """Looks at a table each millisecond or so, and keeps what it saw that was not as at first."""

    def __init__(self, table, pause=0.001):
        super().__init__(daemon=True)
        self.table, self.first, self.looks, self.changes = table, table.shape(), 0, []
        self.over, self.pause = threading.Event(), pause

    def run(self):
        while not self.over.wait(self.pause):
            shape = self.table.shape()
            self.looks += 1
            if shape != self.first:
                self.changes.append(shape.decode())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.over.set()
        self.join()


def counters(balancer):
    return {family: balancer.connections(family) for family in FAMILIES}


def both_stopped(stage):
    for balancer in stage.balancers:
        balancer.stop()
    stage.announced_by(set(), 5)
    stage.report.show("router", "birdc show route", router.routes())
    for balancer in stage.balancers:
        check("IPVS left in place", balancer.has_pooled(ALL), balancer.table())
    stage.foreign_is_untouched()
