"""`lab starved`: all of the lab without a processor for half a minute, but for some hundredths of a second now and then.

Balancers, servers and router run late together, so that checks of good servers time out. Nobody may be depooled and
no address withdrawn for that, which is read from the daemons' counters, the first balancer's IPVS and the router; and
a server that dies meanwhile is found all the same.
"""

import contextlib
import os
import re
import subprocess
import sys
import time

import failover
import pooling
import router
from balancer import ALL
from report import check
from stage import Stage
from tools import duration, wait_for

SECONDS = 30
LATE = SECONDS / 2  # so late, in all, who looks must have been for it to count as starved

# Takes its processor by real-time priority, for longer than a check's timeout here and there, and less than the
# 0.95 s of each second that the kernel would let it have.
HOG = """
import os, random, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
while True:
    until = time.monotonic() + random.uniform(0.3, 0.9)
    while time.monotonic() < until:
        pass
    time.sleep(random.uniform(0.02, 0.06))
"""


def main():
    stage = Stage()
    steps = [
        ("start, beside a service of somebody else's", pooling.start),
        (f"no processor for {SECONDS} s", nobody_is_depooled),
        ("a server killed, no processor either", dead_server_found),
        ("both balancers stopped", failover.both_stopped),
    ]
    for number, (name, function) in enumerate(steps):
        well = stage.report.step(name, lambda: function(stage))
        if not well and number == 0:
            break  # nothing runs, so nothing can befall it
    return stage.report.close(stage.lab.logs())


def nobody_is_depooled(stage):
    wait_for("a result of every check", lambda: all(map(checked, stage.balancers)), 30)
    before = {balancer: counters(balancer) for balancer in stage.balancers}
    logged = {balancer: os.path.getsize(balancer.log) for balancer in stage.balancers}
    shape, late = stage.table.shape(), []
    with starved():
        begun = now = time.monotonic()
        while now - begun < SECONDS:
            time.sleep(0.01)
            last, now = now, time.monotonic()
            late.append(now - last - 0.01)
            check("the first balancer's IPVS unchanged", stage.table.shape() == shape, stage.table.shape())
    stage.report.note(f"who looks was late by {duration(max(late))} at most, {duration(sum(late))} in all")
    check(f"more than {duration(LATE)} of it", sum(late) > LATE, duration(sum(late)))
    for balancer in stage.balancers:
        seen = counters(balancer)
        stage.report.note(f"{balancer.name}: {seen}")
        check(f"{balancer.name}'s counters as before", seen == before[balancer], f"{before[balancer]} before, {seen} after")
        with open(balancer.log) as log:
            log.seek(logged[balancer])
            said = log.read()
        check(f"{balancer.name} to say so", "this host stood still" in said, said)
        stage.all_pooled(balancer, 0)
    check("the routes at both balancers, none demoted", router.demoted() == {}, router.routes())
    stage.announced_by({balancer.name for balancer in stage.balancers}, 0)


def dead_server_found(stage):
    web = stage.webs[0]
    with starved():
        begun = time.monotonic()
        web.kill()
        for balancer in stage.balancers:
            stage.all_pooled(balancer, 20, ALL - {web.name})
        stage.report.note(f"{web.name} gone from both balancers' IPVS after {duration(time.monotonic() - begun)}")
    web.reap()
    web.start()
    for balancer in stage.balancers:
        stage.all_pooled(balancer, 30)


def checked(balancer):
    """Two services of three servers, each watched by idle-connection, proxy-fetch and vip-reachability."""
    return len(series(balancer, "plimsoll_monitor_status")) == 18


def counters(balancer):
    """What would have risen with a server taken as down, a session lost, a route withdrawn or demoted."""
    return {
        "down": sum(series(balancer, "plimsoll_monitor_down_transitions_total")),
        "sessions lost": sum(series(balancer, "plimsoll_bgp_sessions_lost_total")),
        "updates": sum(series(balancer, "plimsoll_bgp_messages_sent_total", 'type="update"')),
    }


def series(balancer, name, label=""):
    metrics = balancer.api("/metrics")
    lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", metrics, re.M)
    found = [float(value) for labels, value in lines if label in labels]
    check(f"{name} {label} in /metrics", found, metrics)
    return found


@contextlib.contextmanager
def starved():
    """Who looks comes after the busy loops and before all others, or he would see little."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
    hogs = [subprocess.Popen([sys.executable, "-c", HOG, str(cpu)]) for cpu in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(main())
