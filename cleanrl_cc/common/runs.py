"""What a run records: folder, evaluations, checkpoints, resume, interruption. Its logs are in `logs.py`.

A run folder holds `args.json`, TensorBoard's event file, `progress.csv` (one line per log line),
`evaluations.csv`, `last.pt` and `replay-<step>.npz` (together they resume), `best.pt` (it evaluates), and
`videos/`. Nothing here knows an algorithm, and nothing here draws from the generators that the training uses.
"""

import contextlib
import math
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cleanrl_cc.common.arguments import script_name
from cleanrl_cc.common.checkpoints import (
    atomic_file,
    load_checkpoint,
    load_replay,
    rng_state,
    save_replay,
    set_rng_state,
)
from cleanrl_cc.common.distributed import disconnect, exchange, gather, launcher, rank, size
from cleanrl_cc.common.envs import make_env, recipe, restore_envs, snapshot_envs
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.evaluation import EVALUATION_SEED, Film, play_episodes, side_by_side, summarize
from cleanrl_cc.common.folders import new_folder, write_description
from cleanrl_cc.common.logs import Log
from cleanrl_cc.common.tables import append_csv, read_csv, write_csv

LOG_FREQUENCY = 1000  # global steps from one line of progress.csv to the next

# What last.pt holds beyond best.pt.
SAVED = {
    "optimizers",
    "num_updates",
    "metrics",
    "envs",
    "random",
    "replay",
    "best_return",
    "evaluated",
    "episodes",
    "seconds",
}
SAVED |= {"tracker_id"}


class Run(Log):
    """The folder of one training run and everything written to it.

    With `args.resume` the folder is that of the checkpoint, which is then in `checkpoint`; nothing is
    written before `restore` has put it back. In a run of several processes all call every method; that of
    rank 0 alone says and writes anything.

    Attributes:
        checkpoint: what to `restore`, None in a new run.
        writes: True in one process alone, rank 0.
        stop_signal: the number of a SIGINT or SIGTERM received, else None; of
            several processes, when all know of it.

    Raises:
        InputError: a run field out of range, a folder that exists or cannot be
            written, a checkpoint that cannot be resumed.
    """

    def __init__(self, args):
        super().__init__(args, writes=rank() == 0)
        self.algorithm, self.recipe = script_name(type(args)), recipe(args)
        self.checkpoint = load_checkpoint(args.resume, self.algorithm) if args.resume else None
        self.replay_prefix = f"rank-{rank()}-" if size() > 1 else ""
        self.stop_signal = self.received_signal = self.saved_signal = None
        self.evaluation, self.best_return, self.evaluated_step = math.nan, -math.inf, -1
        self.eval_envs = []  # made when they are first needed, then kept
        if args.capture_video and self.writes:  # what cannot be filmed is told now, not after hours
            self._make_eval_envs(1)
        if self.checkpoint is None:
            self.folder = new_folder(args, self.algorithm) if self.writes else Path(args.runs_dir)
            self._open(first_step=0, tracker_id=None)
        else:
            self.folder = Path(args.resume) if Path(args.resume).is_dir() else Path(args.resume).parent
            if missing := SAVED - self.checkpoint.keys():
                lacks = ", ".join(sorted(missing))
                raise InputError(
                    f"{args.resume} cannot be resumed, it lacks {lacks}: "
                    "resume from a run folder or its last.pt."
                )
            if (saved := 1 + len(self.checkpoint.get("other_ranks", []))) != size():
                raise InputError(
                    f"{args.resume} needs {saved} processes, as many as wrote it, and not {size()}: "
                    "torchrun starts them."
                )

    def _open(self, first_step: int, tracker_id: str | None):
        if self.writes:
            write_description(self.folder, self.args, self.algorithm)
        self._open_log(first_step, tracker_id)
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: someone else handles signals
                signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, _frame):
        if size() > 1:
            # `count_steps` tells the others; launchers repeat a signal, so that a second one means nothing
            self.received_signal = number
            return
        if self.stop_signal is not None:
            raise KeyboardInterrupt
        self.stop_signal = number
        self.say(
            "Stopping after this step (and its evaluation, if one is under way); again: at once, "
            "without saving."
        )

    def count_steps(self, steps: int) -> int:
        """The sum of `steps` over all processes, which also agree here whether to
        stop: all then save at the same step."""
        if size() == 1:
            return steps
        every_steps, signals = zip(*exchange(steps, self.received_signal or 0), strict=True)
        self.stop_signal = max(signals) or None
        return sum(every_steps)

    # Evaluation

    def evaluate(self, agent, global_step: int) -> float:
        """Plays `eval_episodes` deterministic episodes, always the same ones,
        and keeps the best policy as `best.pt`.

        Returns:
            The mean return (on rank 0). The training's random generators do not notice.
        """
        if self.evaluated_step == global_step or not self.writes:
            return self.evaluation
        with self._untimed():
            return self._evaluate(agent, global_step)

    def _evaluate(self, agent, global_step: int) -> float:
        self._require_finite(agent, global_step)
        self._make_eval_envs(self.args.eval_episodes)
        video, films = self.folder / "videos" / f"step-{global_step:08d}.mp4", {}
        if self.args.capture_video:
            films = {EVALUATION_SEED: Film(video, self.eval_envs[0], self.args.action_repeat)}
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + self.args.eval_episodes)
        generators = rng_state()
        summary = summarize(play_episodes(self.eval_envs, agent, seeds, films))
        set_rng_state(generators)

        self.evaluation, self.evaluated_step = summary["return_mean"], global_step
        self.say(f"step {global_step:,}: evaluation {self.evaluation:.1f} +- {summary['return_std']:.1f}")
        seeds = {"episodes": len(seeds), "first_seed": EVALUATION_SEED}
        append_csv(self.folder / "evaluations.csv", self._clock(global_step) | summary | seeds)
        self._scalars(global_step, {f"eval/{key}": value for key, value in summary.items()})
        if self.evaluation > self.best_return:
            self.best_return = self.evaluation
            self._write("best.pt", global_step, {"agent": agent.state_dict(), "evaluation": summary})
        if films and self.tracker:
            import wandb

            self.tracker.log(
                {"videos/evaluation": wandb.Video(str(video), format="mp4"), "global_step": global_step}
            )
        return self.evaluation

    def _make_eval_envs(self, num_episodes: int):
        """Makes those that are still missing to play so many episodes;
        the first is the one that is filmed."""
        generators = rng_state()
        if not self.eval_envs:
            self.eval_envs.append(
                make_env(**self.recipe, render_mode="rgb_array" if self.args.capture_video else None)
            )
            if self.args.capture_video:
                self.eval_envs[0].reset(seed=EVALUATION_SEED)
                if not isinstance(self.eval_envs[0].render(), np.ndarray):
                    raise InputError(f"{self.args.env_id} draws no pictures: leave out --capture-video.")
        while len(self.eval_envs) < side_by_side(self.eval_envs[0], num_episodes):
            self.eval_envs.append(make_env(**self.recipe))
        set_rng_state(generators)

    # Checkpoints

    def save(self, global_step: int, metrics: dict, agent, envs, rng: np.random.Generator, buffer):
        """Writes everything that the run needs to go on as if it had not stopped.

        Args:
            metrics: those of the last update, floats or tensors.
            agent: an nn.Module with a dict `optimizers`, and `num_updates`.
            buffer: has `num_added` and `arrays()`, its filled part by name, `num_added` included.

        Raises:
            InputError: weights that are not finite, or a full disk. The
                checkpoint written before stays whole.
        """
        self.saved_signal = self.stop_signal  # one that comes later finds its own save
        self._require_finite(agent, global_step)
        if global_step >= self.args.total_timesteps and global_step > self.logged_step:
            self._log_last(global_step, metrics | {"charts/num_updates": agent.num_updates})
        with self._untimed():
            self._save_all(global_step, metrics, agent, envs, rng, buffer)

    def _log_last(self, global_step: int, metrics: dict):
        """The line of what came after the last full period. Its episodes stay for the next full line, should
        the run be made longer: that line is then the one of a run that was longer from the start."""
        episodes = self.episodes
        self.log(global_step, metrics)
        self.episodes = episodes

    def _save_all(self, global_step: int, metrics: dict, agent, envs, rng: np.random.Generator, buffer):
        arrays = {self.replay_prefix + name: values for name, values in buffer.arrays().items()}
        processes = gather({"envs": snapshot_envs(envs), "random": rng_state(rng), "replay": arrays})
        if self.writes:
            self._save(global_step, metrics, agent, processes)
            if agent.num_updates == 0 and global_step >= self.args.total_timesteps:
                self.say(
                    f"Nothing was learned: {global_step:,} steps end before the first update. "
                    "A larger --total-timesteps has some."
                )
        if size() > 1:
            exchange(0)  # nobody exits before the files are whole: torchrun would end the others

    def _save(self, global_step: int, metrics: dict, agent, processes: list[dict]):
        arrays = {name: values for process in processes for name, values in process.pop("replay").items()}
        replay_name = f"replay-{global_step}.npz"
        save_replay(self.folder / replay_name, arrays)
        state = {
            "agent": agent.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in agent.optimizers.items()},
            "num_updates": agent.num_updates,
            "metrics": {key: float(value) for key, value in metrics.items()},
            **processes[0],
            "other_ranks": processes[1:],
            "replay": replay_name,
            "best_return": self.best_return,
            "evaluated": [self.evaluated_step, self.evaluation],
            "episodes": self.episodes,
            "seconds": self.seconds(),
            "tracker_id": self.tracker.id if self.tracker else None,
        }
        self._write("last.pt", global_step, state)
        for old in self.folder.glob("replay-*"):
            if old.name != replay_name:
                old.unlink()

    def _require_finite(self, agent, global_step: int):
        if not all(tensor.isfinite().all() for tensor in agent.state_dict().values()):
            raise InputError(
                f"The weights are not finite at step {global_step}: "
                f"the last good checkpoint is in {self.folder}."
            )

    def _write(self, name: str, global_step: int, state: dict):
        common = {
            "algorithm": self.algorithm,
            "args": asdict(self.args),
            "recipe": self.recipe,
            "global_step": global_step,
        }
        with atomic_file(self.folder / name) as file:
            torch.save(common | state, file)

    def restore(
        self, agent, envs, rng: np.random.Generator, buffer
    ) -> tuple[int, dict, np.ndarray, np.ndarray]:
        """Puts everything back where `save` found it.

        Returns:
            The global step, the last metrics, the current observations (N, ...), and (N,)
            bool for which the next step is a reset.

        Raises:
            InputError: the checkpoint is incomplete or does not fit the script. Nothing was written.
        """
        state = self.checkpoint
        try:
            agent.load_state_dict(state["agent"])
            agent.num_updates, metrics = int(state["num_updates"]), dict(state["metrics"])
            for name, optimizer in agent.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            load_replay(self.folder / state["replay"], buffer, self.replay_prefix)
            own = state["other_ranks"][rank() - 1] if rank() else state
            obs, autoreset, cut = restore_envs(envs, own["envs"])
            if buffer.num_added:  # what they did not go on with
                buffer.truncations[(buffer.num_added - 1) % len(buffer.truncations), cut] = True
            set_rng_state(own["random"], rng)
            self.evaluated_step, self.evaluation = state["evaluated"]
        except Exception as error:  # whatever an edited or incomplete checkpoint brings about
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InputError(
                f"{self.args.resume} cannot be resumed ({type(error).__name__}: {reason})."
            ) from error
        self.best_return = state["best_return"]
        self.earlier_seconds = state["seconds"]
        self.episodes = state["episodes"]
        if self.writes:
            # lines after the checkpoint will come again
            for file in (self.folder / "progress.csv", self.folder / "evaluations.csv"):
                write_csv(
                    file, [row for row in read_csv(file) if int(row["global_step"]) <= state["global_step"]]
                )
        self._open(state["global_step"], state["tracker_id"])
        return state["global_step"], metrics, obs, autoreset

    # The end

    def exit_if_stopped(self):
        """After Ctrl-C or SIGTERM, once the caller has saved: says how
        to go on, and exits with 130 or 143."""
        if self.saved_signal is not None:
            self.close()
            words = [sys.argv[0], "--resume", str(self.folder)]
            if ":" in self.args.env_id:  # a module, which a resumed run imports if it is typed
                words += ["--env-id", self.args.env_id]
            if any(":" in wrapper for wrapper in self.args.training_wrappers):
                words += ["--training-wrappers", *self.args.training_wrappers]
            self.say(f"Saved. Go on with: {launcher()} {shlex.join(words)}")
            raise SystemExit(128 + self.saved_signal)

    def print_result(self, mean_return: float):
        """The last line of a run, to stdout."""
        if self.writes:
            print(f"{self.folder}: mean return {mean_return:.1f} over {self.args.eval_episodes} episodes")

    def close(self):
        """Closes files, the evaluation environment and the tracker, and gives the signals back."""
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        for env in self.eval_envs:
            env.close()
        self._close_log()
        disconnect()


def crossed(global_step: int, previous_step: int, frequency: int) -> bool:
    """True if a multiple of `frequency` lies in (previous_step, global_step]; never for frequency 0."""
    return frequency > 0 and global_step // frequency > previous_step // frequency
