"""A `Run` in a scratch folder, so that benchmarks set stages up as `train.py` does."""

import pathlib

from pairs.devices.cluster import ALONE
from pairs.training.checkpoint import Checkpoint
from pairs.training.log import RunLog
from pairs.training.recipe import Stage
from pairs.training.run import Run


def bench_run(
    folder: pathlib.Path,
    stages: list[Stage],
    image_size: int,
    batch_size: int,
    trunk: str = "xception",
    workers: int = 2,
    openvino: str | None = None,
) -> Run:
    """A run of some stages on one device, that has not begun."""
    return Run(
        folder=folder,
        start_file=folder / "start.keras",
        stages=stages,
        trunk=trunk,
        image_size=image_size,
        batch_size=batch_size,
        seed=0,
        cache="float32",
        workers=workers,
        balance=False,
        jit=False,
        openvino=openvino,
        tensorboard=None,
        devices=ALONE,
        log=RunLog(folder, stages),
        checkpoint=Checkpoint(),
        pool=None,
    )
