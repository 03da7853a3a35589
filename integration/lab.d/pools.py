"""The scenario of pools in etcd: what is written there stands in IPVS; and etcd away, and 10,000 changes.

As in scenario.py, what must be so is read from those who would know: etcd by its own gateway,
IPVS from ipvsadm and /proc/net/ip_vs, service from a client that asks all the time.
"""

import sys

import failover
import listing
import storm
from etcd import SECTION
from stage import Stage

STEPS = [
    ("start, lists from etcd", listing.start),
    ("depooled, pooled, weighed by etcdctl", listing.by_etcdctl),
    ("by plimsoll ctl", listing.by_ctl),
    ("new weights, from put to IPVS", listing.weights),
    ("all depooled in one transaction: the guard", listing.all_depooled),
    ("the whole directory deleted", listing.all_deleted),
    ("etcd killed", listing.etcd_killed),
    ("kill -9 of the daemon, etcd away", listing.restarted_without_etcd),
    ("etcd back", listing.etcd_back),
    (f"{storm.CHANGES:,} random changes, connections cut", storm.rage),
    ("both balancers stopped", failover.both_stopped),
]


def main():
    stage = Stage(servers=f"etcd:{listing.POOL}", more=SECTION)
    for number, (name, function) in enumerate(STEPS):
        well = stage.report.step(name, lambda: function(stage))
        if not well and number == 0:
            break  # nothing runs, so nothing can befall it
    return stage.report.close([*stage.lab.logs(), *listing.LOGS])


if __name__ == "__main__":
    sys.exit(main())
