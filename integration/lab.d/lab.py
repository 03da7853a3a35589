"""The whole lab, running: the network with the router, the balancers, the web servers on it."""

import network
import router
import web
from balancer import Balancer, Table, prepare_pool
from tools import wait_for


class Lab:
    def __init__(self, single=False, **settings):
        """`single`: web servers of one process; `settings`: the balancers'."""
        network.build()
        prepare_pool()()
        self.download = web.make_download()
        self.webs = [web.Web(machine, single) for machine in network.WEBS]
        # The same routes, the first's the better by their MED. Were it not for that, the
        # lower router id would win: the second's.
        first, second = network.BALANCERS
        self.balancers = [Balancer(first, 0, first.v4, **settings), Balancer(second, 10, "10.64.0.2", **settings)]
        self.tables = [Table(balancer.machine) for balancer in self.balancers]

    def start_router(self):
        router.start()

    def start_webs(self):
        for one in self.webs:
            one.start()
        for one in self.webs:
            wait_for(f"an answer from {one.name}", lambda: answers(one), 10)

    def logs(self):
        return [balancer.log for balancer in self.balancers] + [router.LOG]


def answers(one):
    """Asked past the balancers, from the router."""
    said = network.ROUTER.run("curl", "-s", "--max-time", "1", f"http://{one.machine.v4}/", ok=range(256))
    return said.strip() == one.name
