"""A script is copied by the commands of docs/copy_a_file.md and works where this package cannot be imported:
trained, killed, resumed, evaluated and filmed, changed, and called from a notebook."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import (
    ROOT,
    TINY,
    assert_same_training,
    checkpoint,
    command_line,
    input_error,
    parse,
    stop,
    train,
)

from cleanrl_cc.common.scripts import load_script
from cleanrl_cc.evaluate import Options, evaluate, load_policy

ENVS = {
    "CarRacing-v3": {"total_timesteps": 100, "action_repeat": 20},
    "LunarLander-v3": {"total_timesteps": 400},
    "dm_control/cartpole-swingup-v0": {"total_timesteps": 60, "action_repeat": 20, "image_size": 36},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a copied script, where whoever imports `cleanrl_cc` fails."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "cleanrl_cc", folder / "cleanrl_cc", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "copy_a_file.md").read_text()
    commands = re.search(r"```bash\n(.*?)```", page, re.S)[1]
    assert len(commands.splitlines()) == 3 and commands.count("sed") == 1
    assert commands in (ROOT / "README.md").read_text()
    subprocess.run(["bash", "-e", "-c", commands], cwd=folder, check=True)
    shutil.rmtree(folder / "cleanrl_cc")
    (folder / "cleanrl_cc.py").write_text("raise ImportError('this package is not installed')\n")
    return folder


def start(project: Path, *words) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(project)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=project, env=environment, **pipes)


def run(project: Path, *commands: list) -> str:
    """Runs commands one after the other in one process, as each of their own would take seconds of imports;
    returns what they print."""
    code = "import runpy, sys\nfor sys.argv in {}: runpy.run_path(sys.argv[0], run_name='__main__')"
    process = start(project, "-c", code.format([list(map(str, words)) for words in commands]))
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return stdout


@pytest.fixture
def imports_undone(tmp_path_factory):
    """What a test imports from its folders is forgotten after it; libraries stay: some load only once."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


# --- on the command line ---


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ENVS)
def test_a_copy_trains_resumes_after_a_kill_evaluates_and_films(env_id, project, tmp_path, imports_undone):
    folder, changes = tmp_path / "copied", {"env_id": env_id} | ENVS[env_id]
    begin = ["my_sac.py", *command_line("sac_drq", folder, checkpoint_frequency=20, **changes)]
    code, _ = stop(start(project, *begin), signal.SIGKILL, folder / "last.pt")
    assert code == -signal.SIGKILL
    go_on = ["my_sac.py", "--resume", folder, "--capture-video"]
    judge = ["evaluate.py", folder, "--episodes", 1, "--save-video", "--json"]
    printed = run(project, go_on, judge)
    copied = json.loads(printed.splitlines()[-1])
    state = checkpoint(folder)
    assert (state["algorithm"], state["global_step"]) == ("my_sac", changes["total_timesteps"])
    train("sac_drq", tmp_path / "original", **changes)
    assert_same_training(folder, tmp_path / "original")

    assert copied["algorithm"] == "my_sac" and len(list((folder / "videos").iterdir())) == 2
    options = {"checkpoint": str(folder), "episodes": 1, "device": "cpu"}
    message = input_error(evaluate, Options(**options))
    assert "my_sac.py" in message and "--script" in message
    assert evaluate(Options(**options, script=project / "my_sac.py")) == copied


THIRD = "hidden += [linear(hidden_dim, hidden_dim), relu]\n    return nn.Sequential(*hidden, last("
WIDER = "nn.Sequential(nn.Linear(in_dim, args.added_width), nn.Linear(args.added_width, args.hidden_dim))"
LAYERS = {  # what is replaced, by what, and the weight that is new
    "sac_drq": ("return nn.Sequential(*hidden, last(", THIRD, "critic.layers.6.weight"),
    "ppo_continuous": (
        "    return nn.Sequential(*hidden, ",
        "    hidden += [nn.Linear(sizes[-2], sizes[-2]), activation()]\n    return nn.Sequential(*hidden, ",
        "actor.4.weight",
    ),
    "dqn_atari_style": ("nn.Linear(in_dim, args.hidden_dim)", WIDER, "q_network.hidden.1.weight"),
}


@pytest.mark.parametrize("script", LAYERS)
def test_a_copy_with_a_new_field_and_a_new_layer_trains_resumes_and_is_evaluated(
    script, tmp_path, imports_undone
):
    stock, changed, weight = LAYERS[script]
    head = "class Args(RunArgs):\n"
    text = (ROOT / "cleanrl_cc" / f"{script}.py").read_text()
    assert text.count(stock) == text.count(head) == 1
    field = '    # Mine\n    added_width: int = 5\n    """width of my layer"""\n\n'
    (tmp_path / f"my_{script}.py").write_text(text.replace(stock, changed).replace(head, head + field))
    module = load_script(tmp_path / f"my_{script}.py")
    words = command_line(script, tmp_path / "run", total_timesteps=90)
    module.train(module.parse_args(module.Args, module.PRESETS, [*words, "--added-width", "7"]))
    before = checkpoint(tmp_path / "run")["agent"][weight]
    again = ["--resume", str(tmp_path / "run"), "--total-timesteps", "130"]
    module.train(module.parse_args(module.Args, module.PRESETS, again))
    state = checkpoint(tmp_path / "run")
    assert (state["algorithm"], state["args"]["added_width"]) == (f"my_{script}", 7)
    assert not torch.equal(state["agent"][weight], before)
    options = {"checkpoint": str(tmp_path / "run"), "episodes": 1, "device": "cpu"}
    assert evaluate(Options(**options, script=tmp_path / f"my_{script}.py"))["algorithm"] == f"my_{script}"
    policy = load_policy(tmp_path / "run", script=tmp_path / f"my_{script}.py")
    assert not policy.agent.training  # dropout would be random
    assert f"my_{script}.py" in input_error(parse, script, again)  # another script's run


def test_an_optimizer_of_a_copy_keeps_its_own_learning_rate(tmp_path, imports_undone):
    made = '        self.optimizers = {"q": self.q_optimizer, "actor": self.actor_optimizer}\n'
    text = (ROOT / "cleanrl_cc" / "sac_drq.py").read_text()
    assert text.count(made) == 1
    own = "        self.own = nn.Linear(2, 1)\n"
    own += '        self.optimizers["own"] = Adam(self.own.parameters(), 1e-5)\n'
    own += '        self.optimizers["torch"] = torch.optim.SGD(self.own.parameters(), 1e-6)\n'
    (tmp_path / "my_sac.py").write_text(text.replace(made, made + own))
    module = load_script(tmp_path / "my_sac.py")
    words = command_line("sac_drq", tmp_path / "run", total_timesteps=90, learning_rate=0.5e-3)
    module.train(module.parse_args(module.Args, module.PRESETS, words))
    states = checkpoint(tmp_path / "run")["optimizers"]
    rates = {name: state["param_groups"][0]["lr"] for name, state in states.items()}
    assert rates == {"q": 0.5e-3, "actor": 0.5e-3, "own": 1e-5, "torch": 1e-6}


@pytest.mark.parametrize("own", ["self.own = 1.0", 'self.register_buffer("own", torch.tensor(1.0))'])
def test_a_copy_is_told_what_it_would_forget(own, tmp_path, capsys, imports_undone):
    made = "self.num_updates = 0"
    learned = "        buffer.num_added = 0\n"
    text = (ROOT / "cleanrl_cc" / "ppo_continuous.py").read_text()
    assert text.count(made) == 1
    text = text.replace(made, f"{made}\n        {own}")
    text = text.replace(learned, f"{learned}        self.own *= 1.5\n", 1)
    (tmp_path / "my_ppo.py").write_text(text)
    module = load_script(tmp_path / "my_ppo.py")
    words = command_line("ppo_continuous", tmp_path / "run", total_timesteps=90)
    module.train(module.parse_args(module.Args, module.PRESETS, words))
    assert ("Agent.own has changed" in capsys.readouterr().err) == (own == "self.own = 1.0")


# --- in a notebook ---


@pytest.fixture
def notebook(monkeypatch):
    """Runs cells in a Jupyter kernel of their own; returns what the last one printed and shows."""
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    def execute(folder: Path, python_path: Path, *cells: str) -> str:
        monkeypatch.setenv("PYTHONPATH", str(python_path), prepend=os.pathsep)
        manager, client = start_new_kernel(cwd=str(folder))
        try:
            shown = []
            for cell in cells:
                shown.clear()
                reply = client.execute_interactive(cell, timeout=200, output_hook=shown.append)
                assert reply["content"]["status"] == "ok", shown
            return "".join(str(message["content"]) for message in shown)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    return execute


SHORT = {name: TINY[name] for name in ("batch_size", "learning_starts", "eval_episodes", "num_threads")}
SHORT |= {"total_timesteps": 60, "device": "cpu"}
INTERRUPT = "import os, signal, threading; threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()"


@pytest.mark.slow
def test_a_copy_is_called_from_a_notebook(project, notebook):
    own = f"""
from dataclasses import dataclass

@dataclass
class Mine(Args):
    added: int = 3

args = parse_args(Mine, PRESETS)  # the words of the kernel are not the user's
train(Mine(env_id="Pendulum-v1", run_name="mine", **{SHORT}))
train(parse_args(Mine, PRESETS, ["--resume", "runs/mine", "--total-timesteps", "80", "--added", "3"]))
"""
    stopped = f"""{INTERRUPT}
try:
    train(Args(env_id="Pendulum-v1", run_name="stopped", total_timesteps=10**6))
except SystemExit as stopped:
    print("stopped by", stopped)"""
    shown = notebook(
        project,
        project,
        "from my_sac import Agent, Args, PRESETS, train\nfrom common.arguments import parse_args",
        f"train(Args(env_id='LunarLander-v3', num_envs=2, run_name='parallel', **{SHORT}))",
        own,
        "from evaluate import load_policy\nassert isinstance(load_policy('runs/parallel').agent, Agent)",
        stopped,
    )
    assert "stopped by 130" in shown and "python my_sac.py --resume runs/stopped" in shown
    assert checkpoint(project / "runs" / "parallel")["algorithm"] == "my_sac"
    assert checkpoint(project / "runs" / "mine")["args"]["added"] == 3
    description = json.loads((project / "runs" / "mine" / "args.json").read_text())
    assert description["commands"] == ["train(args), in a notebook"] * 2


@pytest.mark.slow
def test_the_package_is_called_from_a_notebook(tmp_path, notebook):
    source = (ROOT / "cleanrl_cc" / "td3.py").read_text().rpartition("if __name__")[0]
    shown = notebook(
        tmp_path,
        ROOT,
        source,  # a whole file in a cell
        "parse_args(Args, PRESETS)",
        f"train(Args(env_id='Pendulum-v1', run_name='pasted', **{SHORT}))",
        "from cleanrl_cc.sac_drq import Args, train",
        f"train(Args(env_id='Pendulum-v1', run_name='run', **{SHORT}))",
        "from cleanrl_cc import load_policy\nload_policy('runs/run').source",
    )
    assert "sac_drq" in shown
    assert checkpoint(tmp_path / "runs" / "pasted")["algorithm"] == "notebook"
