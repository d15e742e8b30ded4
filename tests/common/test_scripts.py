"""A script is found by its file, and what started a run can be typed again."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, checkpoint, command_line, input_error, train

from cleanrl_cc.common.arguments import RunArgs
from cleanrl_cc.common.checkpoints import save_checkpoint
from cleanrl_cc.common.scripts import load_script, resume_command, script_name, typed_words
from cleanrl_cc.evaluate import Options, evaluate
from cleanrl_cc.td3 import Args


@pytest.fixture
def notebook(monkeypatch):
    """A program without a file, started with words of its own."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr(sys, "argv", ["/lib/ipykernel_launcher.py", "-f", "kernel.json"])


@dataclass
class InACell(Args):
    __module__ = "__main__"


@dataclass
class PastedInACell(RunArgs):
    __module__ = "__main__"


def test_a_script_is_called_after_its_file(notebook):
    assert [script_name(cls) for cls in (Args, InACell, PastedInACell)] == ["td3", "td3", "notebook"]


def test_the_words_of_a_kernel_are_not_the_user_s(notebook):
    assert typed_words() == []


@pytest.mark.parametrize(
    "typed, folder, command",
    [
        ("cleanrl_cc/td3.py", ROOT, "python cleanrl_cc/td3.py --resume 'my runs'"),
        ("experiment.py", ROOT, "python cleanrl_cc/td3.py --resume 'my runs'"),
        ("td3.py", ROOT / "cleanrl_cc", "python td3.py --resume 'my runs'"),
        ("experiment.py", ROOT / "tests", f"python {ROOT}/cleanrl_cc/td3.py --resume 'my runs'"),
    ],
)
def test_what_resumes_a_run_starts_its_script_and_no_other_program(typed, folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [typed, "--seed", "1"])
    assert resume_command(Args, ["--resume", "my runs"]) == command


def test_a_module_is_started_again_as_one(tmp_path):
    words = command_line("td3", tmp_path / "run", total_timesteps=60)
    command = [sys.executable, "-m", "cleanrl_cc.td3", *words]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=True)
    (told,) = json.loads((tmp_path / "run" / "args.json").read_text())["commands"]
    assert told == f"python -m cleanrl_cc.td3 {shlex.join(words)}"


def test_a_run_of_a_notebook_is_resumed_in_it(notebook):
    call = "train(parse_args(Args, PRESETS, ['--resume', 'runs/a']))"
    assert resume_command(PastedInACell, ["--resume", "runs/a"]) == call


def test_our_scripts_are_found_where_they_are():
    assert load_script(ROOT / "cleanrl_cc" / "td3.py").Args is Args


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("missing.py", None, ["There is no script"]),
        ("broken.py", "def f(:\n", ["cannot be imported", "SyntaxError"]),
        ("unfinished.py", "import no_such_library\n", ["cannot be imported", "no_such_library"]),
        ("empty.py", "Args = 1\n", ["is not a script of this kind", "Agent"]),
        ("json.py", "Args = Agent = 1\n", ["name of a module that is in use", "rename it"]),
    ],
)
def test_what_is_no_script_is_told(name, text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    if text is not None:
        (tmp_path / name).write_text(text)
    message = input_error(load_script, tmp_path / name)
    assert name in message and all(word in message for word in words), message


@pytest.mark.parametrize("algorithm", ["my_td3", "../tests/odd_envs", "evaluate", "common"])
def test_what_a_checkpoint_calls_its_script_is_not_imported_unless_it_is_one(algorithm, tmp_path):
    train("td3", tmp_path / "run", total_timesteps=60)
    file = tmp_path / "run" / "last.pt"
    save_checkpoint(file, checkpoint(tmp_path / "run") | {"algorithm": algorithm})
    before = set(sys.modules)
    message = input_error(evaluate, Options(checkpoint=str(file), episodes=1))
    assert f"{algorithm}.py" in message and "--script" in message
    assert Path(algorithm).name not in sys.modules.keys() - before
