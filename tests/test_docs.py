"""Every command that README and docs show can be typed, every page is
reachable, and every number has its file."""

import importlib
import itertools
import json
import re
import runpy
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import tyro
from helpers import ROOT, load_benchmark, needs_results
from mkdocs.exceptions import PluginError

from cleanrl_cc.common.arguments import parse_args
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Options

COPIES = {"my_sac.py": "cleanrl_cc/sac_drq.py", "evaluate.py": "cleanrl_cc/evaluate.py"}  # copy_a_file.md
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)]
    docstrings = [path.read_text().split('"""')[1] for path in sorted(ROOT.glob("cleanrl_cc/**/*.py"))]
    lines = [line for text in blocks + docstrings for line in text.splitlines()]
    commands = [command.strip() for line in lines for command in line.split("#")[0].split("&&")]
    commands = [re.sub(r"^torchrun( --\S+ \S+)* ", "python ", command) for command in commands]
    return sorted({command for command in commands if command.startswith("python ")})


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_parses(command, monkeypatch):
    _, script, *argv = shlex.split(command)
    script = COPIES.get(script, script)
    assert (ROOT / script).is_file()
    if not script.startswith("cleanrl_cc/"):
        module = load_benchmark(Path(script).stem)
        if script.endswith("peer_curve.py"):
            assert module.read(argv)
            return
        own = argv[: argv.index("--")] if "--" in argv else argv  # sweep.py hands the others to a script
        assert not hasattr(module, "Options") or "-h" in argv or tyro.cli(module.Options, args=own)
        return
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if script.endswith("evaluate.py"):
        assert tyro.cli(Options, args=argv).checkpoint
    elif "--help" in argv:
        with pytest.raises(SystemExit) as exit_code:
            parse_args(module.Args, module.PRESETS, argv)
        assert exit_code.value.code == 0
    elif "--resume" in argv:  # the run is the reader's: its own arguments stand in for it
        typed = dict(pairwise(argv))
        saved = {"total_timesteps": 1, "env_id": typed.get("--env-id", "CarRacing-v3")}
        saved["training_wrappers"] = (typed["--training-wrappers"],) if "--training-wrappers" in typed else ()
        monkeypatch.setattr(
            "cleanrl_cc.common.arguments.resume_args", lambda cls, path: cls(resume=path, **saved)
        )
        assert parse_args(module.Args, module.PRESETS, argv).resume
    else:
        monkeypatch.setattr("cleanrl_cc.common.arguments.read_config", lambda path, cls: [])  # the reader's
        assert parse_args(module.Args, module.PRESETS, argv)


@needs_results
def test_pictures_and_links_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_page_of_the_site_is_in_its_menu():
    menu = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(menu) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not list(tmp_path.rglob("*.py"))
    for page in tmp_path.rglob("*.html"):
        assert "language-cut" not in page.read_text(), f"{page} shows a fence instead of what it names"
        assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?)', page.read_text()), (
            f"{page} loads from another site"
        )


def test_pages_show_code_and_tables_as_they_are_in_their_files():
    cut = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["cut"]
    assert "\ndef update_targets(self):\n" in cut("cleanrl_cc/td3.py", "Agent.update_targets")
    assert "\n| PPO |" in cut("docs/benchmarks.md", "LunarLander-v3 from state")
    for file, name in (
        ("cleanrl_cc/td3.py", "Agent.gone"),
        ("cleanrl_cc/gone.py", "Agent"),
        ("docs/benchmarks.md", "Gone-v0"),
    ):
        with pytest.raises(PluginError, match=f"{name}.*{file}"):
            cut(file, name)


@needs_results
def test_returns_on_the_pages_are_those_of_the_results():
    measured = [row for path in ROOT.glob("benchmark/results/**/evaluations.csv") for row in read_csv(path)]
    measured += [json.loads(path.read_text()) for path in ROOT.glob("benchmark/results/**/episodes-*.json")]
    measured += read_csv(ROOT / "benchmark/results/baseline.csv")
    for page in PAGES:
        for claim in re.findall(r"(-?[\d,.]*\d)\** \+- ([\d,.]*\d)", page.read_text()):
            assert any(
                is_rounded(claim[0], row["return_mean"]) and is_rounded(claim[1], row["return_std"])
                for row in measured
            ), (
                page,
                claim,
            )


def is_rounded(claim: str, value) -> bool:
    claim = claim.replace(",", "")
    return round(float(value), len(claim.partition(".")[2])) == float(claim)


# in a table with a column `mean return`: what else is known of the same episodes, and in what unit
BESIDE = {
    "median": ("return_median", 1),
    "worst episode": ("return_min", 1),
    "laps finished": ("lap_finished_mean", 100),
    "tiles missed": ("tiles_missed_mean", 1),
}


def claims(row: dict[str, str]) -> dict[str, tuple[str, int]]:
    """What a line of a table says of the episodes, by the names in their file, with the units."""
    score = re.fullmatch(r"(\S+?)\** \+- (\S+)", row.get("mean return", ""))
    if not score:
        return {}
    told = {"return_mean": (score[1], 1), "return_std": (score[2], 1)}
    for name, (key, unit) in BESIDE.items():
        if row.get(name):
            told[key] = row[name].removesuffix(" %"), unit
    return told


def is_told(text: str, unit: int, value) -> bool:
    return value not in (None, "") and is_rounded(text, unit * float(value))


@needs_results
def test_what_stands_beside_a_return_is_of_the_same_episodes():
    files = [json.loads(path.read_text()) for path in ROOT.glob("benchmark/results/**/episodes-*.json")]
    files += [row for path in ROOT.glob("benchmark/results/**/evaluations.csv") for row in read_csv(path)]
    compared = 0
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.M):
            lines = [line.strip("|").split("|") for line in table.splitlines()]
            head, _, *rows = [[word.strip(" *") for word in line] for line in lines]
            for words in rows:
                told = claims(dict(zip(head, words, strict=True)))
                compared += len(told) > 2
                assert any(
                    all(is_told(text, unit, file.get(key)) for key, (text, unit) in told.items())
                    for file in files
                ), (page.name, words)
    assert compared > 30


def medians_on(maker: str) -> dict[tuple[str, str], float]:
    """Steps per second by task and contender, on the processor of one maker."""
    rows = read_csv(ROOT / "benchmark/results/speed.csv")
    own = [row for row in rows if row["processor"].startswith(maker)]
    return {(row["task"], row["contender"]): float(row["median"]) for row in own}


@needs_results
def test_speeds_on_the_pages_are_those_of_the_results():
    tasks = {"PPO, normalised": "ppo-normalize"}
    ours = ("cleanrl_cc", "cleanrl_cc-compile", "cleanrl_cc-bf16", "cleanrl_cc-bf16-compile")
    _, *sections = re.split(r"^### On an (Intel|AMD)", (ROOT / "docs/speed.md").read_text(), flags=re.M)
    for maker, section in zip(sections[::2], sections[1::2], strict=True):
        medians = medians_on(maker)
        states, _, pixels = section.partition("From CarRacing's pixels")
        compared = 0
        for part, kind, peers in ((states, "", ("sb3", "sbx")), (pixels, "-pixels", ("sb3", "cleanrl"))):
            for name, cells in re.findall(r"^\| (\w[^|]*) \|((?: (?:[\d.]+|-) \|){6})$", part, re.M):
                task = tasks.get(name, name.lower()) + kind
                for claim, contender in zip(cells.strip("| ").split(" | "), (*ours, *peers), strict=True):
                    measured = medians.get((task, contender))
                    assert claim == "-" if measured is None else is_rounded(claim, measured), (
                        task,
                        contender,
                    )
                compared += 1
        assert compared >= 4

    medians = medians_on("AMD")
    table = re.findall(r"^\| (\w+) \|((?: [\d.]+ \|){4})$", (ROOT / "README.md").read_text(), re.M)
    assert len(table) >= 4
    for name, cells in table:
        pairs = itertools.product(ours[:2], ("sb3", "sbx"))
        for claim, (contender, peer) in zip(cells.strip("| ").split(" | "), pairs, strict=True):
            ratio = medians[name.lower(), contender] / medians[name.lower(), peer]
            assert is_rounded(claim, ratio), (name, contender, peer)


@needs_results
def test_speeds_of_environments_on_the_pages_are_those_of_the_results():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/speed.md"))
    rows = read_csv(ROOT / "benchmark/results/car_racing_speed.csv")
    ratios = {row["contender"]: row["ratio"] for row in rows}
    for text in (readme, page):
        claims = re.findall(r"steps ([\d.]+) times as fast as Gymnasium's[^.]*, and (\d+) times", text)
        assert len(claims) == 1
        for claim, name in zip(claims[0], ("ours, every frame", "ours, one frame in four"), strict=True):
            assert is_rounded(claim, ratios[name]), claim

    rows = read_csv(ROOT / "benchmark/results/many_envs.csv")
    speeds = {(row["env_id"], row["num_envs"]): row for row in rows}
    cars = [speeds["CarRacing-v3", number] for number in ("64", "1")]
    gains = [float(cars[0][name]) / float(cars[1][name]) for name in ("environments_alone", "ppo")]
    ppo = [float(row["ppo"]) for row in rows if row["env_id"] == "HalfCheetah-v5"]
    words = r"64 CarRacings step (\S+) times as fast as one, .* PPO trains (\S+) times as fast on them"
    first, second = re.findall(words, page)[0]
    begin, most = re.findall(r"PPO goes from ([\d,]+) to at most ([\d,]+) steps", page)[0]
    for claim, value in ((first, gains[0]), (second, gains[1]), (begin, ppo[0]), (most, max(ppo))):
        assert is_rounded(claim, value), claim


def test_every_deviation_of_a_script_is_on_its_page():
    for page in PAGES:
        script = ROOT / "cleanrl_cc" / f"{page.stem}.py"
        if script.exists() and "PRESETS" in script.read_text():
            listed = script.read_text().split('"""')[1].split("Differs from the paper:")[1].count("\n- ")
            explained = (
                re.split(r"\n#+ .*[Dd]iffer.* from the paper", page.read_text())[1]
                .split("\n#")[0]
                .count("\n- ")
            )
            assert 1 <= listed <= explained, page.name
