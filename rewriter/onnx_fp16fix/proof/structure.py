"""What must hold of a model after a rule, whatever the numbers are."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from onnx_fp16fix.language import PlanRequest, RuleRun
from onnx_fp16fix.proof.trial import Trial

__all__ = ["inner_values", "settled", "sound", "with_consumer", "with_output"]


def sound(trial: Trial) -> str | None:
    """None, or what is wrong: checker, strict inference, interface, dangling nodes and weights."""
    before, after = trial.before, trial.after
    try:
        onnx.checker.check_model(after, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return f"the model after is not valid: {str(error).strip().splitlines()[-1]}"
    if list(after.graph.input) != list(before.graph.input) or list(after.graph.output) != list(
        before.graph.output
    ):
        return "graph inputs or outputs changed"
    if list(inferred.graph.output) != list(before.graph.output):
        return "inferred types of the graph outputs changed"
    if after.opset_import != before.opset_import:
        return "the opset changed"
    read = {name for node in after.graph.node for name in node.input} | {
        info.name for info in after.graph.output
    }
    loose = [node.name for node in after.graph.node if not read.intersection(node.output)]
    loose += [tensor.name for tensor in after.graph.initializer if tensor.name not in read]
    return f"nothing reads {', '.join(map(repr, loose))}" if loose else None


def settled(once: Trial, again: Trial) -> str | None:
    """None when the second application changes nothing and asks for nothing new."""
    if again.rewritten:
        records = [record for record in again.run.records if record.status == "applied"]
        return f"applied again at {', '.join(repr(record.node) for record in records)} of its own result"
    if not once.rewritten and _asked(again.requests) != _asked(once.requests):
        return "it asks for other nodes the second time"
    return None


def _asked(requests: tuple[PlanRequest, ...]) -> set[tuple[object, ...]]:
    return {(request.fp32_nodes, request.rescale_tensors) for request in requests}


def inner_values(trial: Trial) -> list[str]:
    """Names of the values that the match makes and uses up: outputs of its nodes other than the last one's."""
    nodes = {node.name: node for node in trial.before.graph.node}
    outputs = {info.name for info in trial.before.graph.output}
    found = dict[str, None]()
    for name, root in _matched(trial.run):
        if name in nodes and name != root:
            found.update((output, None) for output in nodes[name].output if output and output not in outputs)
    return list(found)


def _matched(run: RuleRun) -> Iterator[tuple[str, str]]:
    for record in run.records:
        if record.status == "applied":
            yield from ((name, record.node) for name in record.nodes)


def with_output(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The model with an inner value as one more graph output."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.output.append(helper.make_empty_tensor_value_info(value))
    return _typed(changed)


def with_consumer(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The model with one more reader of an inner value."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    probe = f"{value}/other reader"
    changed.graph.node.append(helper.make_node("Identity", [value], [probe], name=probe))
    changed.graph.output.append(helper.make_empty_tensor_value_info(probe))
    return _typed(changed)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = inferred.graph.output[-1]
    if not found.HasField("type") or not found.type.HasField(
        "tensor_type"
    ):  # of an op that ONNX does not define
        read = next((node.input[0] for node in model.graph.node if found.name in node.output), found.name)
        found.type.CopyFrom(
            next(info.type for info in model.graph.value_info if info.name in (found.name, read))
        )
    model.graph.output[-1].CopyFrom(found)
    return model
