from typing import Any

from flashrmsd_cy._graph import Graph

def search(
    graph: Graph,
    n: int,
    level: int,
    align: bool,
    a: Any,
    b: Any,
    mapping: Any,
    rotation: Any,
    translation: Any,
    node_limit: int | None = None,
    deadline: float | None = None,
) -> tuple[float, float, bool]: ...
