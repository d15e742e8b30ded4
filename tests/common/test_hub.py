"""A policy goes to the Hugging Face Hub and comes back, and what comes from there runs no code.

The Hub is a server on this machine that speaks the endpoints used: making a repository, validating a card,
asking how files are to be sent, git-lfs for large ones, committing, and resolving a file."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from helpers import ROOT, SCRIPTS, Fork, flags, input_error, parse, train

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.evaluate import Options, evaluate, load_policy, main

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """Its `server` has `files`, by path; `blobs` by SHA-256; `requests`; and the `token` that may write."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, {"error": "Invalid username or password."})
        address = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"{address}/me/pendulum", "name": "me/pendulum"})
        if self.path == "/api/validate-yaml":
            head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self.answer(200 if "model-index" in head else 400, {"errors": [], "warnings": []})
        if self.path == "/api/models/me/pendulum/preupload/main":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith((".pt", ".mp4")) else "regular" for path in paths}
            return self.answer(
                200,
                {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]},
            )
        if self.path == "/me/pendulum.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            uploads = [o | {"actions": {"upload": {"href": f"{address}/blobs/{o['oid']}"}}} for o in objects]
            return self.answer(200, {"transfer": "basic", "objects": uploads})
        if self.path == "/api/models/me/pendulum/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.blobs[value["oid"]]
            return self.answer(
                200, {"commitUrl": f"{address}/me/pendulum/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        self.answer(404, {"error": self.path})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.blobs[self.path.rpartition("/")[2]] = data
        self.answer(200, {})

    def do_GET(self):
        self.server.requests.append(self.path)
        match = re.fullmatch("/me/pendulum/resolve/[^/]+/(.+)", self.path)
        if match is None or match[1] not in self.server.files:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound" if match else "RepoNotFound"})
        data = self.server.files[match[1]]
        self.answer(200, data, {"X-Repo-Commit": "0" * 40, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    do_HEAD = do_GET

    def answer(self, code: int, body, headers: dict | None = None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in ({"Content-Length": len(data)} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.blobs, server.requests, server.token = {}, {}, [], "right"
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(short_pendulum, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "run"
    train(SCRIPTS[0], folder, total_timesteps=200, eval_frequency=100)
    return folder


def command(server, cwd: Path, *words, token: str = "right") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of evaluate.py typed in `cwd`; the library reads its settings when it is
    imported, hence a process that imports it again."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cwd / "cache"),
        "HF_TOKEN": token,
    }
    settings |= {"HF_HUB_DISABLE_XET": "1"}
    words = [*words, "--episodes", "2", "--device", "cpu"]
    process = Fork("evaluate", words, cwd=cwd, variables=settings, forget="huggingface_hub")
    stdout, stderr = process.communicate(timeout=200)
    return process.returncode, stdout, stderr


def test_a_policy_goes_to_the_hub_and_comes_back(run, server, tmp_path):
    code, pushed, stderr = command(server, tmp_path, run, "--push-to-hub", "me/pendulum", "--json")
    assert code == 0, stderr
    assert sorted(server.files) == sorted(
        [
            "README.md",
            "best.pt",
            "config.yaml",
            "curve.png",
            "evaluation.json",
            "evaluations.csv",
            "replay.mp4",
        ]
    )
    code, fetched, stderr = command(server, tmp_path, "hf://me/pendulum", "--json", "--save-video")
    assert code == 0, stderr
    results = [json.loads(text) for text in (pushed, fetched)]
    assert results[0]["episodes"] == results[1]["episodes"]
    assert results[1]["checkpoint"] == "hf://me/pendulum"
    assert len(list((tmp_path / "me-pendulum" / "videos").glob("*.mp4"))) == 2
    assert [path for path in server.requests if "resolve" in path and "best.pt" not in path] == []


@pytest.mark.parametrize(
    ("words", "token", "expected"),
    [
        (["--push-to-hub", "me/pendulum"], "wrong", ["me/pendulum", "hf auth login"]),
        (["hf://me/other"], "right", ["hf://me/other"]),
        (["hf://me/pendulum"], "right", ["hf://me/pendulum", "best.pt"]),  # nothing was uploaded yet
    ],
)
def test_what_the_hub_refuses_is_one_sentence(words, token, expected, run, server, tmp_path):
    source = [] if words[0].startswith("hf://") else [run]
    code, _, stderr = command(server, tmp_path, *source, *words, token=token)
    assert code == 1
    last = stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr and all(word in last for word in expected), stderr


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry") / "repository"
    main(
        [
            str(run),
            "--episodes",
            "2",
            "--device",
            "cpu",
            "--push-to-hub",
            "me/pendulum",
            "--dry-run",
            str(folder),
        ]
    )
    return folder


def test_the_card_has_the_score_in_the_form_of_the_hub(folder):
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    episodes = json.loads((folder / "evaluation.json").read_text())
    (model,) = head["model-index"]
    (result,) = model["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"name": "Pendulum-v1", "type": "Pendulum-v1"}
    (metric,) = result["metrics"]
    assert metric["type"] == "mean_reward"
    assert metric["value"] == f"{episodes['return_mean']:.2f} +/- {episodes['return_std']:.2f}"
    table = [line for line in (folder / "README.md").read_text().splitlines() if "|" in line]
    assert [line.count("|") for line in table] == [5, 5, 5]  # heads, a rule, one row


def test_what_is_uploaded_scores_and_trains_again_and_tells_nothing_of_the_machine(folder, run, tmp_path):
    uploaded = evaluate(Options(str(folder), episodes=2, device="cpu"))
    assert uploaded["episodes"] == evaluate(Options(str(run), episodes=2, device="cpu"))["episodes"]
    again = parse(SCRIPTS[0], flags({"config": folder / "config.yaml", "device": "cpu", "num_threads": 1}))
    trained = load_checkpoint(run)["args"]
    assert {name: getattr(again, name) for name in trained if name not in ("runs_dir", "run_name")} == {
        name: value for name, value in trained.items() if name not in ("runs_dir", "run_name")
    }
    for file in folder.iterdir():
        assert str(run.parent).encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"push_to_hub": "pendulum"}, ["--push-to-hub", "user/name"]),
        ({"dry_run": Path("somewhere")}, ["--dry-run", "--push-to-hub"]),
        ({"export_torch": Path("nowhere/policy.pt2")}, ["policy.pt2", "folder nowhere"]),
        ({"push_to_hub": "me/pendulum", "dry_run": ROOT}, ["--dry-run", str(ROOT)]),
    ],
)
def test_a_wrong_option_is_one_sentence(changes, words, run):
    message = input_error(evaluate, Options(str(run), **changes))
    assert all(word in message for word in words)


def test_a_policy_is_not_presented_by_the_episodes_that_chose_it(run, tmp_path):
    words = [str(run), "--push-to-hub", "me/pendulum", "--dry-run", str(tmp_path / "new")]
    message = input_error(main, [*words, "--seed", "19995"])
    assert "--seed 19995" in message and "from 20,000" in message
    assert not (tmp_path / "new").exists()


def test_every_episode_is_filmed_and_the_first_one_shown(run, tmp_path):
    words = [str(run), "--push-to-hub", "me/pendulum", "--dry-run", str(tmp_path / "new")]
    main([*words, "--save-video", "--out", str(tmp_path), "--episodes", "2", "--device", "cpu"])
    films = sorted((tmp_path / "videos").iterdir())
    assert len(films) == 2
    assert (tmp_path / "new" / "replay.mp4").read_bytes() == films[0].read_bytes()


@pytest.mark.parametrize("source", ["hf://me", "hf://me/a/b", "hf://me/a b"])
def test_a_wrong_address_is_one_sentence(source):
    assert "hf://user/name" in input_error(load_policy, source)
