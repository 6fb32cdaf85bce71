"""What happens around every epoch of a stage, and in which order."""

import math
from typing import Any

import keras

from pairs.errors import UserError
from pairs.training.batches import KerasBatches, Pairs
from pairs.training.log import LogEpochs, RunLog
from pairs.training.recipe import PLATEAU, Stage

# Callbacks that decide something from the log, and keep nothing across a restart.
DECIDES = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.EarlyStopping)


def make_callbacks(
    stage: Stage, pairs: Pairs, validate: "Validate", log: RunLog
) -> list[keras.callbacks.Callback]:
    """What happens around every epoch, in order; `stage.train` appends what writes checkpoints."""
    callbacks: list[keras.callbacks.Callback] = [
        SetEpoch(pairs),
        StopOnNonFiniteLoss(stage.name),
        validate,
    ]
    if stage.schedule == "plateau":
        plateau = {"monitor": "val_loss", "min_delta": 0, "verbose": 1, **PLATEAU}
        callbacks.append(keras.callbacks.ReduceLROnPlateau(**plateau))
    callbacks.append(LogEpochs(log, stage.name))
    if stage.patience:
        stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=stage.patience, verbose=1)
        callbacks.append(stop)
    return callbacks


class SetEpoch(keras.callbacks.Callback):
    """Tells the pairs which epoch it is, before the first batch is read."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.pairs = pairs

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.pairs.epoch = epoch


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends the run at a step whose loss is not a number, and names it."""

    # Else Keras would wait for the device after every step; so it asks on a
    # thread, a step or two late.
    async_safe = True

    def __init__(self, stage_name: str) -> None:
        super().__init__()
        self.stage_name = stage_name
        self.epoch = 0
        self.step: float = math.inf

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if logs and not math.isfinite(logs["loss"]):
            self.step = min(self.step, batch + 1)  # the first, whichever Keras hears of first
            raise UserError(
                f"the loss is {logs['loss']} in stage {self.stage_name}, epoch {self.epoch + 1}, "
                f"step {self.step}: start from other --pretrained weights, or lower the learning "
                f"rate in pairs/training/recipe.py"
            )


class Validate(keras.callbacks.Callback):
    """Adds `val_...` to the logs of an epoch, for the callbacks after it.

    `fit` itself would validate with the model that it trains; ours may start
    further up, from stored activations.
    """

    def __init__(self, judged: keras.Model, batches: KerasBatches) -> None:
        super().__init__()
        self.judged = judged
        self.batches = batches

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with self.batches.original_errors():
            measured = self.judged.evaluate(self.batches.for_keras, verbose=0, return_dict=True)
        assert logs is not None  # Keras' own, which the callbacks after this one read
        logs.update({f"val_{name}": value for name, value in measured.items()})
