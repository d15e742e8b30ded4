"""A sweep tries what a file declares, stops what lags, and goes on with what was stopped or killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from helpers import ROOT, SCRIPTS, TINY, Fork, flags, having, input_error, load_benchmark, load_script, parse

from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow

optuna = pytest.importorskip("optuna")
OWN = {"total_timesteps": 200, "eval_frequency": 40}
SPACE = "learning_rate: {low: 1e-4, high: 1e-2, log: true}\nbatch_size: [16, 32]\nn_step: {low: 1, high: 3}\n"


@pytest.fixture
def sweep():
    return load_benchmark("sweep")


def script_flags(script: str = "sac_drq", leave_out=("batch_size",), **changes) -> list[str]:
    """Those of a tiny run, but what a sweep chooses itself."""
    kept = {
        name: value
        for name, value in (TINY | OWN | changes).items()
        if name in changes or script in having(name)
    }
    return flags({name: value for name, value in kept.items() if name not in ("num_threads", *leave_out)})


def command(folder, trials: int, *words, **changes) -> list[str]:
    """Arguments of a sweep of tiny runs into `folder`."""
    (folder / "space.yaml").write_text(SPACE)
    own = flags({"trials": trials, "space": folder / "space.yaml", "sweeps_dir": folder, "name": "study"})
    return ["sac_drq", *own, *words, "--", *script_flags(**changes)]


def start(words: list[str]) -> subprocess.Popen:
    """The command as it is typed; `fork` saves its seconds of imports."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, ROOT / "benchmark" / "sweep.py"]
    return subprocess.Popen([*program, *words], env=environment, start_new_session=True, **pipes)


def fork(words: list[str]) -> Fork:
    return Fork("sweep", words, folder=ROOT / "benchmark")


def finish(process: subprocess.Popen | Fork) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def wait_for(path, process: subprocess.Popen | Fork):
    deadline = time.monotonic() + 100
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def open_study(folder):
    return optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'study' / 'study.db'}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_space_of_a_script_fits_it(script, sweep, tmp_path):
    searched = yaml.safe_load((ROOT / "benchmark" / "spaces" / f"{script}.yaml").read_text())
    words = script_flags(script, leave_out=searched)
    study = sweep.Sweep(sweep.Options(script, sweeps_dir=tmp_path), words)
    assert isinstance(study.args, load_script(script).Args)
    assert set(study.space) <= set(vars(study.args))
    assert study.folder == tmp_path / f"{script}-Pendulum-v1"


def test_two_workers_bring_a_study_to_its_end_and_say_what_was_best(tmp_path):
    output = finish(fork(command(tmp_path, 2, "--workers", "2")))
    rows = read_csv(tmp_path / "study" / "trials.csv")
    assert [row["state"] for row in rows] == ["complete"] * 2
    for row in rows:
        folder = tmp_path / "study" / f"trial-{int(row['trial']):04d}"
        assert row["return_mean"] == read_csv(folder / "evaluations.csv")[-1]["return_mean"]
        assert not list(folder.glob("replay-*"))
    best = max(rows, key=lambda row: float(row["return_mean"]))
    assert f"best: trial {best['trial']}" in output
    for name in ("history", "slice", "evaluations", "importance"):
        assert (tmp_path / "study" / f"{name}.png").stat().st_size > 1000
    args = parse("sac_drq", flags({"config": tmp_path / "study" / "best.yaml"}))
    assert args.learning_rate == pytest.approx(float(best["learning_rate"]))
    assert (args.batch_size, args.n_step) == (int(best["batch_size"]), int(best["n_step"]))


def test_the_same_call_goes_on_with_a_trial_that_was_stopped_or_killed(tmp_path):
    long = {"total_timesteps": 600, "checkpoint_frequency": 50, "eval_frequency": 300}
    words = command(tmp_path, 1, **long, updates_per_step=1.0)
    folder = tmp_path / "study" / "trial-0000"
    for begin, number, code in ((start, signal.SIGTERM, 130), (fork, signal.SIGKILL, -9)):
        saved = (folder / "last.pt").stat().st_mtime_ns if code == -9 else 0
        process = begin(words)
        wait_for(folder / "last.pt", process)
        while (folder / "last.pt").stat().st_mtime_ns == saved:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, number)
        process.communicate(timeout=100)
        assert process.returncode == code
        (trial,) = open_study(tmp_path).trials
        assert trial.state == optuna.trial.TrialState.RUNNING

    output = finish(fork(words))
    (trial,) = open_study(tmp_path).trials
    assert trial.state == optuna.trial.TrialState.COMPLETE
    assert "trial 0 of 1: finished" in output
    assert (folder / "args.json").read_text().count("--resume") == 2


def test_a_study_that_has_ended_grows_by_a_trial_which_lags_and_is_stopped(tmp_path, sweep):
    words = command(tmp_path, sweep.STARTUP_TRIALS + 1, total_timesteps=3000, updates_per_step=1.0)
    options = sweep.Options("sac_drq", space=tmp_path / "space.yaml", sweeps_dir=tmp_path, name="study")
    begun = sweep.Sweep(options, words[words.index("--") + 1 :])
    drawn = {"learning_rate": 1e-3, "batch_size": 16, "n_step": 1}
    better = {step: 0.0 for step in range(100)}
    trial = optuna.create_trial(
        params=drawn, distributions=begun.space, value=0.0, intermediate_values=better
    )
    begun.study.add_trials([trial] * sweep.STARTUP_TRIALS)
    (begun.folder / "trial-0000").mkdir()
    (begun.folder / "trial-0000" / "args.json").write_text('{"args": {}}')
    assert "stopped as one of the worse" in finish(fork(words))
    rows = read_csv(tmp_path / "study" / "trials.csv")
    assert [row["state"] for row in rows] == ["complete"] * sweep.STARTUP_TRIALS + ["pruned"]


def test_a_trial_that_fails_says_why_and_the_others_go_on(tmp_path):
    process = fork(command(tmp_path, 2, buffer_size=1))
    output, _ = process.communicate(timeout=200)
    assert output.count("failed with exit code 1: --buffer-size must be") == 2
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("learning_rat: [1, 2]", ["learning_rat", "learning_rate"]),
        ("learning_rate: {low: 1}", ["learning_rate", "low"]),
        ("learning_rate: {low: 2, high: 1}", ["learning_rate", "larger"]),
        ("learning_rate: {low: 0, high: 1, log: true}", ["learning_rate", "above 0"]),
        ("learning_rate: {low: a, high: b}", ["learning_rate", "number"]),
        ("learning_rate: []", ["learning_rate"]),
        ("- learning_rate", ["declares nothing"]),
        ("a: b: c", ["cannot be read"]),
        ("learning_rate: [1e-3]\nrun_name: [mine]", ["--run-name"]),
    ],
)
def test_a_wrong_space_is_one_sentence(space, words, tmp_path, sweep):
    path = tmp_path / "space.yaml"
    path.write_text(space)
    message = input_error(sweep.main, ["sac_drq", *flags({"space": path, "sweeps_dir": tmp_path / "sweeps"})])
    assert all(word in message for word in words), message
    assert not (tmp_path / "sweeps").exists()


def test_a_study_is_of_one_space_and_one_set_of_flags(tmp_path, sweep):
    options = sweep.Options("sac_drq", sweeps_dir=tmp_path, name="study")
    sweep.Sweep(options, ["--env-id", "Pendulum-v1"])
    assert "--name" in input_error(sweep.Sweep, options, ["--env-id", "Hopper-v5"])


def test_the_sweep_of_weights_and_biases_starts_runs_that_parse():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "benchmark" / "wandb_sweep.yaml").read_text())
    for choose in (min, max):
        drawn = {}
        for name, parameter in sweep["parameters"].items():
            offered = parameter.get("values") or [
                parameter.get(key) for key in ("value", "min", "max") if key in parameter
            ]
            drawn[name] = {"value": choose(offered)}
        words = [word for word in create_sweep_command(sweep["command"]) if word != "${args}"]
        words += create_sweep_command_args({"args": drawn})["args"]
        assert (ROOT / sweep["program"]).is_file()
        args = parse("sac_drq", words[words.index("${program}") + 1 :])
        assert args.track and args.env_id == "LunarLander-v3"
        assert args.learning_rate == drawn["learning_rate"]["value"]
