"""A Ray cluster of several nodes on this machine, for tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRIES = 5


@contextlib.contextmanager
def ray_cluster(num_nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A head that takes no work and `num_nodes` nodes of one processor each: `ray.cluster_utils.Cluster` and those nodes.

    Actors import the project from this checkout. Ray gives a node 30 seconds to start, whatever else the machine does; so there are several tries.
    """
    import ray
    from ray.cluster_utils import Cluster

    root = Path(__file__).resolve().parents[1]
    paths = [root, root / "kernels", root / "pipelines", os.environ.get("PYTHONPATH", "")]
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "RAY_USAGE_STATS_ENABLED": "0"}

    def tried(start: Any) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return start()
            except Exception:
                if not left:
                    raise
        return None

    cluster = None
    try:
        cluster = tried(lambda: Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
        yield cluster, [tried(lambda: cluster.add_node(num_cpus=1)) for _ in range(num_nodes)]
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
