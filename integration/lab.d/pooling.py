"""The scenario's steps about servers: pooled, failed, held, back; and other hands on the table."""

import time

import router
from balancer import ALL, SERVICES
from report import check
from tools import duration, stays, wait_for
from traffic import FAMILIES, Traffic

HELD_FOR = 2.5  # seconds: more than two rounds of proxy-fetch


def start(stage):
    stage.add_foreign_service()
    stage.report.show(stage.first.name, "ipvsadm -Ln", stage.first.table())
    stage.lab.start_router()
    stage.lab.start_webs()
    begun = time.monotonic()
    for balancer in stage.balancers:
        balancer.start()
    for balancer in stage.balancers:
        stage.all_pooled(balancer, 20)
    stage.announced_by({balancer.name for balancer in stage.balancers}, 20)
    stage.report.note(f"all pooled and announced after {duration(time.monotonic() - begun)}")
    stage.route_moves_to(stage.first, begun, 20)
    stage.report.show("router", "birdc show route all (v4)", router.birdc("show", "route", "table", "master4", "all"))
    stage.show(*stage.balancers)
    for balancer in stage.balancers:
        stage.vips_are_on_lo(balancer)
    stage.foreign_is_untouched()


def spread(stage):
    stage.traffic = Traffic()
    stage.answers(1)
    window = stage.answers(300)
    stage.report.show("client", "client.py", str(window))
    stage.report.show(stage.first.name, "ipvsadm -Ln", stage.first.table())
    for family in FAMILIES:
        counts = window.spread(family)
        stage.report.note(f"{family}: " + ", ".join(f"{server} {counts[server]}" for server in sorted(counts)))
        share = min(counts[server] for server in ALL) / sum(counts.values())
        check(f"a third of the answers ({family}) from each server", share > 0.28, dict(counts))
        check(f"no failed requests ({family})", not window.failures(family), dict(window.failures(family)))
        passed_by(stage, family, len(window.of(family)))


def passed_by(stage, family, requests):
    """IPVS counts them, too. Its counters are written every two seconds."""

    def counts():
        return [balancer.connections(family) for balancer in stage.balancers]

    wait_for(
        f"{requests} connections or more ({family}) in balancer1, none in balancer2",
        lambda: counts()[0] >= requests and counts()[1] == 0, 5, counts, pause=0.1,
    )


def server_killed(stage):
    web, left = stage.webs[0], ALL - {stage.webs[0].name}
    begun = time.monotonic()
    web.kill()
    gone = wait_for(
        f"{web.name} gone from IPVS", lambda: not stage.table.has(web.machine), 5, stage.first.table, pause=0.0002
    )
    stage.report.note(f"{web.name} gone from IPVS after {gone}")
    web.reap()
    for balancer in stage.balancers:
        stage.all_pooled(balancer, 5, left)
    stage.show(stage.first)
    stage.gap_is_below(0.5, begun)


def threshold_holds(stage):
    held = {"web2", "web3"}
    begun = time.monotonic()
    for web in stage.webs[1:]:
        web.kill()
        web.reap()
        noticed_down(stage, web)
        stays("web2 and web3 in IPVS", lambda: stage.first.has_pooled(held), HELD_FOR, stage.first.table, pause=0.1)
        stage.report.note(f"{web.name} killed: web2 and web3 stay in IPVS")
    # No balancer reaches anybody, so both say so, and the route stays where it is best.
    wait_for("both balancers' routes demoted", lambda: router.demoted() == router.announced(), 5, router.routes)
    stage.route_moves_to(stage.first, begun, 20)
    stage.show(stage.first)
    stage.report.show(stage.first.name, "curl :9090/alerts", stage.first.api("/alerts"))
    # Nobody answers once all three are dead: the gap is as long as the step.
    stage.report.show("client", "client.py", str(stage.traffic.window(begun)))


def noticed_down(stage, web):
    """To know that what follows is holding, not slowness."""
    for pool in ("web", "web6"):
        path = f"/pools/{pool}/{web.name}"
        wait_for(
            f"{pool} to take {web.name} as down",
            lambda: stage.first.api(path).startswith(("enabled/down/", "enabled/partially up/")), 5,
            lambda: stage.first.api(path), pause=0.02,
        )


def servers_back(stage):
    begun = time.monotonic()
    stage.lab.start_webs()
    for balancer in stage.balancers:
        stage.all_pooled(balancer, 30)
    stage.report.note(f"all pooled after {duration(time.monotonic() - begun)}")
    wait_for("no route demoted", lambda: router.demoted() == {}, 5, router.routes)
    stage.route_moves_to(stage.first, begun, 30)
    window = stage.answers(100, servers=ALL)
    stage.show(stage.first)
    stage.report.show("client", "client.py", str(window))


def deleted_by_hand(stage):
    begun = time.monotonic()
    for service in SERVICES.values():
        stage.first.ipvsadm("-D", "-t", service)
    stage.report.show(stage.first.name, "ipvsadm -D -t ... (both); ipvsadm -Ln", stage.first.table())
    wait_for("all servers in IPVS again", stage.table.has_all, 5, stage.first.table)
    stage.report.note(f"back with all servers after {duration(time.monotonic() - begun)}")
    stage.all_pooled(stage.first, 1)
    stage.report.show(stage.first.name, "ipvsadm -Ln", stage.first.table())
    stage.foreign_is_untouched()
    stage.gap_is_below(5, begun)


def reload(stage):
    begun = time.monotonic()
    for scheduler in ("wlc", "wrr"):
        stage.first.configure(scheduler)
        stage.first.reload()
        took = wait_for(
            f"{scheduler} for both services", lambda: stage.first.schedulers() == {scheduler}, 5, stage.first.table
        )
        stage.report.note(f"{scheduler} in IPVS after {took}")
        stage.report.show(stage.first.name, "ipvsadm -Ln", stage.first.table())
        stage.all_pooled(stage.first, 1)
    check("the routes as before", router.leads_to(stage.first.name), router.routes())
    stage.foreign_is_untouched()
    stage.gap_is_below(0.5, begun)
