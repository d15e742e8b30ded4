"""Random actions bring what is written of them."""

from helpers import ROOT, load_benchmark, needs_results

from cleanrl_cc.common.tables import read_csv

RESULTS = ROOT / "benchmark" / "results"


@needs_results
def test_random_actions_bring_what_is_written(tmp_path):
    baseline = load_benchmark("baseline")
    baseline.main(baseline.Options(("LunarLander-v3",), csv=tmp_path / "baseline.csv"))
    (row,) = (row for row in read_csv(RESULTS / "baseline.csv") if row["env_id"] == "LunarLander-v3")
    assert read_csv(tmp_path / "baseline.csv") == [row]
