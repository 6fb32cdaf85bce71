"""The checkpoint: all that a training needs to resume after its last epoch.

One file, `checkpoint.npz`, replaced whole after every epoch, so a run can be
killed at any moment and loses at most one epoch. It holds the log so far and,
of the stage that it stopped in, whatever an epoch changes (trained weights,
optimizer, dropout's random state) and the best epoch's trained weights. Best
model, log and curves are written after it and written again from it; the order of
the photos is a function of seed and epoch and needs no saving.
"""

import dataclasses
import json
import math
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pairs.errors import UserError
from pairs.files import write_arrays
from pairs.network.weights_folder import CHECKPOINT
from pairs.training.log import RunLog, Throttle
from pairs.training.settings import RESTART


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is read from a checkpoint file.

    Attributes:
        stage: name of the stage that it was saved in.
        rows: the log of all stages so far.
        seconds: how long each of these epochs took.
        stopped: whether the stage has ended early.
        values: in the order of `changing_variables`.
        best: trained weights of the epoch with the lowest validation loss.
    """

    stage: str = ""
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    stopped: bool = False
    values: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)
    best: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    def rows_of(self, stage_name: str) -> list[dict[str, Any]]:
        """The log of one stage."""
        return [row for row in self.rows if row["stage"] == stage_name]

    def ended(self, stage_name: str) -> bool:
        """Whether early stopping has ended that stage."""
        return self.stage == stage_name and self.stopped


def changing_variables(model: keras.Model) -> list[keras.Variable]:
    """What an epoch of training changes, in a fixed order; the trained weights are first.

    Args:
        model: a compiled model whose optimizer is built.
    """
    frozen = {id(weight) for weight in model.non_trainable_weights}
    # What is neither trained nor a frozen weight: the seeds of Dropout.
    random = [v for v in model.non_trainable_variables if id(v) not in frozen]
    return [*model.trainable_variables, *random, *model.optimizer.variables]


def write_checkpoint(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Writes `folder/checkpoint.npz`, whole or not at all."""
    facts = dataclasses.asdict(dataclasses.replace(checkpoint, values=[], best=[]))
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    for kind, values in (("value", checkpoint.values), ("best", checkpoint.best)):
        arrays |= {f"{kind}_{number}": value for number, value in enumerate(values)}
    write_arrays(folder / CHECKPOINT, arrays)


def read_checkpoint(folder: pathlib.Path) -> Checkpoint:
    """Reads `folder/checkpoint.npz`; an empty `Checkpoint` if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / CHECKPOINT
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            values, best = (
                [arrays[name] for name in arrays.files if name.startswith(f"{kind}_")]
                for kind in ("value", "best")
            )
        return Checkpoint(**{**facts, "values": values, "best": best})
    except FileNotFoundError:
        return Checkpoint()
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}); {RESTART}") from error


def restore(variables: list[keras.Variable], values: list[np.ndarray], path: pathlib.Path) -> None:
    """Puts saved values back.

    Args:
        variables: `changing_variables`, or the trained weights alone.
        values: of each of them.
        path: where they were read.

    Raises:
        UserError: they are those of another model.
    """
    if [v.shape for v in variables] != [value.shape for value in values]:
        raise UserError(f"{path}: of another version of this project; {RESTART}")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class KeepCheckpoint(keras.callbacks.Callback):
    """Brings a stage back to its last epoch, and saves every epoch. The last callback.

    Args:
        stage_name: of the running stage.
        log: has the epoch's row by then.
        checkpoint: to resume from; one of another stage changes nothing here.
        decided: callbacks that decide from the log (plateau, early stopping).
        save_best: saves the model; called after an epoch with the lowest validation
            loss so far, but seldom: for people who want it before the stage ends.

    Attributes:
        best: of `Checkpoint`.
    """

    def __init__(
        self,
        stage_name: str,
        log: RunLog,
        checkpoint: Checkpoint,
        decided: list[keras.callbacks.Callback],
        save_best: Callable[[], None],
    ) -> None:
        super().__init__()
        self.stage_name = stage_name
        self.log = log
        self.checkpoint = checkpoint
        self.decided = decided
        self.save_best = save_best
        self.best = checkpoint.best if checkpoint.stage == stage_name else []
        self.saving = Throttle(since=time.monotonic())

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        rows = self.checkpoint.rows_of(self.stage_name)
        if not rows:
            return
        # Keras' own callbacks keep nothing: shown the log again, they count as
        # they did. They also lower the learning rate again, so restore it after.
        for callback in self.decided:
            verbose, callback.verbose = callback.verbose, 0
            for row in rows:
                callback.on_epoch_end(row["epoch"] - 1, dict(row))
            callback.verbose = verbose
        variables = changing_variables(self.model)
        restore(variables, self.checkpoint.values, self.log.folder / CHECKPOINT)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.log.writes:
            return
        values = [keras.ops.convert_to_numpy(v) for v in changing_variables(self.model)]
        checkpoint = Checkpoint(
            self.stage_name, self.log.rows, self.log.seconds, self.model.stop_training, values
        )
        is_new = is_best(checkpoint.rows_of(self.stage_name))
        if is_new:
            trained = values[: len(self.model.trainable_variables)]
            self.best = [value.copy() for value in trained]  # training may go on in the same memory
        write_checkpoint(self.log.folder, dataclasses.replace(checkpoint, best=self.best))
        if is_new and self.saving.is_due():
            self.save_best()
        self.log.write_epochs()


def is_best(rows: list[dict[str, Any]]) -> bool:
    """Whether the last epoch of a stage has the lowest validation loss so far."""
    *before, last = [math.inf if math.isnan(row["val_loss"]) else row["val_loss"] for row in rows]
    return not before or last < min(before)
