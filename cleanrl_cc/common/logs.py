"""What a run tells while it trains: progress.csv, TensorBoard, Weights & Biases, and a progress bar."""

import contextlib
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.tables import append_csv


class Log:
    """The logs of one run, in its folder.

    Args:
        args: the run's.
        writes: whether this process says and writes anything; of several processes, one does.
    """

    folder: Path  # a run has it before `_open_log`

    def __init__(self, args, writes: bool):
        self.args, self.writes = args, writes
        self.episodes = []  # ended since the last log line
        self.last_return, self.earlier_seconds = math.nan, 0.0
        self.tracker = self.bar = self.writer = None

    def _open_log(self, first_step: int, tracker_id: str | None):
        if self.writes:
            self.writer = SummaryWriter(self.folder, purge_step=first_step + 1 if first_step else None)
            if self.args.track:
                self._start_tracker(tracker_id)
            if sys.stderr.isatty():
                self.bar = tqdm(
                    total=self.args.total_timesteps, initial=first_step, unit="step", dynamic_ncols=True
                )
        self.first_step = self.logged_step = first_step
        self.started_at = self.logged_at = self.shown_at = time.perf_counter()
        # seconds of evaluations and checkpoints: since the start, and until the last log line
        self.untimed = self.logged_untimed = 0.0

    def _start_tracker(self, tracker_id: str | None):
        import wandb

        try:
            self.tracker = wandb.init(
                project=self.args.wandb_project,
                entity=self.args.wandb_entity,
                name=self.folder.name,
                id=tracker_id,  # None: W&B draws one
                resume="allow",
                dir=self.folder,
                config=asdict(self.args),
            )
        except wandb.Error as error:
            raise InputError(
                f"--track: {error}. Run `wandb login`, set WANDB_MODE=offline, or leave it out."
            ) from error
        self.tracker.define_metric("global_step")
        # W&B's own step may not go back, ours does after a resume
        self.tracker.define_metric("*", step_metric="global_step")

    def say(self, text: str):
        """Prints a line to stderr without tearing the progress bar."""
        if self.writes:
            tqdm.write(text, file=sys.stderr)

    def seconds(self) -> float:
        """Of training, those before a resume included."""
        return self.earlier_seconds + time.perf_counter() - self.started_at

    def log_episodes(self, global_step: int, infos: dict):
        """Takes the ended episodes out of a vector environment's `infos`; of
        several processes, those of rank 0."""
        if not self.writes:
            return
        for index in np.flatnonzero(infos.get(f"_{EPISODE}", [])):
            self.last_return, length = float(infos[EPISODE]["r"][index]), int(infos[EPISODE]["l"][index])
            self.episodes.append([self.last_return, length])
            self._scalars(
                global_step, {"charts/episodic_return": self.last_return, "charts/episodic_length": length}
            )

    def log(self, global_step: int, metrics: dict):
        """Writes a line of progress.csv: `metrics` (floats or tensors), speed, and means
        over the episodes since the last line.

        Raises:
            InputError: a metric is not finite. The checkpoint written before stays.
        """
        if not self.writes:
            return
        values = {key: float(value) for key, value in metrics.items()}
        for key, value in values.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{key} became {value} at step {global_step}: the run stops, "
                    f"its last good checkpoint is in {self.folder}. "
                    "A lower learning rate or smaller rewards may help."
                )
        now = time.perf_counter()
        training_seconds = (now - self.logged_at) - (self.untimed - self.logged_untimed)
        values["charts/sps"] = (global_step - self.logged_step) / max(training_seconds, 1e-9)
        self.logged_at, self.logged_untimed, self.logged_step = now, self.untimed, global_step
        self._scalars(global_step, values)
        if self.episodes:
            returns, lengths = zip(*self.episodes, strict=True)
            values |= {
                "charts/episodic_return": float(np.mean(returns)),
                "charts/episodic_length": float(np.mean(lengths)),
            }
        append_csv(
            self.folder / "progress.csv",
            self._clock(global_step) | {"charts/episodes": len(self.episodes)} | values,
        )
        self.episodes = []

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
        for key, value in values.items():
            self.writer.add_scalar(key, value, global_step)
        if self.tracker:
            self.tracker.log(values | {"global_step": global_step})

    def show_progress(self, global_step: int):
        """Moves the progress bar; where there is no terminal, prints a line every 30 seconds."""
        if not self.writes:
            return
        if self.bar:
            self.bar.set_postfix({"return": f"{self.last_return:.1f}"}, refresh=False)
            self.bar.update(global_step - self.bar.n)
        elif time.perf_counter() - self.shown_at > 30:
            self.shown_at, total = time.perf_counter(), self.args.total_timesteps
            steps, seconds = global_step - self.first_step, self.shown_at - self.started_at
            sps = steps / max(seconds - self.untimed, 1e-9)
            # with the evaluations and checkpoints to come
            left = (total - global_step) * seconds / max(steps, 1) / 60
            self.say(
                f"step {global_step:,} of {total:,}  {sps:.0f} steps/s  "
                f"return {self.last_return:.1f}  {left:.0f} min left"
            )

    def _close_log(self):
        for closable in (self.bar, self.writer):
            if closable is not None:
                closable.close()
        if self.tracker:
            self.tracker.finish()
