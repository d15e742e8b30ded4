"""What may import what, and how long and wide a file may be, read off the sources."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT
from helpers import SCRIPTS as ALGORITHMS

PACKAGE = ROOT / "cleanrl_cc"
SCRIPTS = [path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
HELPERS = [path for path in (PACKAGE / "common").glob("*.py") if path.stem != "__init__"]
PYTHON = [path for folder in ("cleanrl_cc", "tests", "benchmark") for path in (ROOT / folder).rglob("*.py")]
PYTHON.remove(ROOT / "benchmark" / "launch.py")

each = pytest.mark.parametrize("path", [*SCRIPTS, *HELPERS], ids=lambda path: path.stem)


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its head or anywhere else; a name
    out of a package counts as a module."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: write the package's name"
            is_package = node.module in ("cleanrl_cc", "cleanrl_cc.common")
            modules |= {f"{node.module}.{name.name}" for name in node.names} if is_package else {node.module}
    return {module for module in modules if module.split(".")[0] == "cleanrl_cc"}


@each
def test_scripts_and_helpers_import_helpers_alone(path):
    assert imports(path) <= {f"cleanrl_cc.common.{helper.stem}" for helper in HELPERS}


def test_helpers_import_only_downwards():
    graph = {f"cleanrl_cc.common.{path.stem}": imports(path) for path in HELPERS}
    order = list(TopologicalSorter(graph).static_order())  # a cycle has none, and is named
    assert set(order) == set(graph)
    assert graph["cleanrl_cc.common.errors"] == set()


@pytest.mark.parametrize("script", ALGORITHMS)
def test_the_update_comes_before_what_serves_it(script):
    rulers = re.findall(r"^# --- (.*) ---$", (PACKAGE / f"{script}.py").read_text(), re.M)
    buffer = "rollout buffer" if script == "ppo_continuous" else "replay buffer"
    assert rulers == ["arguments", "networks", "agent", buffer, "training"]


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_helpers_are_short(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_at_most_110_columns_wide(path):
    wide = [number for number, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > 110]
    assert wide == []
