"""What a training leaves to read: log.csv, times.csv, curves.png, results.json.

Every file is written whole or not at all, so it can be read during the training.
"""

import csv
import math
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import keras
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pairs.errors import UserError
from pairs.files import read_json, replacing, write_csv, write_json
from pairs.network.weights_folder import CURVES, LOG, RESULTS, TIMES
from pairs.training.recipe import Stage
from pairs.training.settings import RESTART

# Drawing the curves, or saving a model, takes half a second; an epoch of stored features
# takes no longer. Files that only people read are written at most this often.
SECONDS_BETWEEN = 20.0
DRAWN = {
    "loss": "loss (all heads, weighted)",
    "ctg_out_1_accuracy": "accuracy of photos (ctg_out_1)",
    "accuracy": "accuracy of photos",  # a model of one head: Keras drops its name
    "bin_out_accuracy": "accuracy of pairs (bin_out)",
}


class RunLog:
    """The record of one run in a weights folder.

    Args:
        folder: exists.
        stages: the plan.
        rows, seconds: the epochs so far, of a resumed run, and how long each
            took. Time is kept apart from the log, which is the same for the same
            seed.
        writes: False for all processes of a cluster but one.
        folds_done: how long the epochs of each earlier fold took, in seconds.
        folds_left: how many folds come after this one.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        stages: list[Stage],
        rows: Sequence[dict[str, Any]] = (),
        seconds: Sequence[float] = (),
        writes: bool = True,
        folds_done: Sequence[float] = (),
        folds_left: int = 0,
    ) -> None:
        self.folder = folder
        self.writes = writes
        self.folds_done = folds_done
        self.folds_left = folds_left
        self.stages = stages
        self.rows = list(rows)
        self.seconds = list(seconds)
        self.drawing = Throttle()
        self.num_drawn = 0
        self.results: list[dict[str, Any]] = list(read_json(folder / RESULTS, RESTART))
        if not all(isinstance(result, dict) and "stage" in result for result in self.results):
            raise UserError(f"{folder / RESULTS}: not of a training of one model; {RESTART}")
        if self.rows:  # the process may have died before they were written
            self.write_epochs()

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage has been trained and judged."""
        return stage.name in [result["stage"] for result in self.results]

    def total_seconds(self) -> float:
        """How long all epochs took, also those before the last start of a finished run."""
        try:
            with (self.folder / TIMES).open(newline="", encoding="utf-8") as file:
                return sum(float(row["seconds"]) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError, TypeError):  # only an estimate depends on it
            return sum(self.seconds)

    def write_epochs(self) -> None:
        """Writes log.csv and times.csv, and draws curves.png if it has not just been drawn."""
        if not self.writes:
            return
        header = list(self.rows[0])
        rows = [[row[name] for name in header] for row in self.rows]
        write_csv(self.folder / LOG, header, rows)
        times = [
            [row["stage"], row["epoch"], seconds]
            for row, seconds in zip(self.rows, self.seconds, strict=True)
        ]
        write_csv(self.folder / TIMES, ["stage", "epoch", "seconds"], times)
        if self.drawing.is_due():
            self.draw()

    def draw(self) -> None:
        """Draws curves.png."""
        with replacing(self.folder / CURVES) as temporary:
            draw_curves(self.rows, temporary)
        self.num_drawn = len(self.rows)

    def time_left(self) -> str:
        """What is left after the last epoch, at most, in words; "" at a stage's end."""
        last = self.rows[-1]
        places = [stage.name for stage in self.stages]
        now = places.index(last["stage"])
        own = [
            seconds
            for row, seconds in zip(self.rows, self.seconds, strict=True)
            if row["stage"] == last["stage"]
        ]
        # The first epoch of a stage also compiles; a median passes over it.
        an_epoch = statistics.median(own)
        here = (self.stages[now].epochs - last["epoch"]) * an_epoch
        if not here:
            return ""
        text = f"stage {last['stage']}: at most {duration(here)} left"
        later = [f"{stage.epochs} epochs of {stage.name}" for stage in self.stages[now + 1 :]]
        if later:  # which may take a hundred times as long as these
            text += f", then {', '.join(later)}"
        if self.folds_done:
            a_fold = statistics.median(self.folds_done)
            rest = max(here, a_fold - sum(self.seconds)) if later else here
            text += f"; all folds: {duration(rest + self.folds_left * a_fold)}"
        return text

    def print_results(self) -> None:
        """Prints how each stage ended."""
        columns = [key for key in ("error", "same", "different") if key in self.results[-1]]
        print("\nstage   " + "".join(f"{column:>11}" for column in columns))
        for result in self.results:
            shares = "".join(f"{shown(result.get(key)):>11}" for key in columns)
            print(f"{result['stage']:<8}{shares}")

    def add_result(self, stage: Stage, result: dict[str, Any]) -> None:
        """Adds and prints how good a stage's best epoch is, see `scoring.Judgement`."""
        self.results.append({"stage": stage.name, **result})
        if self.writes:
            if self.num_drawn < len(self.rows):
                self.draw()
            write_json(self.folder / RESULTS, self.results)
        line = f"stage {stage.name}: validation error {result['error']:.4f}"
        line += f" ({result['photos']} photos)"
        if "same" in result:
            words = [f"{kind} {shown(result[kind])}" for kind in ("same", "different")]
            line += f", pairs right: {', '.join(words)}"
        print(line, flush=True)


class Throttle:
    """Says when something is due again.

    Args:
        since: time of `time.monotonic` of the last time; by default it is due at once.
        seconds: from one time to the next; None: `SECONDS_BETWEEN`.
    """

    def __init__(self, since: float = -math.inf, seconds: float | None = None) -> None:
        self.last = since
        self.seconds = seconds

    def is_due(self) -> bool:
        """Whether so many seconds have passed since it was due."""
        now = time.monotonic()
        if now - self.last < (SECONDS_BETWEEN if self.seconds is None else self.seconds):
            return False
        self.last = now
        return True


class LogEpochs(keras.callbacks.Callback):
    """Adds each epoch, and its time in seconds, to a `RunLog`."""

    def __init__(self, log: RunLog, stage_name: str) -> None:
        super().__init__()
        self.log = log
        self.stage_name = stage_name

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # A plateau callback has logged the rate of this epoch, before it lowered it for the next.
        logs = {"learning_rate": self.model.optimizer.learning_rate, **(logs or {})}
        # A variable may be spread over several devices.
        values = {k: float(keras.ops.convert_to_numpy(v)) for k, v in logs.items()}
        self.log.rows.append({"stage": self.stage_name, "epoch": epoch + 1, **values})
        self.log.seconds.append(round(time.perf_counter() - self.start, 1))
        if left := self.log.time_left():
            print(left, flush=True)


def shown(share: float | None) -> str:
    """A share, human-readable; None: there was nothing to count."""
    return "none there" if share is None else f"{share:.4f}"


def duration(seconds: float) -> str:
    """Seconds, human-readable: "40 s", "12 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def draw_curves(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws training and validation curves over all stages to a PNG."""
    curves = {name: title for name, title in DRAWN.items() if f"val_{name}" in rows[0]}
    # No pyplot: it would look for a screen. Margins in inches: to look for those that fit
    # takes as long as the drawing.
    width, height = 5 * len(curves), 4
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        *(0.65 / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.3 / height), wspace=0.15
    )
    epochs = range(1, len(rows) + 1)
    starts = [n for n in range(len(rows)) if n == 0 or rows[n]["stage"] != rows[n - 1]["stage"]]
    for panel, (name, title) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), panel)
        if name in rows[0]:  # what training compares may be more than pairs
            axes.plot(epochs, [row[name] for row in rows], ".-", label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in rows], ".-", label="validation")
        for start in starts:
            axes.axvline(start + 0.5, color="grey", linewidth=0.8, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(start + 0.55, 0.01, rows[start]["stage"], transform=place, color="grey")
        axes.set_xlim(0.5, len(rows) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")
