"""Policies exported from checkpoints."""

import pytest
import torch
from helpers import ROOT, load_benchmark, needs_results, train

from cleanrl_cc.common.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", ["td3", "dqn_atari_style", "rainbow"])
def test_an_exported_policy_has_no_target_network_of_its_own_and_half_precision_where_it_is_large(
    script, monkeypatch, tmp_path
):
    zoo, folder = load_benchmark("zoo"), tmp_path / "run"
    env_id = "LunarLander-v3" if script == "td3" else "CartPole-v1"
    train(script, folder, env_id=env_id, eval_frequency=150, runs_dir=tmp_path)
    checkpoint = load_checkpoint(folder / "best.pt")
    options = zoo.Options(episodes=1, zoo=tmp_path / "zoo", table=tmp_path / "zoo.md")
    for most in (8e6, 0):
        monkeypatch.setattr(zoo, "MAX_BYTES", most)
        zoo.export(checkpoint, options)
        (file,) = options.zoo.glob("*.pt")
        weights = load_checkpoint(file)["agent"]
        assert set(weights) == set(checkpoint["agent"])
        twins = {name for name in weights if "_target." in name}
        online = {weight.data_ptr() for name, weight in weights.items() if name not in twins}
        assert twins and {weights[name].data_ptr() for name in twins} <= online
        assert {weight.dtype for weight in weights.values()} == {torch.float32 if most else torch.float16}


def test_policies_from_pixels_and_from_the_state_do_not_share_a_file():
    zoo, recipe = load_benchmark("zoo"), {"env_id": "dm_control/walker-walk-v0"}
    cells = [
        zoo.cell({"algorithm": "td3", "recipe": recipe | {"obs": obs}}) for obs in ("auto", "state", "pixels")
    ]
    assert cells == ["td3-dm_control-walker-walk-v0"] * 2 + ["td3-dm_control-walker-walk-v0-pixels"]


@needs_results
def test_the_zoo_is_small_and_its_table_is_generated(tmp_path):
    sizes = [path.stat().st_size for path in (ROOT / "zoo").glob("*.pt")]
    assert max(sizes) < 8e6 and sum(sizes) < 60e6
    assert sorted(path.stem for path in (ROOT / "zoo").glob("*.pt")) == sorted(
        path.stem for path in (ROOT / "zoo").glob("*.json")
    )
    zoo = load_benchmark("zoo")
    zoo.write_table(zoo.Options(table=tmp_path / "zoo.md"))
    assert (tmp_path / "zoo.md").read_bytes() == (ROOT / "docs" / "zoo.md").read_bytes(), (
        "run benchmark/zoo.py"
    )
