"""What a training leaves to read: log.csv, curves.png, settings.json, results.json.

Every file is written whole or not at all, so it can be read while the training
goes on.
"""

import csv
import dataclasses
import importlib.metadata
import io
import json
import time

import keras
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from atomic_file import replacing, write_text

PACKAGES = ("keras", "tensorflow", "numpy", "pillow")
CURVES = {
    "loss": "loss (all heads, weighted)",
    "ctg_out_1_accuracy": "share of photos right (ctg_out_1)",
    "accuracy": "share of photos right",  # a model of one head: Keras drops its name
    "bin_out_accuracy": "share of pairs right (bin_out)",
}


class RunLog:
    """The record of one run in a weights folder.

    Args:
        folder: `pathlib.Path`, exists.
    """

    def __init__(self, folder):
        self.folder = folder
        self.rows = []
        self.results = []

    def write_settings(self, args, stages, photos, valid):
        """Writes what the run depends on: flags, plan, classes, versions."""
        settings = {
            "flags": vars(args),
            "stages": [dataclasses.asdict(stage) for stage in stages],
            "photos": {"train": len(photos), "valid": len(valid)},
            "typeids": photos.typeids,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }
        write_text(self.folder / "settings.json", json.dumps(settings, indent=2) + "\n")

    def callback(self, stage):
        """A Keras callback that adds every epoch of `stage` to the log."""
        return LogEpochs(self, stage.name)

    def add_epoch(self, row):
        """Adds one epoch: a dict of column to value."""
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "log.csv", text.getvalue())
        with replacing(self.folder / "curves.png") as temporary:
            draw_curves(self.rows, temporary)

    def add_result(self, stage, result):
        """Adds and prints what `stage.evaluate` measured after a stage."""
        self.results.append({"stage": stage.name, **result})
        write_text(self.folder / "results.json", json.dumps(self.results, indent=2) + "\n")
        line = f"stage {stage.name}: validation error {result['error']:.4f}"
        line += f" ({result['photos']} photos)"
        if "same" in result:
            line += f", pairs right: same {result['same']:.4f}, different {result['different']:.4f}"
        print(line, flush=True)


class LogEpochs(keras.callbacks.Callback):
    """Adds each epoch, with its time in seconds, to a `RunLog`."""

    def __init__(self, log, stage_name):
        super().__init__()
        self.log = log
        self.stage_name = stage_name

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = round(time.perf_counter() - self.start, 1)
        first = {"stage": self.stage_name, "epoch": epoch + 1, "seconds": seconds}
        self.log.add_epoch({**first, **{name: float(value) for name, value in logs.items()}})


def versions():
    """dict from package to version, for those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def draw_curves(rows, path):
    """Draws training and validation curves over all stages to a PNG."""
    curves = {name: title for name, title in CURVES.items() if name in rows[0]}
    # No pyplot: it would look for a screen.
    figure = Figure(figsize=(5 * len(curves), 4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = range(1, len(rows) + 1)
    starts = [n for n in range(len(rows)) if n == 0 or rows[n]["stage"] != rows[n - 1]["stage"]]
    for panel, (name, title) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), panel)
        axes.plot(epochs, [row[name] for row in rows], ".-", label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in rows], ".-", label="validation")
        for start in starts:
            axes.axvline(start + 0.5, color="grey", linewidth=0.8, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(start + 0.55, 0.01, rows[start]["stage"], transform=place, color="grey")
        axes.set_xlim(0.5, len(rows) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")
