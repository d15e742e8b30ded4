"""CSV files: what is torn, filled with NULs or foreign is set aside, and the rest is kept."""

import psutil
import pytest
from helpers import checkpoint, contents, disk_with_room_for, input_error, resume, train

from cleanrl_cc.common import tables
from cleanrl_cc.common.tables import cut_csv, read_csv

HEAD = 'global_step,"losses/a, b"\n'
TWO = HEAD + "1000,0.5\n2000,\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "progress.csv"


@pytest.mark.parametrize(
    "text, expected, kept",
    [
        (TWO, 2, 2),
        (TWO, None, 2),
        (TWO + "3000,0.25\n", 2, 2),  # after the checkpoint
        (TWO, 1, 1),  # an evaluation that was made up for after it
        (HEAD, 0, 0),
        ("\n", 0, 0),  # resumed before its first line
        ("", None, 0),
    ],
)
def test_lines_after_the_checkpoint_are_cut_without_a_word(text, expected, kept, path):
    path.write_text(text)
    assert cut_csv(path, 2000, expected) == (kept, None)
    assert [row["global_step"] for row in read_csv(path)] == ["1000", "2000"][:kept]
    assert list(contents(path.parent)) == ["progress.csv"]


@pytest.mark.parametrize(
    "data, expected, kept",
    [
        (TWO.encode() + b"3000,0.", None, 2),
        (TWO.encode()[:-1], 2, 1),  # is 2000 all of it?
        (TWO.encode() + b"\0" * 4096, 2, 2),
        (HEAD.encode() + b"1000,0.5\n20\0\0,1.0\n2000,1.0\n", 3, 2),
        (HEAD.encode() + b"1000,0.5\n2000,1.0,7\n", 2, 1),
        (HEAD.encode() + b"1000,0.5\ninf,1.0\n", 2, 1),
        (HEAD.encode() + b"1000,0.5\n,1.0\n", 2, 1),
        (HEAD.encode() + b"1000,0.5\n-1,1.0\n", 2, 1),
        (b"\xff\xfe\x00" * 100, 2, 0),
        (b"time,value\n1000,2\n", 1, 0),
        (b"Dear diary,\n\ntoday I\n", 2, 0),
        (TWO.encode(), 3, 2),  # a line is lost
        (TWO.encode(), 0, 1),  # a line of another run
    ],
)
def test_damage_is_told_set_aside_and_what_can_be_read_kept(data, expected, kept, path):
    path.write_bytes(data)
    number, sentence = cut_csv(path, 2000, expected)
    aside = path.with_name("progress.csv.damaged-1")
    assert number == kept == len(read_csv(path))
    assert str(path) in sentence and str(aside) in sentence and sentence.endswith(".")
    assert aside.read_bytes() == data
    assert cut_csv(path, 2000, kept) == (kept, None)
    path.write_bytes(data)
    cut_csv(path, 2000, expected)
    assert path.with_name("progress.csv.damaged-2").read_bytes() == data


def test_a_file_that_is_missing_is_told_where_it_had_lines(path):
    assert cut_csv(path, 2000, 0) == cut_csv(path, 2000) == (0, None)
    number, sentence = cut_csv(path, 2000, 2)
    assert number == 0 and "counts 2" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("name", ["progress.csv", "evaluations.csv"])
@pytest.mark.parametrize("tail", [b"2000,20", b"\0" * 100, b"\xff\n"])
def test_a_run_goes_on_with_a_damaged_table(name, tail, tmp_path, capsys):
    folder = tmp_path / "run"
    train("td3", folder, total_timesteps=60)
    assert checkpoint(folder)["lines"] == {"progress.csv": 1, "evaluations.csv": 1}
    with open(folder / name, "ab") as file:
        file.write(tail)
    resume("td3", folder, total_timesteps=80)
    assert f"{name}.damaged-1" in capsys.readouterr().err
    assert [row["global_step"] for row in read_csv(folder / name)] == ["60", "80"]
    assert checkpoint(folder)["lines"][name] == 2
    resume("td3", folder, total_timesteps=100)
    assert "damaged" not in capsys.readouterr().err


# --- lines that are added ---


def test_a_line_is_added_without_reading_the_lines_before(tmp_path):
    path = tmp_path / "progress.csv"
    tables.write_csv(path, [{"global_step": step, "losses/a, b": 1.5} for step in range(50_000)])
    before = psutil.Process().io_counters().read_chars
    tables.append_csv(path, {"losses/a, b": 2.5, "global_step": 50_000})
    tables.append_csv(path, {"global_step": 50_001})
    assert psutil.Process().io_counters().read_chars - before < 100_000 < path.stat().st_size
    rows = read_csv(path)
    assert len(rows) == 50_002
    assert rows[-2:] == [
        {"global_step": "50000", "losses/a, b": "2.5"},
        {"global_step": "50001", "losses/a, b": ""},
    ]


def test_a_new_key_is_a_new_column_of_every_line(tmp_path):
    path = tmp_path / "progress.csv"
    for row in ({"global_step": 1}, {"global_step": 2, "new": 3.0}):
        tables.append_csv(path, row)
    assert path.read_text() == "global_step,new\n1,\n2,3.0\n"
    tables.write_csv(path, [])  # a resume before the first line
    tables.append_csv(path, {"global_step": 1})
    assert path.read_text() == "global_step\n1\n"


def test_a_full_disk_ends_a_log_line_in_a_sentence(tmp_path):
    tables.append_csv(tmp_path / "progress.csv", {"global_step": 1})
    with disk_with_room_for(4):
        assert "disk" in input_error(tables.append_csv, tmp_path / "progress.csv", {"global_step": 2})


@pytest.mark.parametrize("read", [read_csv, lambda path: cut_csv(path, 2000)])
def test_what_cannot_be_read_is_told(read, path):
    path.mkdir()
    assert f"{path} cannot be read" in input_error(read, path)


def test_what_is_no_text_is_told(path):
    path.write_bytes(HEAD.encode() + b"1000,\xff\n")
    assert f"{path} cannot be read (UnicodeDecodeError" in input_error(read_csv, path)
    path.write_bytes(b"\xff\xfe\n")
    assert "holds other columns" in input_error(tables.start_csv, path, ["global_step"])
    assert f"{path} cannot be read (UnicodeDecodeError" in input_error(tables.append_csv, path, {"time": 1})
