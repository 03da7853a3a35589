"""`lab shell`: starts everything, as the scenario finds it, and leaves you in a shell inside."""

import os
import subprocess
import sys

import router
from balancer import ALL
from lab import Lab
from tools import RUN, wait_for, write


def main():
    print("starting ...", flush=True)
    lab = Lab()
    lab.start_router()
    lab.start_webs()
    for balancer in lab.balancers:
        balancer.start()
        write(f"{RUN}/{balancer.name}.pid", str(balancer.daemon.pid))
    for web in lab.webs:
        write(f"{RUN}/{web.name}.pid", str(web.nginx.pid))
    for balancer in lab.balancers:
        wait_for(f"all pooled by {balancer.name}", lambda: balancer.has_pooled(ALL), 20, balancer.table)
    wait_for("the best routes at balancer1", lambda: router.leads_to("balancer1"), 20, router.routes)
    return subprocess.call(["bash", "--rcfile", os.path.join(os.path.dirname(__file__), "shell.rc"), "-i"])


if __name__ == "__main__":
    sys.exit(main())
