"""What a run runs on: which library multiplies matrices, and what stays fp32 in bf16."""

import itertools
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import SCRIPTS, assert_same_training, checkpoint, input_error, load_script, resume, train

from cleanrl_cc.common import announcements, machine
from cleanrl_cc.evaluate import Policy

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (11,), np.float32)
ACTION_SPACE = gym.spaces.Box(-1, 1, (3,), np.float32)


@pytest.fixture(autouse=True)
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def pretend(monkeypatch, exact: bool, onednn: float, mkl: float = 1.0):
    """A processor whose oneDNN is exact or not, and takes so many seconds."""
    seconds = {"medium": onednn, "highest": mkl}
    monkeypatch.setattr(machine, "onednn_is_exact", lambda: exact)
    monkeypatch.setattr(machine, "time_product", lambda *_: seconds[torch.get_float32_matmul_precision()])


@pytest.mark.parametrize(
    "onednn, chosen", [(0.5, "onednn"), (0.8, "onednn"), (0.9, "mkl"), (1.0, "mkl"), (2.0, "mkl")]
)
def test_auto_takes_the_faster_library(onednn, chosen, monkeypatch, capsys):
    pretend(monkeypatch, exact=True, onednn=onednn)
    assert machine.choose_matmul("auto", [(256, 256, 256)]) == chosen
    assert torch.get_float32_matmul_precision() == machine.MATMUL[chosen]
    announcements.tell()
    assert f"Matrix products by {chosen}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["auto", "onednn"])
def test_products_in_bf16_never_pass_for_fp32(name, monkeypatch, capsys):
    pretend(monkeypatch, exact=False, onednn=0.1)
    assert machine.choose_matmul(name, [(256, 256, 256)]) == "mkl"
    assert torch.get_float32_matmul_precision() == "highest"
    announcements.tell()
    assert ("bf16" in capsys.readouterr().err) == (name == "onednn")


def test_the_library_in_use_is_as_exact_as_fp32():
    machine.choose_matmul("onednn", [])
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(1))
    exact = a.double() @ b.double()
    assert ((a @ b - exact).abs().max() / exact.abs().max()).item() < 1e-5


def test_the_probe_draws_from_no_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    machine.choose_matmul("auto", [(256, 256, 256)])
    machine.bf16_convolves_faster(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_keeps_its_library_and_goes_on_bit_for_bit(script, monkeypatch, tmp_path):
    pretend(monkeypatch, exact=True, onednn=0.1)
    train(script, tmp_path / "run", total_timesteps=60, matmul="auto")
    assert checkpoint(tmp_path / "run")["args"]["matmul"] == "onednn"
    pretend(monkeypatch, exact=True, onednn=10.0)
    resume(script, tmp_path / "run", total_timesteps=80, matmul="auto")
    assert checkpoint(tmp_path / "run")["args"]["matmul"] == "onednn"
    assert torch.get_float32_matmul_precision() == "medium"
    train(script, tmp_path / "direct", total_timesteps=80, matmul="onednn")
    assert_same_training(tmp_path / "run", tmp_path / "direct")


def test_a_checkpoint_from_before_the_choice_goes_on_with_mkl(monkeypatch, tmp_path):
    train("td3", tmp_path / "run", total_timesteps=60)
    state = checkpoint(tmp_path / "run")
    del state["args"]["matmul"]
    torch.save(state, tmp_path / "run" / "last.pt")
    pretend(monkeypatch, exact=True, onednn=0.1)
    resume("td3", tmp_path / "run", total_timesteps=80)
    assert checkpoint(tmp_path / "run")["args"]["matmul"] == "mkl"


def test_a_policy_that_a_gpu_has_trained_computes_by_what_is_found_here(monkeypatch, tmp_path, capsys):
    train("sac_drq", tmp_path / "run", total_timesteps=60)
    state = checkpoint(tmp_path / "run")
    state["args"] |= {"device": "cuda:1", "precision": "bf16", "matmul": "auto"}
    pretend(monkeypatch, exact=True, onednn=0.1)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    capsys.readouterr()
    args = Policy(state, "cpu").agent.args
    assert (args.device, args.precision, args.matmul) == ("cpu", "fp32", "onednn")
    announcements.tell()
    assert "Warning" not in capsys.readouterr().err


@pytest.mark.parametrize("script", ["sac_drq", "td3", "ddpg", "ppo_continuous"])
def test_the_last_layer_is_fp32_in_bf16(script):
    module = load_script(script)
    agent = module.Agent(module.Args(precision="bf16"), OBS_SPACE, ACTION_SPACE, torch.device("cpu"))
    obs = np.random.default_rng(1).normal(size=(500, 11)).astype(np.float32)
    for output in (agent.act(obs, deterministic=True), agent.value(obs)):
        rounded = torch.as_tensor(output).bfloat16().float().numpy()
        assert np.mean(output == rounded) < 0.05, "rounded to 8 bits"


@pytest.mark.parametrize("script", ["sac_drq", "td3", "ddpg"])
def test_from_pixels_bf16_is_the_convolutions_alone(script):
    module = load_script(script)
    obs_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    agent = module.Agent(module.Args(precision="bf16"), obs_space, ACTION_SPACE, torch.device("cpu"))
    dtypes = {True: set(), False: set()}  # by whether it is a convolution
    for layer in agent.modules():
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda layer, _, output: dtypes[isinstance(layer, torch.nn.Conv2d)].add((layer, output.dtype))
            )
    agent.value(np.stack([obs_space.sample() for _ in range(2)]))
    assert {dtype for _, dtype in dtypes[True]} == {torch.bfloat16}
    heads = {dtype for layer, dtype in dtypes[False] if layer not in set(agent.encoder.modules())}
    assert heads == {torch.float32}


@pytest.fixture
def card(monkeypatch):
    """A GPU that is not there, as far as the start of a run looks at it."""
    announcements.forget()  # what another test kept
    facts = {"bf16": True, "capability": (8, 0), "asked": []}
    monkeypatch.setattr(machine, "find_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: facts["capability"])
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: facts["asked"].append(including_emulation) or facts["bf16"],
    )
    return facts


@pytest.mark.parametrize("supported, expected", [(True, "bf16"), (False, "fp32")])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_card_that_emulates_bf16_gets_fp32(precision, supported, expected, card, capsys):
    card["bf16"] = supported
    args = load_script("sac_drq").Args(precision=precision)
    machine.start_torch(args, pixels=True)
    assert (args.precision, card["asked"]) == (expected, [False])
    announcements.tell()
    assert ("has no bf16" in capsys.readouterr().err) == (not supported)


@pytest.mark.parametrize("supported", [True, False])
def test_states_are_learned_from_in_fp32_and_nothing_is_said(supported, card, capsys):
    card["bf16"] = supported
    args = load_script("sac_drq").Args()
    machine.start_torch(args, pixels=False)
    assert args.precision == "fp32"
    announcements.tell()
    assert "bf16" not in capsys.readouterr().err


@pytest.mark.parametrize("learns, native, faster", itertools.product([True, False], repeat=3))
def test_from_states_auto_is_bf16_where_it_is_native_faster_and_known_to_learn(
    learns, native, faster, monkeypatch, capsys
):
    announcements.forget()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(machine, "bf16_multiplies_faster", lambda *_: faster)
    args = load_script("sac_drq").Args(device="cpu")
    machine.start_torch(args, pixels=False, bf16_from_states=learns)
    assert args.precision == ("bf16" if learns and native and faster else "fp32")
    announcements.tell()
    assert ("bf16" in capsys.readouterr().err) == (args.precision == "bf16")


@pytest.mark.parametrize("capability, told", [((7, 5), 0), ((8, 0), 1)])
def test_tf32_is_told_where_a_card_has_it(capability, told, card, capsys):
    card["capability"] = capability
    machine.start_torch(load_script("sac_drq").Args(), pixels=False)
    announcements.tell()
    assert capsys.readouterr().err.count("TF32") == told


def test_without_triton_a_card_does_not_compile(card, monkeypatch, capsys):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: None)
    args = load_script("sac_drq").Args(compile=True)
    machine.start_torch(args, pixels=False)
    assert not args.compile
    announcements.tell()
    assert "Triton: nothing is compiled." in capsys.readouterr().err


@pytest.mark.parametrize("free, place", [(10**9, "cuda"), (10**6, "cpu")])
def test_a_replay_buffer_goes_where_it_fits_and_says_so(free, place, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    assert machine.place_buffer(100, 10_000, torch.device("cuda")).type == place
    announcements.tell()
    assert f"Replay buffer: 0.0 GB on {place}" in capsys.readouterr().err
    assert machine.place_buffer(100, 10_000, torch.device("cpu")).type == "cpu"
    announcements.tell()
    assert capsys.readouterr().err == ""


def test_a_replay_buffer_that_fits_neither_the_card_nor_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**5, 10**6))
    monkeypatch.setattr(machine, "free_memory", lambda: 10**5)
    message = input_error(machine.place_buffer, 100, 10_000, torch.device("cuda"))
    assert message.endswith("the largest that fits is --buffer-size 900.")
    announcements.tell()


@pytest.mark.parametrize("free, fits", [(1600, True), (1599, False)])
def test_a_weight_counts_with_its_gradient_and_its_two_moments(free, fits, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    machine.watch_networks()
    make = partial(torch.nn.Linear, 10, 10, bias=False)  # 400 bytes
    assert make() if fits else "Networks of these sizes" in input_error(make)
    machine.unwatch_networks()


def test_a_processor_that_is_slower_in_bf16_gets_fp32(monkeypatch):
    args = load_script("sac_drq").Args(device="cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(machine, "bf16_convolves_faster", lambda _: False)
    machine.start_torch(args, pixels=True)
    assert args.precision == "fp32"
