"""Imports, the length and width of files and lines, and what scripts share, read off the sources."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT, load_script
from helpers import SCRIPTS as ALGORITHMS

from cleanrl_cc.common import arguments

PACKAGE = ROOT / "cleanrl_cc"
SCRIPTS = [path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
HELPERS = [path for path in (PACKAGE / "common").glob("*.py") if path.stem != "__init__"]
PYTHON = [path for folder in ("cleanrl_cc", "tests", "benchmark") for path in (ROOT / folder).rglob("*.py")]
PYTHON.remove(ROOT / "benchmark" / "launch.py")

each = pytest.mark.parametrize("path", [*SCRIPTS, *HELPERS], ids=lambda path: path.stem)


def lines(script: str) -> list[str]:
    return (PACKAGE / f"{script}.py").read_text().splitlines()


def packed(assignment: ast.Assign) -> bool:
    """Whether a tuple is assigned to a tuple although nothing holds its values together, in which case each
    deserves a line. What may hold them together:

    - they are attributes or slices of one thing: `car, road = world.car, world.road`;
    - they are one function of different arguments: `cos1, cos2 = cos(phase1), cos(phase2)`;
    - they replace each other, so that lines in turn would compute something else: `a, b = b, a`.

    One result that is taken apart, `q1, q2 = critic(obs)`, is no tuple.
    """
    (target, *_), value = assignment.targets, assignment.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return False
    wholes = [part.value if isinstance(part, ast.Attribute | ast.Subscript) else None for part in value.elts]
    functions = [part.func if isinstance(part, ast.Call) else None for part in value.elts]
    if any(None not in nodes and len(set(map(ast.dump, nodes))) == 1 for nodes in (wholes, functions)):
        return False
    names = [ast.unparse(part) for part in target.elts]
    return not any(
        name in {ast.unparse(node) for later in value.elts[index + 1 :] for node in ast.walk(later)}
        for index, name in enumerate(names)
    )


def is_puzzle(call: ast.Call) -> bool:
    """Whether a dictionary is zipped of anything but two names: names and values then stand far apart."""
    zips = [part for part in call.args if isinstance(part, ast.Call) and ast.unparse(part.func) == "zip"]
    return ast.unparse(call.func) == "dict" and any(not isinstance(x, ast.Name) for z in zips for x in z.args)


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


@pytest.mark.parametrize("folder", ["", "common", "benchmark"])
def test_every_source_has_a_file_of_tests(folder):
    sources = ROOT / folder if folder == "benchmark" else PACKAGE / folder
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / folder).glob("test_*.py")}
    assert {path.stem for path in sources.glob("*.py")} <= tests | {"__init__"}


@each
def test_scripts_and_helpers_import_helpers_alone(path):
    assert imports(path) <= {f"cleanrl_cc.common.{helper.stem}" for helper in HELPERS}


def test_helpers_import_only_downwards():
    graph = {f"cleanrl_cc.common.{path.stem}": imports(path) for path in HELPERS}
    order = list(TopologicalSorter(graph).static_order())  # a cycle has none, and is named
    assert set(order) == set(graph)
    assert graph["cleanrl_cc.common.errors"] == set()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a, b = x, y", True),
        ("a, b = 0, []", True),
        ("a, b = f(x), g(x)", True),
        ("a, b = x.one, y.other", True),
        ("previous, now = now, measure()", True),
        ("a, b = b, a", False),
        ("a, b = f(x), f(y)", False),
        ("first, others = layers[0], layers[1:]", False),
        ("q1, q2 = critic(obs)", False),
        ("a = x, y", False),
    ],
)
def test_packed_lines_are_told_from_pairs(line, expected):
    assert packed(ast.parse(line).body[0]) == expected


@pytest.mark.parametrize("text, expected", [("dict(zip(a, b))", False), ("dict(zip(a, f(x)))", True)])
def test_zipped_dictionaries_are_of_two_names(text, expected):
    assert is_puzzle(ast.parse(text).body[0].value) == expected


@each
def test_one_line_does_one_thing(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    packs = [ast.unparse(node) for node in nodes if isinstance(node, ast.Assign) and packed(node)]
    puzzles = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call) and is_puzzle(node)]
    assert packs + puzzles == []


@pytest.mark.parametrize("script", ALGORITHMS)
def test_the_update_comes_before_what_serves_it(script):
    rulers = [line[6:-4] for line in lines(script) if line.startswith("# --- ")]
    buffer = "rollout buffer" if script == "ppo_continuous" else "replay buffer"
    assert rulers == ["arguments", "networks", "agent", buffer, "training"]


@pytest.mark.parametrize("script", ALGORITHMS)
def test_scripts_are_short(script):
    assert len(lines(script)) <= 500


@pytest.mark.parametrize("parent, child, most", [("ddpg", "td3", 142), ("dqn_atari_style", "rainbow", 223)])
def test_a_script_differs_from_its_parent_by_its_ideas(parent, child, most):
    command = ["diff", f"{parent}.py", f"{child}.py"]
    diff = subprocess.run(command, cwd=PACKAGE, stdout=subprocess.PIPE, text=True).stdout
    assert 0 < len(re.findall("^[<>]", diff, re.M)) <= most


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_helpers_are_short(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_at_most_110_columns_wide(path):
    wide = [number for number, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > 110]
    assert wide == []


# --- what the scripts share ---


SOURCES = {path.stem: path.read_text() for path in sorted((ROOT / "cleanrl_cc").glob("*.py"))}
SOURCES = {
    name: text
    for name, text in SOURCES.items()
    if "# --- arguments ---" in text and "PRESETS" in text and "class Args" in text
}


def test_every_script_is_tested():
    assert set(ALGORITHMS) == set(SOURCES)


@pytest.mark.parametrize("name", [*SOURCES, "common/arguments"])
def test_every_argument_is_explained(name):
    source = (ROOT / "cleanrl_cc" / f"{name}.py").read_text()
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name in ("Args", "RunArgs")
    )
    if name == "common/arguments":
        del body[0]  # its docstring
    for field, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(text, ast.Expr) and isinstance(text.value.value, str), (
            f"{field.target.id} has no docstring"
        )


@pytest.mark.parametrize("name", SOURCES)
def test_scripts_share_run_fields(name):
    inherited, own = arguments.RunArgs.__annotations__, load_script(name).Args.__annotations__
    assert issubclass(load_script(name).Args, arguments.RunArgs) and not inherited.keys() & own.keys()


OFF_POLICY = ("sac_drq", "td3", "ddpg", "dqn_atari_style", "rainbow")


SHARED = dict.fromkeys(("Encoder", "Agent.random_shift", "ReplayBuffer.size"), OFF_POLICY)
SHARED |= dict.fromkeys(("ReplayBuffer._stacks", "ReplayBuffer._gather"), OFF_POLICY)
SHARED |= dict.fromkeys(("Batch", "ReplayBuffer", "trunk"), OFF_POLICY[:3])
SHARED |= {"ReplayBuffer.arrays": OFF_POLICY[:4]}


def definition(script: str, name: str) -> str:
    """The text of a class, a function, or a `Class.method`."""
    body = ast.parse(SOURCES[script]).body
    for part in name.split("."):
        node = next(node for node in body if getattr(node, "name", None) == part)
        body = node.body
    return ast.get_source_segment(SOURCES[script], node)


@pytest.mark.parametrize("name", SHARED)
def test_what_scripts_share_is_the_same_text(name):
    # What test_buffers.py proves of sac_drq.py's buffer and random shift then holds for td3.py and ddpg.py.
    first, *others = (definition(script, name) for script in SHARED[name])
    assert all(other == first for other in others)


def test_all_scripts_act_count_evaluate_and_checkpoint_alike():
    ends = {re.search(r"\n        # 6\. .*", text, re.DOTALL).group() for text in SOURCES.values()}
    begins = {
        re.search(r"\n    run = run_class.*# 1\. act", text, re.DOTALL).group() for text in SOURCES.values()
    }
    assert len(ends) == len(begins) == 1
    act = "def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:"
    for line in (act, "int(np.sum(~autoreset))", "autoreset = terminations | truncations"):
        assert all(line in text for text in SOURCES.values())
