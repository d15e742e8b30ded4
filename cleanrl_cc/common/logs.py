"""What a run tells while it trains: progress.csv, TensorBoard, Weights & Biases, and a progress bar."""

import contextlib
import math
import sys
import threading
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from cleanrl_cc.common import announcements
from cleanrl_cc.common.distributed import size
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import gone, to_disk, writing
from cleanrl_cc.common.memory import free_memory, taken_memory
from cleanrl_cc.common.scripts import start_command
from cleanrl_cc.common.tables import append_csv, cut_csv

CSV_FILES = ("progress.csv", "evaluations.csv")


class Log:
    """The logs of one run, in its folder.

    Args:
        args: the run's.
        writes: whether this process says and writes anything; of several processes, one does.
    """

    place: Path  # the folder as the user names it; a run has both before `_open_log`
    folder: Path  # the same, absolute: an environment may change the working directory
    algorithm = ""  # the script

    def __init__(self, args, writes: bool):
        self.args = args
        self.writes = writes
        self.episodes: list[list] = []  # [return, length] of those that ended since the last log line
        self.lines: dict[str, int] = dict.fromkeys(CSV_FILES, 0)  # in the folder
        self.warnings: set[str] = set()
        self.memory = (math.nan, math.nan)  # GB taken and free, as they were when looked at last
        self.last_return = math.nan
        self.earlier_seconds = 0.0
        self.tracker: Any = None
        self.bar: tqdm | None = None
        self.writer: SummaryWriter | None = None

    def _settle(self, place: Path):
        self.place = place
        self.folder = place.absolute()

    def _open_log(self, first_step: int, tracker_id: str | None):
        if self.writes:
            if self.args.num_envs > 1:
                self.say(update_ratio(self.args))
            self.say(f"Run folder: {self.place}")
            threading.excepthook = _leave_out_full_disks
            with self._writing_events():
                self.writer = SummaryWriter(self.folder, purge_step=first_step + 1 if first_step else None)
                self._describe(self.writer, first_step)
            if self.args.track:
                self._start_tracker(tracker_id)
            if sys.stderr and sys.stderr.isatty():
                self.bar = tqdm(
                    total=self.args.total_timesteps, initial=first_step, unit="step", dynamic_ncols=True
                )
        self.logged_step = first_step
        self.started_at = self.logged_at = self.looked_at = time.perf_counter()
        # of the last lines without a terminal: time, step, and seconds of evaluations and checkpoints so far
        self.shown = deque([(self.started_at, first_step, 0.0)], maxlen=4)
        self.weighed_at = -math.inf
        # seconds of evaluations and checkpoints: since the start, and until the last log line
        self.untimed = self.logged_untimed = 0.0

    def _describe(self, writer: SummaryWriter, first_step: int):
        """Tells TensorBoard the arguments: as a table, and as hyperparameters with the last evaluation."""
        rows = [f"| {name} | {value} |" for name, value in vars(self.args).items()]
        writer.add_text("arguments", "\n".join(["| argument | value |", "|---|---|", *rows]), first_step)
        simple = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in vars(self.args).items()
        }
        for summary in hparams({"algorithm": self.algorithm} | simple, {"eval/return_mean": math.nan}):
            writer._get_file_writer().add_summary(summary)

    def _start_tracker(self, tracker_id: str | None):
        import wandb

        try:
            self.tracker = wandb.init(
                project=self.args.wandb_project,
                entity=self.args.wandb_entity,
                name=self.args.run_name or self.folder.name,
                group=f"{self.args.env_id} {self.algorithm}",  # its seeds
                tags=[self.algorithm, self.args.env_id[:64]],  # W&B takes no longer ones
                notes=start_command(),
                id=tracker_id,  # None: W&B draws one
                resume="allow",
                dir=self.folder,
                config={"algorithm": self.algorithm} | asdict(self.args),
            )
        except (wandb.Error, ValueError) as error:  # a ValueError is of its settings, in several lines
            reason = ": ".join(map(str.strip, str(error).splitlines()[:3])).rstrip(".")
            remedy = "Run `wandb login`, set WANDB_MODE=offline, or leave it out."
            raise InputError(f"--track: {reason}. {remedy}") from error
        self.tracker.define_metric("global_step")
        # W&B's own step may not go back, ours does after a resume
        self.tracker.define_metric("*", step_metric="global_step")

    def say(self, text: str):
        """Prints a line to stderr without tearing the progress bar."""
        if self.writes:
            announcements.say(text)

    def warn(self, text: str):
        """Says it the first time."""
        if text not in self.warnings:
            self.warnings.add(text)
            self.say(f"Warning: {text}")

    def seconds(self) -> float:
        """Of training, those before a resume included."""
        return self.earlier_seconds + time.perf_counter() - self.started_at

    def log_episodes(self, global_step: int, infos: dict):
        """Takes the ended episodes out of a vector environment's `infos`, of several processes those of
        rank 0, and shows how far the run is."""
        if not self.writes:
            return
        for index in np.flatnonzero(infos.get(f"_{EPISODE}", [])):
            self.last_return = float(infos[EPISODE]["r"][index])
            length = int(infos[EPISODE]["l"][index])
            self.episodes.append([self.last_return, length])
            self._scalars(
                global_step, {"charts/episodic_return": self.last_return, "charts/episodic_length": length}
            )
        self.show_progress(global_step)

    def log(self, global_step: int, metrics: dict):
        """Writes a line of progress.csv: `metrics` (floats or tensors), speed, and means
        over the episodes since the last line.

        Raises:
            InputError: a metric is not finite. The checkpoint written before stays.
        """
        if not self.writes:
            return
        values = self._finite(global_step, metrics)
        now = time.perf_counter()
        training_seconds = (now - self.logged_at) - (self.untimed - self.logged_untimed)
        values["charts/sps"] = (global_step - self.logged_step) / max(training_seconds, 1e-9)
        taken, free = self._weigh()
        values |= {"charts/memory_gb": taken, "charts/free_memory_gb": free}
        self.logged_at = now
        self.logged_untimed = self.untimed
        self.logged_step = global_step
        self._scalars(global_step, values)
        if self.episodes:
            returns, lengths = zip(*self.episodes, strict=True)
            values |= {
                "charts/episodic_return": float(np.mean(returns)),
                "charts/episodic_length": float(np.mean(lengths)),
            }
        self._append(
            "progress.csv", self._clock(global_step) | {"charts/episodes": len(self.episodes)} | values
        )
        self.episodes = []

    def _log_last(self, global_step: int, metrics: dict):
        """The line of what came after the last full period. Its episodes stay for the next full line, should
        the run be made longer: that line is then the one of a run that was longer from the start."""
        episodes = self.episodes
        self.log(global_step, metrics)
        self.episodes = episodes

    def _cut_logs(self, global_step: int, lines: dict[str, int]):
        """Takes off what came after a checkpoint, which also says how many lines each file had."""
        for name in CSV_FILES:
            self.lines[name], damage = cut_csv(self.folder / name, global_step, lines.get(name))
            if damage:
                self.say(damage)

    def _weigh(self) -> tuple[float, float]:
        """GB that the run takes, and that are still free on the machine or in its container; looked at every
        ten seconds at most. Warns as they run short."""
        now = time.perf_counter()
        if now - self.weighed_at > 10:
            self.weighed_at = now
            taken = taken_memory() / 1e9
            free = free_memory() / 1e9
            self.memory = (round(taken, 3), round(free, 3))
            if free < 0.1 * (taken + free):
                self.warn(
                    "less than a tenth of the memory is left, and the system may soon kill the run: "
                    "Ctrl-C saves it. A smaller --buffer-size or fewer --num-envs take less."
                )
        return self.memory

    def _finite(self, global_step: int, metrics: dict) -> dict[str, float]:
        values = {}
        for key, metric in metrics.items():
            try:
                value = values[key] = float(metric)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"{key} is no number at step {global_step}: a metric is a float, or a tensor of one."
                ) from error
            if not math.isfinite(value):
                raise InputError(
                    f"{key} became {value} at step {global_step}: the run stops, "
                    f"its last good checkpoint is in {self.place}. "
                    "A lower learning rate or smaller rewards may help."
                )
        return values

    def _append(self, name: str, row: dict):
        append_csv(self.folder / name, row)
        self.lines[name] += 1

    def _logs_to_disk(self):
        """What was logged so far then survives a power cut."""
        for name, number in self.lines.items():
            if number:
                with writing(self.folder / name):
                    to_disk(self.folder / name)
        if self.writer:
            with self._writing_events():
                self.writer.flush()

    def _writing_events(self):
        return writing(self.folder / "events.out.tfevents")

    @contextlib.contextmanager
    def _untimed(self):
        """What happens meanwhile is no training: `charts/sps` leaves its seconds out."""
        began = time.perf_counter()
        yield
        self.untimed += time.perf_counter() - began

    def _clock(self, global_step: int) -> dict:
        return {
            "global_step": global_step,
            "frames": global_step * self.args.action_repeat,
            "seconds": round(self.seconds(), 1),
        }

    def _scalars(self, global_step: int, values: dict):
        if self.writer:
            with self._writing_events():
                for key, value in values.items():
                    self.writer.add_scalar(key, value, global_step)
        if self.tracker:
            self.tracker.log(values | {"global_step": global_step})

    def _track_film(self, global_step: int, path: Path):
        if self.tracker and path.exists():
            import wandb

            film = wandb.Video(str(path), format="mp4")
            self.tracker.log({"videos/evaluation": film, "global_step": global_step})

    def show_progress(self, global_step: int):
        """Moves the progress bar; where there is no terminal, prints a line every 30 seconds.

        Raises:
            InputError: the folder is gone. It is looked for every second.
        """
        if not self.writes:
            return
        now = time.perf_counter()
        if now - self.looked_at > 1:
            self.looked_at = now
            if not self.folder.is_dir():
                raise gone(self.folder)
        taken, free = self._weigh()
        if self.bar:
            numbers = {"return": f"{self.last_return:.1f}", "memory": f"{taken:.1f} GB"}
            self.bar.set_postfix(numbers, refresh=False)
            with contextlib.suppress(OSError):  # the terminal was closed
                self.bar.update(global_step - self.bar.n)
        elif now - self.shown[-1][0] > 30:
            shown_at, shown_step, untimed = self.shown[0]  # not the start: steps without updates are fast
            self.shown.append((now, global_step, self.untimed))
            total = self.args.total_timesteps
            steps = global_step - shown_step
            seconds = now - shown_at
            sps = steps / max(seconds - (self.untimed - untimed), 1e-9)
            # with the evaluations and checkpoints to come
            left = (total - global_step) * seconds / max(steps, 1) / 60
            self.say(
                f"step {global_step:,} of {total:,}  {sps:.0f} steps/s  "
                f"return {self.last_return:.1f}  {left:.0f} min left  {taken:.1f} GB, {free:.1f} GB free"
            )

    def _close_log(self):
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.close()
        if self.writer:
            with self._writing_events():
                self.writer.close()
        if self.tracker:
            self.tracker.finish()


def update_ratio(args) -> str:
    """How much is learned from a step, in words: off-policy the same however many environments there are."""
    if hasattr(args, "updates_per_step"):
        ratio = args.updates_per_step
        return f"Updates: {ratio:g} per step, {ratio * args.num_envs:g} after each step of all environments"
    rows = size() * args.num_envs * args.num_steps
    minibatch = f"{args.num_minibatches} minibatches of {rows // args.num_minibatches:,}"
    return f"Updates: {args.num_epochs} epochs of {minibatch} steps, after every {rows:,} steps"


def _leave_out_full_disks(problem: threading.ExceptHookArgs):
    """TensorBoard writes in a thread; what fails there is raised again by its next call, and told then."""
    if not (problem.exc_type and issubclass(problem.exc_type, OSError)):
        threading.__excepthook__(problem)
