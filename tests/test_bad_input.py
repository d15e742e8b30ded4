"""A wrong input ends in one clear sentence and a non-zero exit code, leaves no run
folder behind and loses nothing on disk."""

import errno
import io
import json
import math
import pickle
import shutil
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers import (
    SCRIPTS,
    Fork,
    checkpoint,
    command_line,
    contents,
    flags,
    having,
    input_error,
    parse,
    resume,
    train,
)

from cleanrl_cc.common.arguments import RunArgs
from cleanrl_cc.common.memory import free_memory

pytestmark = pytest.mark.slow

WRONG = {
    "unknown environment": ({"env_id": "Pendulm-v1"}, ["Pendulm-v1", "did you mean", "Pendulum-v1"]),
    "unknown namespace": ({"env_id": "nowhere/Pendulum-v1"}, ["nowhere/Pendulum-v1"]),
    "unknown module": ({"env_id": "nowhere:Pendulum-v1"}, ["nowhere"]),
    "unknown dm_control task": ({"env_id": "dm_control/walker-wlk-v0"}, ["dm_control/walker-walk-v0"]),
    "Dict actions": ({"env_id": "DictActions-v0"}, ["DictActions-v0", "Dict action space"]),
    "Tuple actions": ({"env_id": "TupleActions-v0"}, ["TupleActions-v0", "Tuple action space"]),
    "five actions of Pendulum": ({"action_set": "five"}, ["--action-set five", "auto or native"]),
    "a gentle Pendulum": ({"action_set": "gentle"}, ["--action-set gentle", "auto or native"]),
    "videos of what cannot be drawn": (
        {"env_id": "Undrawable-v0", "capture_video": True},
        ["Undrawable-v0", "drawn"],
    ),
    "pixels of what cannot be drawn": (
        {"env_id": "Undrawable-v0", "obs": "pixels"},
        ["Undrawable-v0", "drawn"],
    ),
    "no steps": ({"total_timesteps": 0}, ["--total-timesteps", "at least 1", "0"]),
    "no environments": ({"num_envs": 0}, ["--num-envs", "at least 1"]),
    "no action repeat": ({"action_repeat": 0}, ["--action-repeat"]),
    "no frames": ({"frame_stack": 0}, ["--frame-stack"]),
    "no evaluation episodes": ({"eval_episodes": 0}, ["--eval-episodes"]),
    "negative evaluation frequency": ({"eval_frequency": -1}, ["--eval-frequency", "at least 0"]),
    "negative checkpoint frequency": ({"checkpoint_frequency": -1}, ["--checkpoint-frequency"]),
    "negative seed": ({"seed": -1}, ["--seed"]),
    "no threads": ({"num_threads": 0}, ["--num-threads", "at least 1"]),
    "empty batches": ({"batch_size": 0}, ["--batch-size", "at least 1"]),
    "empty buffer": ({"buffer_size": 0}, ["--buffer-size"]),
    "buffer without room for a window": ({"buffer_size": 3, "num_envs": 2}, ["--buffer-size", "window"]),
    "buffer larger than the memory": ({"buffer_size": 10**13}, ["--buffer-size", "GB", "largest that fits"]),
    "negative n": ({"n_step": 0}, ["--n-step", "at least 1"]),
    "gamma above 1": ({"gamma": 1.01}, ["--gamma", "at most 1", "1.01"]),
    "negative gamma": ({"gamma": -0.1}, ["--gamma"]),
    "tau above 1": ({"tau": 2.0}, ["--tau"]),
    "negative learning starts": ({"learning_starts": -1}, ["--learning-starts"]),
    "negative updates per step": ({"updates_per_step": -0.5}, ["--updates-per-step"]),
    "learning rate that is no number": ({"learning_rate": "nan"}, ["--learning-rate"]),
    "initial temperature of 0": ({"initial_alpha": 0.0}, ["--initial-alpha"]),
    "reward scale of 0": ({"reward_scale": 0.0}, ["--reward-scale"]),
    "rollout of no steps": ({"num_steps": 0}, ["--num-steps", "at least 1"]),
    "no epochs": ({"num_epochs": 0}, ["--num-epochs", "at least 1"]),
    "minibatches too small to normalise": (
        {"num_steps": 8, "num_minibatches": 3},
        ["--num-minibatches", "at most 2"],
    ),
    "lambda above 1": ({"gae_lambda": 1.5}, ["--gae-lambda", "at most 1"]),
    "clipping everything": ({"clip_coef": 0.0}, ["--clip-coef", "above 0"]),
    "values that may not move": ({"clip_value": 0.0}, ["--clip-value", "above 0"]),
    "a policy that may not move": ({"target_kl": -0.1}, ["--target-kl", "above 0"]),
    "negative entropy bonus": ({"ent_coef": -0.1}, ["--ent-coef", "at least 0"]),
    "negative value loss": ({"vf_coef": -0.1}, ["--vf-coef", "at least 0"]),
    "no gradient": ({"max_grad_norm": 0.0}, ["--max-grad-norm", "above 0"]),
    "negative shift": ({"shift_pad": -1}, ["--shift-pad"]),
    "update of the actor never": ({"policy_frequency": 0}, ["--policy-frequency", "at least 1"]),
    "negative target noise": ({"policy_noise": -0.1}, ["--policy-noise"]),
    "negative noise clip": ({"noise_clip": -0.1}, ["--noise-clip"]),
    "negative exploration": ({"exploration_noise": -0.1}, ["--exploration-noise"]),
    "negative exploration at the end": ({"final_exploration_noise": -0.1}, ["--final-exploration-noise"]),
    "one bin": ({"bins": 1}, ["--bins", "at least 2", "1"]),
    "endless updates": ({"updates_per_step": math.inf}, ["--updates-per-step", "finite"]),
    "a support without end": ({"v_max": math.inf}, ["--v-max", "finite"]),
    "a seed too large for NumPy": ({"seed": 2**32}, ["--seed", "4_294_967_295", "4294967296"]),
    "a stack too high": ({"env_id": "CarRacing-v3", "frame_stack": 300}, ["--frame-stack", "300", "255"]),
    "no updates between targets": (
        {"target_update_frequency": 0},
        ["--target-update-frequency", "at least 1"],
    ),
    "more than all actions random": ({"epsilon_end": 1.5}, ["--epsilon-end", "at most 1"]),
    "random actions that take no steps": ({"epsilon_steps": 0}, ["--epsilon-steps", "at least 1"]),
    "one atom": ({"num_atoms": 1}, ["--num-atoms", "at least 2"]),
    "support without width": ({"v_min": 2.0, "v_max": 2.0}, ["--v-max", "--v-min", "2.0"]),
    "support upside down": ({"v_min": 1.0, "v_max": -1.0}, ["--v-max", "--v-min", "1.0", "-1.0"]),
    "exponent that takes no steps": ({"beta_steps": 0}, ["--beta-steps", "at least 1"]),
    "exploration over before it starts": ({"exploration_steps": 0}, ["--exploration-steps", "at least 1"]),
    "absent GPU": ({"device": "cuda:7"}, ["--device cuda:7", "cpu"]),
    "unknown device": ({"device": "nonsense"}, ["--device nonsense", "cpu"]),
    "device without data": ({"device": "meta"}, ["--device meta", "cpu"]),
    "image too small to convolve": ({"env_id": "CarRacing-v3", "image_size": 20}, ["--image-size", "20"]),
}
DISCRETE = {
    "discrete actions": ({"env_id": "CartPole-v1"}, ["CartPole-v1", "discrete", "dqn_atari_style"]),
    "five actions": (
        {"env_id": "CarRacing-v3", "action_set": "five"},
        ["CarRacing-v3", "discrete", "dqn_atari_style"],
    ),
}
WRONG_OF = {
    "sac_drq": DISCRETE,
    "td3": DISCRETE,
    "ddpg": DISCRETE
    | {"batch of one to normalise": ({"batch_norm": True, "batch_size": 1}, ["--batch-size", "at least 2"])},
    "ppo_continuous": DISCRETE,
}
SHARED_NUMBERS = {f.name for f in fields(RunArgs)} - {"env_id", "obs", "device"}
CASES = [
    pytest.param(script, *case, id=f"{name}-{script}")
    for script in SCRIPTS
    for name, case in (WRONG | WRONG_OF.get(script, {})).items()
    if all(script in having(field) for field in case[0])
    # a number that all scripts share is refused by one line
    and (script == SCRIPTS[0] or not SHARED_NUMBERS.issuperset(case[0]))
]


@pytest.mark.parametrize("script, changes, words", CASES)
def test_a_wrong_argument(script, changes, words, tmp_path):
    message = input_error(train, script, tmp_path / "runs" / "run", **changes)
    assert all(word in message for word in words), message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("changes", [{"obs": "smell"}, {"total_timesteps": "many"}, {"no_such_flag": 1}])
def test_a_word_that_cannot_be_parsed_names_its_flag(script, changes, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(script, command_line(script, tmp_path / "run", **changes))
    assert caught.value.code == 2
    assert flags(changes)[0] in capsys.readouterr().err


@pytest.mark.parametrize("component", ["triple", "n_step"])
def test_an_unknown_component_is_named(component, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("rainbow", command_line("rainbow", tmp_path / "run", components=("double", component)))
    assert caught.value.code == 2
    assert "--components" in capsys.readouterr().err


# Of Pendulum: observation, action, reward, flags and age; what an update of PPO
# holds of a step, and its shuffled copy.
@pytest.mark.parametrize(
    ("script", "name", "row_bytes"),
    [
        ("sac_drq", "buffer_size", 4 * 3 + 4 * 1 + 8),
        ("ppo_continuous", "num_steps", 2 * (4 * 3 + 4 * 1 + 15)),
    ],
)
def test_the_largest_buffer_named_fits(script, name, row_bytes, tmp_path):
    message = input_error(train, script, tmp_path / "runs" / "run", **{name: 10**13})
    assert flags({name: 0})[0] in message
    largest = int(message.rstrip(".").split()[-1])
    assert 0.5 * free_memory() < largest * row_bytes < free_memory()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_where_the_runs_folder_should_be(script, tmp_path):
    (tmp_path / "runs").write_text("mine")
    message = input_error(train, script, tmp_path / "runs" / "run")
    assert "--runs-dir" in message
    assert (tmp_path / "runs").read_text() == "mine"


# --- resume ---


# with replay, rollouts and priorities
@pytest.fixture(scope="module", params=["sac_drq", "ppo_continuous", "rainbow"])
def finished(request, tmp_path_factory):
    """A script and the folder of its finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(request.param, folder, total_timesteps=80)
    return request.param, folder


@pytest.fixture
def run(finished, tmp_path):
    """The same, in a copy that a test may spoil."""
    shutil.copytree(finished[1], tmp_path / "run")
    return finished[0], tmp_path / "run"


def rewrite(folder: Path, **changes):
    torch.save(checkpoint(folder) | changes, folder / "last.pt")


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def pickled(folder: Path):
    (folder / "last.pt").write_bytes(pickle.dumps(Payload(folder.parent / "executed")))


def pickled_by_torch(folder: Path):
    torch.save({"algorithm": "sac_drq", "agent": Payload(folder.parent / "executed")}, folder / "last.pt")


def truncated(folder: Path):
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:5000])


def truncated_replay(folder: Path):
    path = next(folder.glob("replay-*.npz"))
    path.write_bytes(path.read_bytes()[:-500])


def replay_of_objects(folder: Path):
    path = next(folder.glob("replay-*.npz"))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("num_added.npy", pickle.dumps(Payload(folder.parent / "executed")))


def without(*keys):
    return lambda folder: torch.save(
        {k: v for k, v in checkpoint(folder).items() if k not in keys}, folder / "last.pt"
    )


def with_args(**changes):
    return lambda folder: rewrite(folder, args=checkpoint(folder)["args"] | changes)


def other_shape(folder: Path):
    rewrite(folder, agent={name: tensor[..., None] for name, tensor in checkpoint(folder)["agent"].items()})


def one_optimizer_more(folder: Path):
    rewrite(folder, optimizers=checkpoint(folder)["optimizers"] | {"another": {}})


def with_changed(offered: dict[str, dict]):
    """Changes the arguments of the first key that the script has."""

    def damage(folder: Path):
        args = checkpoint(folder)["args"]
        rewrite(folder, args=args | next(changes for field, changes in offered.items() if field in args))

    return damage


# What was done to the run folder, and a word of the message.
DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no checkpoint"),
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "no checkpoint"),
    "truncated": (truncated, "damaged"),
    "empty file": (lambda folder: (folder / "last.pt").write_bytes(b""), "damaged"),
    "random bytes": (lambda folder: (folder / "last.pt").write_bytes(bytes(range(256)) * 20), "damaged"),
    "a list": (lambda folder: torch.save([1, 2], folder / "last.pt"), "damaged"),
    "a pickle that runs code": (pickled, "damaged"),
    "a checkpoint that runs code": (pickled_by_torch, "damaged"),
    "another algorithm": (lambda folder: rewrite(folder, algorithm="another"), "another.py"),
    "unknown argument": (with_args(no_such_field=1), "no_such_field"),
    "impossible argument": (with_args(total_timesteps=-1), "--total-timesteps"),
    "argument of another type": (with_args(gamma="high"), "--gamma"),
    "argument that may be missing, of another type": (with_args(num_threads="two"), "--num-threads"),
    "number that is true": (with_args(hidden_dim=True), "--hidden-dim"),
    "choice that is none": (with_args(precision="int8"), "--precision"),
    "environment without a name": (with_args(env_id=5), "--env-id"),
    "args are no dictionary": (lambda folder: rewrite(folder, args=[1]), "does not fit"),
    "weights of another shape": (other_shape, "size mismatch for "),
    "no weights": (lambda folder: rewrite(folder, agent={}), "Missing key(s) in state_dict: "),
    "an optimizer more": (one_optimizer_more, ", another, and the script has "),
    "no optimizers": (lambda folder: rewrite(folder, optimizers={}), "it holds the optimizers none, and"),
    "no args": (without("args"), "args"),
    "no metrics": (without("metrics"), "metrics"),
    "no random generators": (without("random"), "random"),
    "no best return": (without("best_return"), "best_return"),
    "no environments": (lambda folder: rewrite(folder, envs=[]), "cannot be resumed"),
    "number of updates that is none": (
        lambda folder: rewrite(folder, num_updates="many"),
        "cannot be resumed",
    ),
}
SHORTER = {"buffer_size": {"buffer_size": 60}, "num_steps": {"num_steps": 10, "num_minibatches": 1}}
REPLAY_DAMAGES = {
    "no replay file": (lambda folder: next(folder.glob("replay-*.npz")).unlink(), "cannot be resumed"),
    "truncated replay": (truncated_replay, "cannot be resumed"),
    "replay that runs code": (replay_of_objects, "cannot be resumed"),
    "replay of another length": (with_changed(SHORTER), "cannot be resumed"),
    "negative count": (
        with_changed({"batch_size": {"batch_size": -1}, "num_epochs": {"num_epochs": -1}}),
        "at least 1",
    ),
}


@pytest.mark.parametrize(
    "damage, word", [pytest.param(*case, id=name) for name, case in (DAMAGES | REPLAY_DAMAGES).items()]
)
def test_a_checkpoint_that_cannot_be_resumed(damage, word, run):
    script, folder = run
    damage(folder)
    before = contents(folder)
    message = input_error(resume, script, folder)
    assert word in message
    after = contents(folder)
    assert {name: data for name, data in after.items() if name in before and name != "args.json"} == {
        name: data for name, data in before.items() if name != "args.json"
    }
    assert not (folder.parent / "executed").exists()


@pytest.fixture
def own(tmp_path):
    """A run of TD3 that a test may spoil."""
    train("td3", tmp_path / "run", total_timesteps=80)
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["args.json.tmp", "replay-120.npz.tmp", "last.pt.tmp"])
def test_a_folder_in_the_place_of_a_file_that_is_written_is_told(name, own):
    (own / name).mkdir()
    before = {file: (own / file).read_bytes() for file in ("last.pt", "replay-80.npz")}
    assert f"{name}'" in input_error(resume, "td3", own, total_timesteps=120)
    assert {file: (own / file).read_bytes() for file in before} == before
    assert (own / name).is_dir()


def test_a_folder_with_the_name_of_a_replay_file_stays(own):
    (own / "replay-7.npz").mkdir()
    resume("td3", own, total_timesteps=120)
    assert (own / "replay-7.npz").is_dir() and (own / "replay-120.npz").exists()
    assert not (own / "replay-80.npz").exists()


@pytest.mark.parametrize("text", ["", "[1]", '{"commands": ["mine", '])
def test_a_damaged_description_is_set_aside(text, own, capsys):
    (own / "args.json").write_text(text)
    resume("td3", own, total_timesteps=120)
    assert (own / "args.json.damaged-1").read_text() == text
    assert "args.json is damaged" in capsys.readouterr().err
    assert json.loads((own / "args.json").read_text())["args"]["total_timesteps"] == 120


@pytest.fixture
def refused(monkeypatch):
    """Makes `open` fail as it does for those who lack the right, which root never does."""
    opened = io.open

    def refuse(path: Path, mode: str):
        def open_or_refuse(file, asked="r", *args, **kwargs):
            if str(file) == str(path) and mode in asked:
                raise PermissionError(errno.EACCES, "Permission denied", str(file))
            return opened(file, asked, *args, **kwargs)

        monkeypatch.setattr(io, "open", open_or_refuse)
        monkeypatch.setattr("builtins.open", open_or_refuse)

    return refuse


@pytest.mark.parametrize("name", ["last.pt", "args.json", "evaluations.csv"])
def test_a_file_that_cannot_be_read_is_not_replaced(name, own, refused):
    before = {file.name: file.read_bytes() for file in own.iterdir() if file.name != "run.lock"}
    refused(own / name, "r")
    assert f"{name} cannot be read (Permission denied)" in input_error(
        resume, "td3", own, total_timesteps=120
    )
    refused(own / "none", "r")
    assert {name: (own / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", ["evaluations.csv", "progress.csv"])
def test_a_log_that_cannot_be_written_is_told_at_the_start(name, own, refused):
    refused(own / name, "a")
    before = checkpoint(own)["global_step"]
    message = input_error(resume, "td3", own, total_timesteps=120, checkpoint_frequency=10)
    assert f"{name} could not be written" in message and "make it writable" in message
    assert checkpoint(own)["global_step"] == before


def test_a_policy_without_its_training_is_not_resumed(run):
    script, folder = run
    (folder / "last.pt").unlink()
    before = contents(folder)
    assert "last.pt" in input_error(resume, script, folder / "best.pt")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"env_id": "Hopper-v5"},
        {"total_timesteps": 79},
        {"learning_rate": 0.1},
        {"run_name": "new"},
    ],
)
def test_a_resumed_run_cannot_change(changes, run):
    script, folder = run
    before = contents(folder)
    assert flags(changes)[0] in input_error(resume, script, folder, **changes)
    assert contents(folder) == before


def test_a_resumed_run_says_what_it_can_change(run):
    message = input_error(resume, *run, learning_rate=0.1)
    assert all(flag in message for flag in ("--total-timesteps", "--device", "--num-threads"))


def test_what_was_auto_may_be_auto_again(run):
    script, folder = run
    args = parse(script, flags({"resume": folder, "device": "auto", "precision": "auto"}))
    assert (args.device, args.precision) == ("cpu", "fp32")


# --- the command line ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_terminal_shows_the_sentence_and_no_traceback(script, tmp_path):
    folder = tmp_path / "runs" / "run"
    process = Fork(script, command_line(script, folder, env_id="Pendulm-v1"))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Pendulum-v1" in stderr and len(stderr.strip().splitlines()) == 1
    assert not folder.parent.exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_error_after_the_workers_started_shows_one_sentence(script, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    process = Fork(script, command_line(script, tmp_path / "run", num_envs=2))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "--run-name" in stderr and len(stderr.strip().splitlines()) == 1
