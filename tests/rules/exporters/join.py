"""Many small exported models made one, every name with its case before it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import compose, helper


def join(models: dict[str, onnx.ModelProto], exporter: str) -> None:
    """Write ``exporter``.onnx beside this file: one graph whose inputs, outputs and nodes begin with ``CASE/``."""
    parts = []
    for case, model in models.items():
        for index, node in enumerate(model.graph.node):
            node.name = f"{node.op_type}_{index}"
        graph = compose.add_prefix(model, f"{case}/").graph
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:  # one name for all would make the sizes one
                    dim.dim_param = f"{case}/{dim.dim_param}"
        parts.append(graph)
    names = ("node", "input", "output", "initializer")
    fields = {name: [item for part in parts for item in getattr(part, name)] for name in names}
    graph = helper.make_graph(
        fields["node"], exporter, fields["input"], fields["output"], fields["initializer"]
    )
    first = next(iter(models.values()))
    joined = helper.make_model(
        graph, ir_version=8, opset_imports=[o for o in first.opset_import if not o.domain]
    )
    joined.producer_name, joined.producer_version = exporter, first.producer_version
    onnx.checker.check_model(joined, full_check=True)
    path = Path(__file__).with_name(f"{exporter}.onnx")
    onnx.save(joined, path)
    print(path.name, len(joined.graph.node), "nodes", path.stat().st_size, "bytes")
