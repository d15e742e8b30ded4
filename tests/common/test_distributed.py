"""Two processes of one run learn what one process would from the data of both, and resume together."""

import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from gymnasium.spaces import Box
from helpers import (
    ROOT,
    SCRIPTS,
    Fork,
    assert_same,
    assert_same_runs,
    checkpoint,
    command_line,
    flags,
    input_error,
    resume,
    stop,
    train,
)

from cleanrl_cc import ppo_continuous
from cleanrl_cc.common.distributed import launcher

pytestmark = pytest.mark.slow

SPACES = Box(-9, 9, (3,)), Box(-1, 1, (2,))
NUM_STEPS, NUM_ENVS = 12, 4


def update(envs: slice, **changes) -> tuple[dict, dict]:
    """One update on these columns of a rollout that is always the same; returns
    weights and statistics, and metrics."""
    num_envs = len(range(NUM_ENVS)[envs])
    sizes = {
        "num_steps": NUM_STEPS,
        "num_minibatches": 1,
        "num_epochs": 3,
        "clip_coef": 0.05,
        "learning_rate": 0.01,
    }
    args = ppo_continuous.Args(num_envs=num_envs, precision="fp32", **sizes | changes)
    torch.manual_seed(1)
    agent = ppo_continuous.Agent(args, *SPACES, torch.device("cpu"))
    buffer = ppo_continuous.RolloutBuffer(args, *SPACES)
    agent.optimizer.eps = 1e-3  # rounding errors are no gradients
    rng, final = np.random.default_rng(2), np.zeros(NUM_ENVS, bool)
    for _ in range(NUM_STEPS):
        obs = rng.normal(3, 2, (NUM_ENVS, 3)).astype(np.float32)
        row = (obs, *agent.sample(obs), rng.normal(size=NUM_ENVS) * ~final)
        # the second process has fewer rows to learn from
        ends = (rng.random(NUM_ENVS) < (0.1, 0.1, 0.5, 0.5)) & ~final
        buffer.add(*(column[envs] for column in (*row, ends, np.zeros(NUM_ENVS, bool), final)))
        final = ends
    metrics = agent.update(buffer, rng.normal(3, 2, (NUM_ENVS, 3)).astype(np.float32)[envs], rng)
    return agent.state_dict(), metrics | {"num_updates": agent.num_updates}


def update_one_half(rank: int, folder, changes: dict):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(update(slice(2 * rank, 2 * rank + 2), **changes), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "changes", [{}, {"target_kl": 1e-9, "normalize": False, "action_distribution": "beta"}]
)
def test_an_update_by_two_processes_equals_one_on_the_joined_batch(changes, tmp_path):
    torch.multiprocessing.start_processes(update_one_half, (tmp_path, changes), nprocs=2, start_method="fork")
    (weights, metrics), (other_weights, other_metrics) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert_same(weights, other_weights, "ranks")
    joined_weights, joined_metrics = update(slice(None), **changes)
    for name, value in joined_weights.items():
        torch.testing.assert_close(
            weights[name], value, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    kl, other_kl, joined_kl = (
        float(each["losses/approx_kl"]) for each in (metrics, other_metrics, joined_metrics)
    )
    assert kl == other_kl == pytest.approx(joined_kl, rel=1e-3)
    # the first step sees no change yet
    assert metrics["num_updates"] == joined_metrics["num_updates"] == (2 if changes else 3)


def fork(words: list[str], monkeypatch) -> list[Fork]:
    """Two children of this process with what torchrun would tell them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {"TORCHELASTIC_RUN_ID": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 1}
    processes = []
    with monkeypatch.context() as patch:
        for number in range(2):
            for name, value in (told | {"RANK": number, "LOCAL_RANK": number}).items():
                patch.setenv(name, str(value))
            processes.append(Fork("ppo_continuous", words))
    return processes


def torchrun(words: list[str]) -> Fork:
    command = ["--standalone", "--nproc-per-node", "2", ROOT / "cleanrl_cc" / "ppo_continuous.py", *words]
    # on a busy machine 30 seconds are short
    patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "200"}
    return Fork("run", command, folder=Path(torch.distributed.__file__).parent, variables=patient)


def test_the_command_that_goes_on_has_all_machines(monkeypatch):
    assert launcher() == "python"
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (
        launcher() == "torchrun --nproc-per-node 4 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
    )


def test_two_stopped_processes_go_on_bit_for_bit(tmp_path, monkeypatch):
    hoppers = {
        "env_id": "Hopper-v5",
        "num_envs": 2,
        "total_timesteps": 700,
        "eval_frequency": 300,
        "checkpoint_frequency": 90,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for number, process in enumerate(fork(command_line("ppo_continuous", whole, **hoppers), monkeypatch)):
        stdout, stderr = process.communicate(timeout=500)
        assert process.returncode == 0, stderr
        assert stdout.count("mean return") == stderr.count("Observations:") == (number == 0), (
            "rank 0 alone prints"
        )
        assert stderr.count("Matrix products by") <= (number == 0)  # none where there is no choice

    process = torchrun(command_line("ppo_continuous", stopped, **hoppers))
    _, stderr = stop(process, signal.SIGTERM, stopped / "last.pt")
    assert "Saved. Go on with: torchrun --nproc-per-node 2" in stderr
    assert checkpoint(stopped)["global_step"] < 700
    assert "needs 2 processes" in input_error(resume, "ppo_continuous", stopped)

    for process in fork(flags({"resume": stopped}), monkeypatch):
        _, stderr = process.communicate(timeout=500)
        assert process.returncode == 0, stderr
    assert_same_runs(whole, stopped)
    ranks = checkpoint(whole), *checkpoint(whole)["other_ranks"]
    assert ranks[0]["envs"][0]["seed"] != ranks[1]["envs"][0]["seed"], (
        "each process has environments of its own"
    )


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "ppo_continuous"])
def test_who_learns_in_one_process_refuses_several(script, tmp_path, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    message = input_error(train, script, tmp_path / "run", total_timesteps=60)
    assert f"{script}.py" in message and "use python" in message
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    train(script, tmp_path / "run", total_timesteps=10)
