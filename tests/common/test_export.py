"""An exported policy acts as the one it came from, without torch and without this project, and says what to
feed it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import PIXELS, ROOT, SCRIPTS, input_error, train

from cleanrl_cc.evaluate import Options, Policy, export_policy, main, read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_laps")]

onnxruntime = pytest.importorskip("onnxruntime")
TASKS = {
    "state": {"env_id": "Pendulum-v1", "total_timesteps": 100},
    "pixels": PIXELS
    | {
        "total_timesteps": 40,
        "training_wrappers": ("Patience,frames=10",),
        "image_size": 36,
        "learning_starts": 20,
        "num_steps": 16,
    },
}
OTHER_FORMS = [  # what the algorithms can be that the runs above are not
    ("ppo_continuous", "state", {"normalize": False, "action_distribution": "beta"}),
    ("ddpg", "state", {"batch_norm": True}),
    ("rainbow", "pixels", {"action_set": "five", "components": ("double",)}),
    ("dqn_atari_style", "state", {"env_id": "CartPole-v1"}),
]
CASES = [(script, task, {}) for script in SCRIPTS for task in TASKS] + OTHER_FORMS


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], case[1], *case[2]]))
def exported(request, tmp_path_factory):
    """A policy, and the files of its export."""
    script, task, changes = request.param
    folder = tmp_path_factory.mktemp("export")
    train(script, folder / "run", **TASKS[task] | changes)
    files = {"onnx": folder / "policy.onnx", "torch": folder / "policy.pt2"}
    export_policy(Options(str(folder / "run"), export_onnx=files["onnx"], export_torch=files["torch"]))
    return Policy(read_checkpoint(folder / "run", trust=False)[1], "cpu"), files


def observations(policy, number: int) -> np.ndarray:
    env = policy.make_env()
    obs, _ = env.reset(seed=3)
    rows = []
    for _ in range(number):
        rows.append(obs)
        obs, *_ = env.step(env.action_space.sample())
    env.close()
    return np.stack(rows)


def test_its_actions_are_the_policys_and_the_file_says_what_to_feed_it(exported):
    policy, files = exported
    session = onnxruntime.InferenceSession(files["onnx"])
    program = torch.export.load(files["torch"]).module()
    for obs in (rows := observations(policy, 5), rows[:1]):
        expected = policy(obs)
        (by_onnx,) = session.run(["action"], {"obs": obs})
        by_torch = program(torch.as_tensor(obs)).numpy()
        for actions in (by_onnx, by_torch):
            assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)

    metadata = session.get_modelmeta().custom_metadata_map
    (obs,) = session.get_inputs()
    (action,) = session.get_outputs()
    assert (obs.name, action.name, obs.shape[0], action.shape[0]) == ("obs", "action", "batch", "batch")
    assert tuple(obs.shape[1:]) == policy.observation_space.shape
    assert metadata["obs"].startswith(f"{policy.observation_space.dtype} (batch, {obs.shape[1]}")
    assert metadata["action"].startswith("int64" if action.type == "tensor(int64)" else "float32")
    assert json.loads(metadata["recipe"]) == json.loads(json.dumps(policy.recipe))  # no tuples
    assert metadata["env_id"] == policy.recipe["env_id"]
    if policy.recipe["env_id"] == "Pendulum-v1":
        assert (json.loads(metadata["action_low"]), json.loads(metadata["action_high"])) == ([-2.0], [2.0])


def test_without_the_exporter_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = input_error(main, [str(tmp_path / "run"), "--export-onnx", str(tmp_path / "policy.onnx")])
    assert "onnxscript" in message and "[export]" in message
    assert not (tmp_path / "policy.onnx").exists()


def test_the_package_is_imported_without_torch():
    code = "import cleanrl_cc, sys; assert 'torch' not in sys.modules; assert cleanrl_cc.load_policy"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
