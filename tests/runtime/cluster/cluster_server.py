"""A Ray cluster of several nodes on this machine, in a process of its own: one command, one answer per line.

add NAME [RESOURCES as JSON]    kill NAME    (end of input: everything ends)
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 120 << 20


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr

    def started(name: str, resources: dict[str, float]) -> dict[str, object]:
        return {
            "num_cpus": 1,
            "object_store_memory": STORE_BYTES,
            "resources": resources,
            "labels": {"trisect.node": name},
        }

    cluster = Cluster(initialize_head=True, head_node_args=started("head", {}) | {"include_dashboard": False})
    nodes = {}
    print(cluster.address, file=answers, flush=True)
    try:
        for line in sys.stdin:
            command, name, *rest = line.split(maxsplit=2)
            if command == "add":
                nodes[name] = cluster.add_node(**started(name, json.loads(rest[0]) if rest else {}))
            else:
                cluster.remove_node(nodes.pop(name), allow_graceful=False)
            print("done", file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
