"""Peers trained beside ours."""

from helpers import ROOT, load_benchmark, needs_results

from cleanrl_cc.common.tables import read_csv


@needs_results
def test_a_peer_is_trained_and_evaluated_in_a_file_that_grows(tmp_path):
    peer_curve, file = load_benchmark("peer_curve"), tmp_path / "peers.csv"
    for seed in (1, 2):
        # random actions all along
        peer_curve.main(peer_curve.Options(csv=str(file), seed=seed, total_timesteps=10_000))
    rows = read_csv(file)
    assert [(row["seed"], row["global_step"]) for row in rows] == [("1", "10000"), ("2", "10000")]
    assert list(rows[0]) == list(read_csv(ROOT / "benchmark" / "results" / "td3-peers.csv")[0])
