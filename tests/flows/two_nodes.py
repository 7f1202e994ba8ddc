"""A Ray cluster of two nodes on this machine, one of which is killed while it works for restyle.

python -m tests.flows.two_nodes OUT COMMAND...    # as tests.flows.test_ray does

Ray listens on all addresses, whatever it is told, and wants no password; so this runs in a network
namespace that has nothing but loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.pipeline.runs import committed
from tests.processes import wait_until


def main() -> int:
    """Run the command, kill a node when some shards are done; what happened, as JSON."""
    out, *command = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    start = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: committed(Path(out)) >= 3 or run.poll() is not None, seconds=120)
        before = committed(Path(out))
        cluster.remove_node(second, allow_graceful=False)
        said = run.communicate(timeout=180)[0]
    finally:
        run.kill()
    print(json.dumps({
        "exit": run.returncode, "said": said, "shards before the kill": before,
        "seconds": round(time.monotonic() - start, 1),
    }), flush=True)  # fmt: skip
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
