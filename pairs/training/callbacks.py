"""What happens around every epoch of a stage, beside what Keras brings along."""

import math

import keras

from pairs.command_line import UserError


class SetEpoch(keras.callbacks.Callback):
    """Tells the batches which epoch it is, before the first one is read."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends the run at a step whose loss is not a number, and names it."""

    # Else Keras would wait for the device after every step; so it asks on a
    # thread, a step or two late.
    async_safe = True

    def __init__(self, stage_name):
        super().__init__()
        self.stage_name = stage_name
        self.epoch = 0
        self.step = math.inf

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.step = min(self.step, batch + 1)  # the first, whichever Keras hears of first
            raise UserError(
                f"the loss is {logs['loss']} in stage {self.stage_name}, epoch {self.epoch + 1}, "
                f"step {self.step}. The weights of earlier epochs are kept; start from other "
                f"--pretrained weights, or lower the learning rate in recipe.py"
            )


class Validate(keras.callbacks.Callback):
    """Adds `val_...` to the logs of an epoch, for the callbacks after it.

    `fit` itself would validate with the model that it trains; ours may start
    further up, from stored activations.
    """

    def __init__(self, judge, batches):
        super().__init__()
        self.judge = judge
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        with self.batches.own_errors():
            measured = self.judge.evaluate(self.batches.for_keras, verbose=0, return_dict=True)
        logs.update({f"val_{name}": value for name, value in measured.items()})
