"""A file of arguments is as good as the command line: preset < file < what is typed, with the same checks."""

import sys
import time
from dataclasses import asdict

import pytest
from helpers import (
    SCRIPTS,
    checkpoint,
    flags,
    input_error,
    load_script,
    parse,
    resume,
    start,
    train,
)

from cleanrl_cc.common.arguments import module_words
from cleanrl_cc.common.config import config_text
from cleanrl_cc.sac_drq import Args

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    """Writes a file; returns the words of a command line that names it."""

    def write(text: str) -> list[str]:
        (tmp_path / "config.yaml").write_text(text)
        return ["--config", str(tmp_path / "config.yaml")]

    return write


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_beats_the_preset_and_what_is_typed_beats_both(script, config):
    preset = parse(script, ["--env-id", "CarRacing-v3"])
    assert preset.action_repeat == 4
    words = config("env_id: CarRacing-v3\naction_repeat: 3\nlearning-rate: 1e-5\nseed: 7\n")
    args = parse(script, [*words, "--seed", "8"])
    changed = {"action_repeat": 3, "learning_rate": 1e-5}
    assert asdict(args) == asdict(preset) | changed | {"seed": 8}
    typed = ["--env-id", "Pendulum-v1"]  # which then chooses the preset
    assert asdict(parse(script, [*words, *typed])) == asdict(parse(script, typed)) | changed | {"seed": 7}


def test_every_kind_of_value_is_read_as_it_is_typed(config):
    text = "target_entropy: null\nnum_threads: 2\nrun_name: 'yes'\nrandom_shift: no\ntau: 5e-3\n"
    args = parse("sac_drq", config(text))
    assert (args.target_entropy, args.num_threads, args.run_name) == (None, 2, "yes")
    assert (args.random_shift, args.tau) == (False, 0.005)
    assert parse("sac_drq", config("target_entropy: -2.5")).target_entropy == -2.5
    assert parse("rainbow", config("components: [double, per]\nv_min: -20")).components == ("double", "per")


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_written_is_read_again(script, config):
    args = parse(script, flags({"env_id": "CarRacing-v3", "seed": 3}))
    assert parse(script, config(config_text(asdict(args)))) == args


def test_the_checkpoint_holds_plain_arguments(config, tmp_path):
    words = config("env_id: Pendulum-v1\nhidden_dim: 24\n")
    typed = {"runs_dir": tmp_path, "run_name": "run", "device": "cpu", "total_timesteps": 60}
    load_script("td3").train(
        parse("td3", [*words, *flags(typed | {"learning_starts": 20, "eval_episodes": 1})])
    )
    args = checkpoint(tmp_path / "run")["args"]
    assert (args["hidden_dim"], args["env_id"], args["config"]) == (24, "Pendulum-v1", None)
    (tmp_path / "config.yaml").unlink()
    resume("td3", tmp_path / "run", total_timesteps=70)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1", ["learning_rat", "did you mean learning_rate"]),
        ("config: other.yaml", ["config"]),
        ("gamma: {low: 0.9}", ["gamma", "value"]),
        ("gamma: [[0.9]]", ["gamma", "value"]),
        ("grayscale: perhaps", ["grayscale", "true or false", "perhaps"]),
        ("- gamma", ["config.yaml", "learning_rate: 1e-3"]),
        ("", ["config.yaml", "learning_rate: 1e-3"]),
        ("gamma: 'x\ntau: 1", ["config.yaml", "YAML", "line"]),
        ("\x00", ["config.yaml", "YAML"]),
    ],
)
def test_a_wrong_file_is_one_sentence(text, words, config):
    message = input_error(parse, "sac_drq", config(text))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_one_sentence(name, tmp_path):
    assert name in input_error(parse, "sac_drq", ["--config", str(tmp_path / name)])


def test_a_wrong_value_names_its_flag(config, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("sac_drq", config("gamma: high"))
    assert caught.value.code == 2
    assert "--gamma" in capsys.readouterr().err


def test_a_value_out_of_range_is_refused_as_if_typed(config, tmp_path):
    words = [*config("learning_starts: -1"), *flags({"runs_dir": tmp_path / "runs"})]
    assert "--learning-starts" in input_error(lambda: load_script("td3").train(parse("td3", words)))


# --- a resumed run imports a module only if it is typed ---

MODULE = "import gymnasium\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
MODULE += "gymnasium.register('Own-v0', PendulumEnv, max_episode_steps=20)\nopen('executed', 'w').close()\n"
ENV_ID = "own_module:Own-v0"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a run in an environment of the working directory, whose module is not imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_module.py").write_text(MODULE)
    train("sac_drq", tmp_path / "run", env_id=ENV_ID, total_timesteps=60)
    sys.modules.pop("own_module")
    (tmp_path / "executed").unlink()
    yield tmp_path / "run"
    sys.modules.pop("own_module", None)


def test_a_resumed_run_imports_no_module_that_was_not_typed(own):
    message = input_error(resume, "sac_drq", own)
    assert all(word in message for word in ("own_module", f"--env-id {ENV_ID}"))
    assert not own.with_name("executed").exists()


def test_a_resumed_run_imports_the_module_that_is_typed_or_in_the_config(own, config):
    resume("sac_drq", own, env_id=ENV_ID, total_timesteps=70)
    assert own.with_name("executed").exists()
    sys.modules.pop("own_module")
    args = parse("sac_drq", [*config(f"env_id: {ENV_ID}\ntotal_timesteps: 80\n"), "--resume", str(own)])
    assert args.total_timesteps == 80


def test_a_resumed_run_imports_no_wrapper_that_was_not_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_wrappers.py").write_text("from gymnasium import Wrapper\n")
    wrapped = {"training_wrappers": ("own_wrappers:Wrapper",)}
    train("sac_drq", tmp_path / "run", total_timesteps=60, **wrapped)
    sys.modules.pop("own_wrappers")
    message = input_error(resume, "sac_drq", tmp_path / "run")
    assert all(word in message for word in ("own_wrappers", "--training-wrappers own_wrappers:Wrapper"))
    assert "own_wrappers" not in sys.modules
    resume("sac_drq", tmp_path / "run", total_timesteps=70, **wrapped)


def test_what_names_a_module_is_to_be_typed_again():
    args = Args(env_id="Pendulum-v1", wrappers=("own:A,scale=2", "own:B"), training_wrappers=("RoadRules",))
    assert module_words(args) == ["--wrappers", "own:A,scale=2", "own:B"]
    args = Args(env_id="own:E-v0", training_wrappers=("RoadRules", "own:C"))
    assert module_words(args) == ["--env-id", "own:E-v0", "--training-wrappers", "RoadRules", "own:C"]


def test_the_command_that_goes_on_names_the_module(own):
    words = flags({"resume": own, "env_id": ENV_ID, "total_timesteps": 100_000})
    process = start("sac_drq", words, cwd=own.parent)
    while "--resume" not in (own / "args.json").read_text():  # it is written when everything is restored
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.terminate()
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 143
    assert f"--env-id {ENV_ID}" in stderr.strip().splitlines()[-1]
