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


@pytest.mark.parametrize("returns, chosen", [([3.0], 3.0), ([9.0, 1.0, 4.0], 4.0), ([2.0, 8.0], 8.0)])
def test_of_several_seeds_the_last_policy_of_the_median_one_is_exported(
    returns, chosen, monkeypatch, tmp_path
):
    zoo, exported = load_benchmark("zoo"), []
    recipe = {"env_id": "Pendulum-v1", "obs": "auto"}
    checkpoints = {
        tmp_path / f"seed-{seed}" / "last.pt": {
            "algorithm": "td3",
            "recipe": recipe,
            "evaluated": (200, last_return),
        }
        for seed, last_return in enumerate(returns)
    }
    for path in checkpoints:
        path.parent.mkdir()
    monkeypatch.setattr(zoo, "load_checkpoint", checkpoints.get)
    monkeypatch.setattr(zoo, "export", lambda checkpoint, _: exported.append(checkpoint["evaluated"][1]))
    monkeypatch.setattr(zoo, "write_table", lambda _: None)
    monkeypatch.setattr("sys.argv", ["zoo.py", *(str(path.parent) for path in checkpoints)])
    zoo.main()
    assert exported == [chosen]


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
