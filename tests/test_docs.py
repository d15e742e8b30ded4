"""Every command that README and docs show can be typed."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

from cleanrl_cc.evaluate import Options
from cleanrl_cc.runs import parse_args

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)]
    docstrings = [path.read_text().split('"""')[1] for path in sorted(ROOT.glob("cleanrl_cc/*.py"))]
    lines = [line for text in blocks + docstrings for line in text.splitlines()]
    commands = [command.strip() for line in lines for command in line.split("#")[0].split("&&")]
    return sorted({command for command in commands if command.startswith("python ")})


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_parses(command, monkeypatch):
    _, script, *argv = shlex.split(command)
    assert (ROOT / script).is_file()
    if not script.startswith("cleanrl_cc/"):
        return
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if script.endswith("evaluate.py"):
        assert tyro.cli(Options, args=argv).checkpoint
    elif "--help" in argv:
        with pytest.raises(SystemExit) as exit_code:
            parse_args(module.Args, module.PRESETS, argv)
        assert exit_code.value.code == 0
    elif "--resume" in argv:  # the run is the reader's: its own arguments stand in for it
        monkeypatch.setattr("cleanrl_cc.runs.resume_args", lambda cls, path: cls(resume=path, total_timesteps=1))
        assert parse_args(module.Args, module.PRESETS, argv).resume
    else:
        assert parse_args(module.Args, module.PRESETS, argv)


def test_pictures_and_links_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} points to {target}"
