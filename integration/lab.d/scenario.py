"""The scenario: a service over three web servers, two balancers, and all that may befall them.

Each step does one thing to the lab, waits until it shows, and reads the result from those
who would know: IPVS from ipvsadm and /proc/net/ip_vs, routes from birdc and the router's
kernel, service from a client that asks all the time. What the daemon says of itself is
printed, and used to know when it has noticed something; it proves nothing.
"""

import sys

import failover
import pooling
from stage import Stage

STEPS = [
    ("start, beside a service of somebody else's", pooling.start),
    ("traffic spread over the three servers by LVS-DR", pooling.spread),
    ("a server killed", pooling.server_killed),
    ("the threshold holds the last ones", pooling.threshold_holds),
    ("the servers back", pooling.servers_back),
    ("our services deleted by hand", pooling.deleted_by_hand),
    ("reload (SIGHUP): another scheduler, and back", pooling.reload),
    ("primary balancer stopped (SIGTERM)", failover.stopped),
    ("started again", failover.started_again),
    ("primary balancer killed (kill -9)", failover.killed),
    ("started again", failover.started_again),
    ("primary balancer's link cut", failover.link_cut),
    ("link up again", failover.link_mended),
    ("kill -9 leaves connections alive", failover.connections_outlive_the_daemon),
    ("both balancers stopped", failover.both_stopped),
]


def main():
    stage = Stage()
    for number, (name, function) in enumerate(STEPS):
        well = stage.report.step(name, lambda: function(stage))
        if not well and number < 2:
            break  # nothing runs, so nothing can befall it
    return stage.report.close(stage.lab.logs())


if __name__ == "__main__":
    sys.exit(main())
