"""The house rules, checked on the syntax tree: layers, purity, size, names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: From top to bottom: a module may import only from its own layer and from layers below.
LAYERS = [
    "cli",
    "overlay.thread",
    "overlay.node",
    "overlay.joining",
    "overlay.status",
    "overlay.metrics",
    "overlay.standing",
    "overlay.sim",
    "overlay.explained",
    "overlay.mesh",
    "overlay.whereabouts",
    "overlay.acquaintances",
    "overlay.mesh_log",
    "overlay.outbox",
    "overlay.engine_effects",
    "overlay.tokenizing",
    "overlay.member",
    "overlay.effects",
    "overlay.publisher",
    "overlay.roll",
    "overlay.engines",
    "overlay.config",
    "overlay.http",
    "overlay.home",
    "overlay.transport",
    "overlay.forwarding",
    "overlay.admission",
    "models.llama",
    "models.store",
    "overlay.routing",
    "overlay.gossip",
    "overlay.wire",
    "overlay.identity",
    "models.fairness",
    "models.probes",
    "models.engine",
    "overlay.prefix",
    "overlay.bucket",
    "overlay.complaints",
    "overlay.recent",
    "overlay.limits",
    "overlay.errors",
    "overlay.printable",
]

PURE = [
    "overlay.member",
    "overlay.effects",
    "overlay.publisher",
    "overlay.roll",
    "overlay.sim",
    "overlay.explained",
    "overlay.forwarding",
    "overlay.admission",
    "overlay.routing",
    "overlay.gossip",
    "overlay.wire",
    "overlay.identity",
    "overlay.prefix",
    "overlay.bucket",
    "overlay.recent",
    "overlay.printable",
    "models.engine",
    "models.probes",
    "models.fairness",
]

#: What a pure part must not touch: I/O, tasks, clocks, ambient randomness.
IMPURE_MODULES = {"asyncio", "os", "select", "socket", "subprocess", "threading", "time", "zmq"}

MODULE_LINES_MAX = 400


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("overlay", "cli", "models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append((name, path))
    return found


def layer_of(module: str) -> int | None:
    for depth, layer in enumerate(LAYERS):
        if module == layer or module.startswith(layer + "."):
            return depth
    return None


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_arrows_point_down(module: str, path: Path) -> None:
    if module in {"overlay", "models", "cli"}:
        return
    own = layer_of(module)
    assert own is not None, f"{module} is in no layer: add it to LAYERS"
    for line, target in imports(path):
        below = layer_of(target)
        assert below is None or below >= own, f"{path}:{line}: {module} imports {target}, above it"


@pytest.mark.parametrize(
    ("module", "path"),
    [(name, path) for name, path in modules() if name.startswith(tuple(PURE))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pure_parts_do_no_io(module: str, path: Path) -> None:
    for line, target in imports(path):
        assert target.split(".")[0] not in IMPURE_MODULES, f"{path}:{line}: {module} is pure"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {
                ("random", "random"),
                ("random", "choice"),
                ("datetime", "now"),
            }, f"{path}:{node.lineno}: {module} is pure: pass `now` and a random.Random"


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_modules_stay_small(module: str, path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MODULE_LINES_MAX, f"{module} has {lines} lines: it has two reasons to change"


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_names_say_what_things_are(module: str, path: Path) -> None:
    for banned in ("utils", "helpers", "misc", "common"):
        assert banned not in module.split("."), f"{module}: name it after what it does"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils")), f"{module}: {node.name}"
