"""`lab reaction`: how soon IPVS follows, medians of 20.

Two times are taken, each from just before the cause to the first look at /proc/net/ip_vs
that shows the effect in both services, IPv4 and IPv6:

    a server's process killed (kill -9)   until its destinations are gone
    a new weight in the list of servers   from the rename of the file, until IPVS has it

The looks are pread(2) of an open file, on CLOCK_MONOTONIC. The guest has one CPU, and who
looks takes it from the daemon: so the looker sleeps a little after each look. A figure is
too large by up to the time from one look to the next, which is measured too and printed.

The servers are single processes, since of several the last one's death would be measured,
and the monitor is idle-connection alone: proxy-fetch sees a death only at its next turn.
"""

import statistics
import sys
import time

from balancer import prepare_pool
from lab import Lab
from tools import stays, wait_for

ROUNDS = 20
LOOK_AGAIN = 0.0002  # seconds
QUIET = 0.1  # seconds between rounds, for what the daemon does after the effect shows

LIMITS = {"server killed": 5, "new weight": 12}  # milliseconds


def main():
    lab = Lab(fetch=False, single=True)
    lab.start_router()
    lab.start_webs()
    balancer, table = lab.balancers[0], lab.tables[0]
    balancer.start()
    wait_for_all(table)
    print(f"one look each {look_time(table):.2f} ms; figures are too large by up to that", flush=True)
    well = [
        judge("server killed", [kill_once(table, lab.webs[i % 3]) for i in range(ROUNDS)]),
        judge("new weight", [weigh_once(table, lab.webs[1], 11 + i) for i in range(ROUNDS)]),
    ]
    print(f"\nthe end state:\n{balancer.table()}")
    return 0 if all(well) else 1


def kill_once(table, web):
    start = time.monotonic()
    web.kill()
    took = until(f"{web.name} gone", lambda: not table.has(web.machine), start)
    web.reap()
    web.start()
    wait_for_all(table)
    return took


def weigh_once(table, web, weight):
    rename = prepare_pool({web.name: weight})
    start = time.monotonic()
    rename()
    return until(f"{web.name} with weight {weight}", lambda: table.weights(web.machine) == [weight] * 2, start)


def until(what, effect, start):
    wait_for(what, effect, 10, pause=LOOK_AGAIN)
    took = (time.monotonic() - start) * 1000
    stays(what, effect, QUIET)
    return took


def wait_for_all(table):
    wait_for("all servers in both services", table.has_all, 30)
    stays("all servers in both services", table.has_all, QUIET)


def look_time(table):
    moments = []
    for _ in range(200):
        table.read()
        moments.append(time.monotonic())
        time.sleep(LOOK_AGAIN)
    return statistics.median(later - earlier for earlier, later in zip(moments, moments[1:])) * 1000


def judge(what, figures):
    """Print what was measured; says whether the median is within its limit."""
    median = statistics.median(figures)
    print(f"\n{what}, ms: " + " ".join(f"{figure:.1f}" for figure in sorted(figures)))
    verdict = "ok" if median <= LIMITS[what] else "TOO SLOW"
    print(f"{verdict}: median of {len(figures)} {median:.1f} ms, limit {LIMITS[what]} ms", flush=True)
    return median <= LIMITS[what]


if __name__ == "__main__":
    sys.exit(main())
