"""The module contract of docs/architecture.md, checked against every import in the package."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rewriter" / "onnx_fp16fix"
CONTRACT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# The face looks everything up on first use, and the entry point starts the command: they are outside the layers.
FACE = {"__init__", "__main__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYERS = sorted({name.split(".")[0] for name in MODULES} - FACE)


@cache
def imports(name: str) -> frozenset[tuple[str, bool]]:
    """Modules of the package that ``name`` imports, and whether it does so when it is imported itself."""
    return frozenset(_imports(name))


def _imports(name: str) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node, at_import_time in walk(tree, True):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "onnx_fp16fix" and (found := existing(target)):
                yield found, at_import_time


def walk(node: ast.AST, at_import_time: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        )
        yield child, at_import_time
        yield from walk(child, at_import_time and not lazy)


def absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = MODULES[name].name == "__init__.py"
    parts = ["onnx_fp16fix", *name.split(".")]
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def existing(target: str) -> str | None:
    """``onnx_fp16fix.plan.Plan`` as the module it comes from, ``plan``."""
    parts = target.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or None


def allowed() -> dict[str, set[str]]:
    """What each layer may import, read from the block 'Who imports whom', transitively."""
    block = re.search(r"## Who imports whom\n.*?\n\n(.*?)\n\n## ", CONTRACT, re.DOTALL)
    assert block is not None, "docs/architecture.md has no block 'Who imports whom'"
    edges: dict[str, set[str]] = defaultdict(set)
    chains = [chain.strip() for chain in re.split(r"[;\n]", block[1])]
    leaves = {word for chain in chains if chain.endswith("leaves") for word in words(chain)}
    for chain in chains:
        if chain.endswith("leaves"):
            continue
        groups = [words(group) for group in chain.split("->")]
        everything = set(LAYERS) - leaves - {word for group in groups for word in group}
        for left, right in pairwise(groups):
            for source in everything if left == ["everything"] else left:
                edges[source].update(right)
    for layer in set(LAYERS) - leaves:
        edges[layer].update(leaves)
    return {layer: closure(layer, edges) for layer in LAYERS}


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in LAYERS or word == "everything"]


def closure(layer: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [layer]
    while todo:
        for target in edges.get(todo.pop(), set()) - seen:
            seen.add(target)
            todo.append(target)
    return seen


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_the_contract_lets_it(layer: str) -> None:
    may = allowed()[layer] | {layer} | FACE
    found = {
        (name, target)
        for name in MODULES
        if name.split(".")[0] == layer
        for target, _ in imports(name)
        if target.split(".")[0] not in may
    }
    assert not found, f"docs/architecture.md does not allow {sorted(found)}"


def test_the_folders_of_the_planner_import_one_way() -> None:
    order = re.search(r"^Inside `plan/`: (\w+) -> (\w+) -> (\w+), (\w+)\.$", CONTRACT, re.MULTILINE)
    assert order is not None, (
        "docs/architecture.md does not say in which order folders of plan/ import each other"
    )
    top, middle, *bottom = order.groups()
    may = {top: {middle, *bottom}, middle: set(bottom), **{folder: set[str]() for folder in bottom}}
    used = {
        (name, target)
        for name in MODULES
        for target, _ in imports(name)
        if name.count(".") == target.count(".") == 2
        and name.startswith("plan.")
        and target.startswith("plan.")
    }
    assert {name.split(".")[1] for pair in used for name in pair} == set(may)
    found = {
        (name, target)
        for name, target in used
        if target.split(".")[1] not in may[name.split(".")[1]] | {name.split(".")[1]}
    }
    assert not found, f"docs/architecture.md does not allow {sorted(found)}"


def test_the_contract_itself_has_no_cycle() -> None:
    assert not [layer for layer, below in allowed().items() if layer in below]


def test_no_module_imports_itself_around_a_corner() -> None:
    edges = {name: {t for t, at_once in imports(name) if at_once and t != name} for name in MODULES}
    # a package's __init__ gathers its own modules; they name each other directly
    inner = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in edges.items()}
    assert not [name for name in inner if name in closure(name, inner)]


def test_every_module_has_a_row_in_the_contract() -> None:
    rows = set(re.findall(r"^\| `(\w+)(?:\.py|/)`", CONTRACT, re.MULTILINE))
    rows |= set(
        re.findall(r"`(\w+)\.py`", "\n".join(line for line in CONTRACT.splitlines() if line.startswith("|")))
    )
    assert set(LAYERS) <= rows, f"docs/architecture.md has no row for {sorted(set(LAYERS) - rows)}"


def test_only_the_command_line_prints_with_rich() -> None:
    users = {
        name
        for name, path in MODULES.items()
        if re.search(r"^\s*(?:from|import) rich\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {name.split(".")[0] for name in users} <= {"cli"}
