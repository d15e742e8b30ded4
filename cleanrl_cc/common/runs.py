"""What a run records: folder, evaluations, checkpoints, resume. `logs.py` logs, `interruption.py` stops it.

A run folder holds `args.json`, TensorBoard's event file, `progress.csv` (one line per log line),
`evaluations.csv`, `last.pt` and `replay-<step>.npz` (together they resume), `best.pt` (it evaluates), and on
demand `policy-<step>.pt` and `videos/`. Nothing here knows an algorithm or draws what the training draws.
"""

import contextlib
import math
import secrets
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from cleanrl_cc.common import announcements
from cleanrl_cc.common.arguments import RunArgs
from cleanrl_cc.common.checkpoints import (
    Agent,
    Buffer,
    Checkpoint,
    kept_generators,
    load_optimizers,
    load_replay,
    remove_replays,
    require_finite,
    rng_state,
    save_checkpoint,
    save_replay,
    set_rng_state,
)
from cleanrl_cc.common.distributed import disconnect, exchange, gather, rank, require_connected, size
from cleanrl_cc.common.envs import make_env, recipe, restore_envs, snapshot_envs
from cleanrl_cc.common.errors import InputError, gist
from cleanrl_cc.common.evaluation import EVALUATION_SEED, Film, add_environments, play_episodes, summarize
from cleanrl_cc.common.files import FolderLock
from cleanrl_cc.common.folders import new_folder, write_description
from cleanrl_cc.common.interruption import Interruptible
from cleanrl_cc.common.machine import describe_arithmetic, unwatch_networks
from cleanrl_cc.common.scripts import script_name
from cleanrl_cc.common.unsaved import Unsaved
from cleanrl_cc.common.vector import require_alike

LOG_FREQUENCY = 1000  # global steps from one line of progress.csv to the next


class Run(Interruptible):
    """One training run and everything that is written of it: `begin`, then `evaluate_and_save` after each
    step, then `finish`. Nothing is written before `begin`.

    In a run of several processes all call every method; that of rank 0 alone says and writes anything.

    Args:
        args: the script's.
        agent: what learns.
        envs: the training environments.
        rng: every generator that the training draws from, beside the global ones.
        buffer: where the training stores its steps.

    Attributes:
        folder: of this run, from `begin` on.
        writes: True in one process alone, rank 0.

    Raises:
        InputError: films are wanted of an environment that draws none.
    """

    def __init__(
        self,
        args: RunArgs,
        agent: Agent,
        envs: gym.vector.VectorEnv,
        rng: np.random.Generator,
        buffer: Buffer,
    ):
        super().__init__(args, writes=rank() == 0)
        unwatch_networks()
        self.agent = agent
        self.envs = envs
        self.rng = rng
        self.buffer = buffer
        self.unsaved = Unsaved(agent, buffer)
        self.algorithm = script_name(type(args))
        require_connected(self.algorithm)
        self.recipe = recipe(args)
        self.replay_prefix = f"rank-{rank()}-" if size() > 1 else ""
        self.evaluation = math.nan  # mean return of the last one
        self.evaluated_step = -1
        self.best_return = -math.inf
        self.lock: FolderLock | None = None
        self.eval_envs: list[gym.Env] = []  # made when they are first needed, then kept
        if args.capture_video and self.writes:  # what cannot be filmed is told now, not after hours
            self._make_eval_envs(1)

    # The beginning

    def begin(self) -> tuple[np.ndarray, np.ndarray, int, dict[str, Any]]:
        """Makes the folder; or, with `args.resume`, puts everything back where `save` found it.

        Returns:
            The current observations (N, ...); (N,) bool, for which the next step is a reset; the global step;
            and the metrics of the last update.

        Raises:
            InputError: a folder that exists, is in use or cannot be written; a checkpoint that is damaged or
                does not fit the script, of which then nothing has changed.
        """
        if self.args.resume:
            return self._resume(self.args.resume)
        self._settle(new_folder(self.args, self.algorithm) if self.writes else Path(self.args.runs_dir))
        if self.writes:
            self.lock = FolderLock(self.folder)
        obs, _ = self.envs.reset()
        self._open(first_step=0, tracker_id=None)
        return obs, np.zeros(self.args.num_envs, bool), 0, {}

    def _resume(self, path: str) -> tuple[np.ndarray, np.ndarray, int, dict[str, Any]]:
        self._settle(Path(path) if Path(path).is_dir() else Path(path).parent)
        if self.writes:
            self.lock = FolderLock(self.folder)
        try:
            checkpoint = Checkpoint.load(path, self.algorithm, self.args.device)
            obs, autoreset = self._restore(path, checkpoint)
            if self.writes:
                self._cut_logs(checkpoint.global_step, checkpoint.lines)
        except InputError:
            if self.lock:
                self.lock.release()
            raise
        self._open(checkpoint.global_step, checkpoint.tracker_id)
        if checkpoint.evaluation_due:
            self.evaluate(checkpoint.global_step)
            self.saved_signal = self.stop_signal  # one that came meanwhile found everything saved
            self.exit_if_stopped()
        return obs, autoreset, checkpoint.global_step, dict(checkpoint.metrics)

    def _restore(self, path: str, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
        if (saved := 1 + len(checkpoint.other_ranks)) != size():
            raise InputError(f"{path} needs {saved} processes, which torchrun starts, and not {size()}.")
        try:
            self.agent.load_state_dict(checkpoint.agent)
            self.agent.num_updates = int(checkpoint.num_updates)
            load_optimizers(self.agent, checkpoint.optimizers)
            if Path(checkpoint.replay).name != checkpoint.replay:
                raise ValueError(f"the replay file {checkpoint.replay} does not lie beside it")
            replay = self.folder / checkpoint.replay
            load_replay(replay, self.buffer, self.replay_prefix, checkpoint.replay_token)
            own = checkpoint.other_ranks[rank() - 1] if rank() else vars(checkpoint)
            obs, autoreset, cut = restore_envs(self.envs, own["envs"])
            if self.buffer.num_added:  # what they did not go on with
                last_row = (self.buffer.num_added - 1) % len(self.buffer.truncations)
                self.buffer.truncations[last_row, cut] = True
            set_rng_state(own["random"], self.rng)
            self.evaluated_step, self.evaluation = checkpoint.evaluated
        except Exception as error:  # whatever an edited or incomplete checkpoint brings about
            raise InputError(f"{path} cannot be resumed ({type(error).__name__}: {gist(error)}).") from error
        self.best_return = checkpoint.best_return
        self.earlier_seconds = checkpoint.seconds
        self.episodes = checkpoint.episodes
        return obs, autoreset

    def _open(self, first_step: int, tracker_id: str | None):
        if self.writes:
            write_description(self.folder, self.args, self.algorithm)
        self._open_log(first_step, tracker_id)
        self._take_signals()

    # After each step

    def log(self, global_step: int, metrics: dict):
        super().log(global_step, metrics | {"charts/num_updates": self.agent.num_updates})

    def evaluate_and_save(self, global_step: int, previous_step: int, metrics: dict):
        """What is due by `eval_frequency` and `checkpoint_frequency`; upon a signal it saves, and exits."""
        if crossed(global_step, previous_step, self.args.eval_frequency):
            self._evaluate_or_save(global_step, metrics)
        if crossed(global_step, previous_step, self.args.checkpoint_frequency) or self.stop_signal:
            self.save(global_step, metrics)
        self.exit_if_stopped()

    # Evaluation

    def evaluate(self, global_step: int) -> float:
        """Plays `eval_episodes` deterministic episodes, always the same, and keeps the best as `best.pt`.

        Returns:
            The mean return (on rank 0); where a signal ends this, of the one before: resumed, it is played.
        """
        if self.evaluated_step == global_step or not self.writes:
            return self.evaluation
        with self._untimed():
            return self._evaluate(global_step)

    def _evaluate_or_save(self, global_step: int, metrics: dict) -> float:
        """An evaluation that fails, as where an environment cannot draw, costs no step of the training."""
        try:
            return self.evaluate(global_step)
        except InputError:
            self.evaluation_due = True
            if self.stop_signal:  # Ctrl-C may also have ended an encoder or a simulator
                return self.evaluation
            if size() == 1:  # several processes save together, and the others know of nothing
                with contextlib.suppress(InputError):  # weights that are not finite, or a full disk
                    self.save(global_step, metrics)
                    self.say_how_to_go_on()
            raise

    def _evaluate(self, global_step: int) -> float:
        require_finite(self.agent, self.buffer, global_step, self.place)
        self._make_eval_envs(self.args.eval_episodes)
        video = self.folder / "videos" / f"step-{global_step:08d}.mp4"
        film = Film(video, self.eval_envs[0], self.args.action_repeat)
        films = {EVALUATION_SEED: film} if self.args.capture_video else {}
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + self.args.eval_episodes)
        with kept_generators():
            episodes = play_episodes(self.eval_envs, self.agent, seeds, films, is_stopped=self.is_stopping)
        self.evaluation_due = not episodes  # a resumed run then begins with it
        if not episodes:
            return self.evaluation
        summary = summarize(episodes)
        self.evaluation = summary["return_mean"]
        self.evaluated_step = global_step
        self.say(f"step {global_step:,}: evaluation {self.evaluation:.1f} +- {summary['return_std']:.1f}")
        seeds = {"episodes": len(seeds), "first_seed": EVALUATION_SEED}
        self._append("evaluations.csv", self._clock(global_step) | summary | seeds)
        self._scalars(global_step, {f"eval/{key}": value for key, value in summary.items()})
        policy = self._policy(global_step) | {"evaluation": summary}
        if self.args.keep_policies:
            save_checkpoint(self.folder / f"policy-{global_step}.pt", policy)
        if self.evaluation > self.best_return:
            self.best_return = self.evaluation
            save_checkpoint(self.folder / "best.pt", policy)
        self._track_film(global_step, video)
        return self.evaluation

    def _make_eval_envs(self, num_episodes: int):
        with kept_generators():
            make = partial(make_env, **self.recipe)
            add_environments(self.eval_envs, make, num_episodes, self.args.capture_video)
            require_alike(self.eval_envs, self.envs.single_observation_space, self.envs.single_action_space)

    # Checkpoints

    def save(self, global_step: int, metrics: dict):
        """Writes everything that the run needs to go on as if it had not stopped.

        Args:
            metrics: those of the last update, floats or tensors.

        Raises:
            InputError: weights, metrics or stored steps that are not finite, or a full disk. The checkpoint
                written before stays whole.
        """
        self.saved_signal = self.stop_signal  # one that comes later finds its own save
        metrics = self._finite(global_step, metrics)
        require_finite(self.agent, self.buffer, global_step, self.place)
        if global_step >= self.args.total_timesteps and global_step > self.logged_step:
            self._log_last(global_step, metrics)
        with self._untimed():
            self._save(global_step, metrics)

    def _save(self, global_step: int, metrics: dict):
        self.unsaved.check(self.warn)
        arrays = {self.replay_prefix + name: values for name, values in self.buffer.arrays().items()}
        own = {"envs": snapshot_envs(self.envs), "random": rng_state(self.rng), "replay": arrays}
        processes = gather(own)
        if processes:  # this one writes
            self._write(global_step, metrics, processes)
            if self.agent.num_updates == 0 and global_step >= self.args.total_timesteps:
                self.say(
                    f"Nothing was learned: {global_step:,} steps end before the first update. "
                    "A larger --total-timesteps reaches it."
                )
        if size() > 1:
            exchange(0)  # nobody exits before the files are whole: torchrun would end the others

    def _write(self, global_step: int, metrics: dict, processes: list[dict]):
        arrays = {name: values for process in processes for name, values in process.pop("replay").items()}
        replay_name = f"replay-{global_step}.npz"
        replay_token = secrets.token_hex(8)
        if (self.folder / replay_name).exists():  # until `last.pt` is new, that one belongs to it
            replay_name = f"replay-{global_step}-{replay_token}.npz"
        self._logs_to_disk()
        save_replay(self.folder / replay_name, arrays, replay_token)
        checkpoint = Checkpoint(
            **self._policy(global_step),
            optimizers={name: each.state_dict() for name, each in self.agent.optimizers.items()},
            num_updates=self.agent.num_updates,
            metrics=metrics,
            **processes[0],
            other_ranks=processes[1:],
            replay=replay_name,
            replay_token=replay_token,
            computed_by=describe_arithmetic(self.args.device),
            best_return=self.best_return,
            evaluated=[self.evaluated_step, self.evaluation],
            evaluation_due=self.evaluation_due,
            lines=self.lines,
            episodes=self.episodes,
            seconds=self.seconds(),
            tracker_id=self.tracker.id if self.tracker else None,
        )
        save_checkpoint(self.folder / "last.pt", vars(checkpoint))
        remove_replays(self.folder, kept=replay_name)

    def _policy(self, global_step: int) -> dict[str, Any]:
        """What both checkpoints hold."""
        return {
            "algorithm": self.algorithm,
            "args": asdict(self.args),
            "recipe": self.recipe,
            "global_step": global_step,
            "agent": self.agent.state_dict(),
        }

    # The end

    def finish(self, global_step: int, metrics: dict) -> float:
        """Evaluates and saves for the last time, closes everything, and prints the result.

        Returns:
            The mean return of that evaluation (on rank 0).
        """
        mean_return = self._evaluate_or_save(global_step, metrics)
        self.save(global_step, metrics)
        if self.evaluation_due:
            self.exit_if_stopped()
        self.envs.close()
        self.close()
        if self.writes:
            episodes = f"episodes: {self.args.eval_episodes}"
            announcements.show(f"{self.place}: mean return {mean_return:.1f}, {episodes}")
        return mean_return

    def close(self):
        """Closes everything but the training environments, and gives the signals back."""
        for env in self.eval_envs:
            env.close()
        super().close()
        if self.lock:
            self.lock.release()
        disconnect()


def crossed(global_step: int, previous_step: int, frequency: int) -> bool:
    """True if a multiple of `frequency` lies in (previous_step, global_step]; never for frequency 0."""
    return frequency > 0 and global_step // frequency > previous_step // frequency
