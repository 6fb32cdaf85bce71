"""What all stages of one model's training share. Made by `train.py`, handed down, never changed."""

import dataclasses
import pathlib

from pairs.devices.cluster import Cluster
from pairs.photos.read import Photos
from pairs.training.checkpoint import Checkpoint
from pairs.training.log import RunLog
from pairs.training.recipe import Stage


@dataclasses.dataclass(frozen=True)
class Run:
    """The training of one model.

    Attributes:
        folder: holds all that the run writes, except stored activations of folds.
        start_file: the model that its first stage starts from.
        stages: the plan.
        trunk: key of `trunks.TRUNKS`.
        image_size: side in pixels, before a stage's own scale.
        batch_size: images per step, on all devices together.
        seed: of everything random.
        cache: how activations are stored: "float32" (exact), "float16" or "off".
        workers: threads that read photos.
        balance: every class counts the same in the losses of the softmax heads.
        jit: compile with XLA.
        openvino: what OpenVINO computes the frozen part in, a key of
            `frozen.PRECISION_HINTS`; None: Keras computes it.
        tensorboard: folder for TensorBoard, if any.
        devices: what trains.
        log: told of every epoch and result.
        checkpoint: to resume from; empty at the beginning.
        pool: see `splits.Split`; their activations are stored once, for all folds.
    """

    folder: pathlib.Path
    start_file: pathlib.Path
    stages: list[Stage]
    trunk: str
    image_size: int
    batch_size: int
    seed: int
    cache: str
    workers: int
    balance: bool
    jit: bool
    openvino: str | None
    tensorboard: pathlib.Path | None
    devices: Cluster
    log: RunLog
    checkpoint: Checkpoint
    pool: Photos | None

    @property
    def home(self) -> pathlib.Path:
        """Folder of the whole training, all folds together."""
        return self.start_file.parent

    def seed_of(self, stage: Stage) -> int:
        """The seed of a stage's training.

        Its own for each stage: the same dropout masks on the same augmented
        batches again would be learned by heart.
        """
        return 10 * self.seed + stage.number

    def image_size_of(self, stage: Stage) -> int:
        """Side of a stage's images in pixels."""
        return round(self.image_size * stage.image_scale)
