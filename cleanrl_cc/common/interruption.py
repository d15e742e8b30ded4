"""What Ctrl-C and SIGTERM do to a run: it saves after the step under way, and ends."""

import contextlib
import signal
import weakref
from types import FrameType
from typing import Any

from torch._guards import CompileContext

from cleanrl_cc.common.arguments import module_words
from cleanrl_cc.common.distributed import exchange, size
from cleanrl_cc.common.errors import Stopped
from cleanrl_cc.common.logs import Log
from cleanrl_cc.common.scripts import resume_command


class Interruptible(Log):
    """A run that signals stop.

    Attributes:
        stop_signal: the number of a SIGINT or SIGTERM received, else None; of
            several processes, when all know of it.
    """

    def __init__(self, args, writes: bool):
        super().__init__(args, writes)
        self.stop_signal: int | None = None
        self.received_signal: int | None = None  # one that the other processes do not know of yet
        self.saved_signal: int | None = None  # one upon which everything was saved
        self.evaluation_due = False  # whether the last one was given up for a signal, or failed
        self.earlier_handlers: dict[int, Any] = {}

    def _take_signals(self):
        """Until `close`; or until an error has ended the run, which then neither stops at a signal nor keeps
        its memory for one."""
        earlier = self.earlier_handlers
        reference = weakref.ref(self)

        def handle(number: int, frame: FrameType | None):
            run = reference()
            if run is not None and _is_known_to(frame, run):
                run._request_stop(number)
                return
            _give_back(earlier)
            signal.raise_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: someone else handles signals
                earlier[number] = signal.signal(number, handle)

    def _request_stop(self, number: int):
        if size() > 1:
            # `count_steps` tells the others; launchers repeat a signal, so that a second one means nothing
            self.received_signal = number
            return
        if self.stop_signal is not None:
            raise Stopped(128 + number)
        if CompileContext.try_get() is not None:  # the first update, which may take a minute to begin
            self.say("Stopped while torch.compile was working: no step of this process is saved.")
            raise Stopped(128 + number)
        self.stop_signal = number
        self.say("Stopping after this step; a second time: at once, without saving.")

    def is_stopping(self) -> bool:
        return self.stop_signal is not None

    def count_steps(self, steps: int) -> int:
        """The sum of `steps` over all processes, which also agree here whether to
        stop: all then save at the same step."""
        if size() == 1:
            return steps
        every_steps, signals = zip(*exchange(steps, self.received_signal or 0), strict=True)
        self.stop_signal = max(signals) or None
        return sum(every_steps)

    def exit_if_stopped(self):
        """After Ctrl-C or SIGTERM, once the caller has saved: says how
        to go on, and exits with 130 or 143."""
        if self.saved_signal is None:
            return
        self.close()
        self.say_how_to_go_on()
        raise Stopped(128 + self.saved_signal)

    def say_how_to_go_on(self):
        words = ["--resume", str(self.place), *module_words(self.args)]
        self.say(f"Saved. Go on with: {resume_command(type(self.args), words)}")

    def close(self):
        """Closes files and the tracker, and gives the signals back."""
        _give_back(self.earlier_handlers)
        self._close_log()


def _is_known_to(frame: FrameType | None, run: Interruptible) -> bool:
    """Whether a function under way, such as a script's `train`, has `run` among its variables."""
    while frame is not None:
        if any(value is run for value in frame.f_locals.values()):
            return True
        frame = frame.f_back
    return False


def _give_back(handlers: dict[int, Any]):
    """Signals to whoever had them before the run."""
    while handlers:
        number, handler = handlers.popitem()
        with contextlib.suppress(ValueError):
            signal.signal(number, handler)
