"""A `Run` in a scratch folder, so that benchmarks and tests set stages up as `train.py` does."""

import pathlib
from typing import Any

from pairs.devices.cluster import ALONE
from pairs.training.checkpoint import Checkpoint
from pairs.training.log import RunLog
from pairs.training.recipe import Stage
from pairs.training.run import Run


def bench_run(
    folder: pathlib.Path, stages: list[Stage], image_size: int, batch_size: int, **changes: Any
) -> Run:
    """A run of some stages on one device, that has not begun; `changes` are fields of `Run`."""
    fields: dict[str, Any] = {
        "folder": folder,
        "start_file": folder / "start.keras",
        "stages": stages,
        "trunk": "xception",
        "image_size": image_size,
        "batch_size": batch_size,
        "seed": 0,
        "cache": "float32",
        "workers": 2,
        "balance": False,
        "jit": False,
        "openvino": None,
        "tensorboard": None,
        "devices": ALONE,
        "log": RunLog(folder, stages),
        "checkpoint": Checkpoint(),
        "pool": None,
    }
    return Run(**fields | changes)
