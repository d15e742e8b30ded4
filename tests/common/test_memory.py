"""How much memory a container leaves."""

import pytest

from cleanrl_cc.common.memory import free_memory


@pytest.mark.parametrize("folder", ["", "slurm/job_7", "slurm"], ids=["container", "job", "above the job"])
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_free_memory_is_what_the_cgroup_leaves(version, folder, tmp_path):
    line, root, names = {
        "v2": ("0::/slurm/job_7", "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
        "v1": (
            "4:memory:/slurm/job_7",
            "sys/fs/cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    }[version]
    limit, usage, cache = names
    texts = {f"{root}/{folder}/{limit}": "5000\n", f"{root}/{folder}/{usage}": "3000\n"}
    texts |= {
        f"{root}/{folder}/memory.stat": f"anon 1\n{cache} 500\n",
        "proc/self/cgroup": f"1:cpu:/\n{line}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == 5000 - 3000 + 500
    (tmp_path / root / folder / limit).write_text("max\n" if version == "v2" else f"{2**63 - 4096}\n")
    assert free_memory(tmp_path) > 2500
