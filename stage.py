"""One stage of a training: from a model file to a better model file.

`run_stage` loads the model, freezes what the stage does not train, fits, keeps
the best and the last epoch, checks that frozen weights did not move, and says
how good the best one is on the validation photos.
"""

import math
import sys

import keras
import numpy as np

import model as network
from atomic_file import replacing
from command_line import UserError
from pair_generator import PairBatches

# The learning rate falls by this after so many epochs without a lower
# validation loss; 1e-6 is where the seed's last pass ends.
PLATEAU = {"factor": 0.1, "patience": 3, "min_lr": 1e-6}
# Batches whose mean makes the BatchNormalization statistics of a random trunk.
STATISTICS_BATCHES = 8


def build_first_model(args, photos, model_file):
    """Builds the network with its starting weights and saves it to `model_file`."""
    keras.utils.set_random_seed(args.seed)
    trunk = network.build_trunk(args.trunk, args.image_size, args.pretrained, args.weights)
    if args.pretrained == "none":
        batches = PairBatches(photos, args.image_size, args.batch_size, args.seed)
        count = min(STATISTICS_BATCHES, len(batches))
        images = (batches[step][0]["img_1"] / np.float32(127.5) - 1 for step in range(count))
        network.estimate_statistics(trunk, images)
    model = network.build_model(trunk, photos.typeids, paired=args.loss == "paired")
    save(model, model_file)
    picture = model_file.with_name("model.png")
    warning = network.draw_model(model, picture)
    print(warning or f"the model, drawn: {picture}")


def run_stage(stage, args, photos, valid, model_file, log):
    """Trains one stage.

    Args:
        stage: `train.Stage`.
        args: `train.parse_args()`.
        photos, valid: `photo.Photos` to train and to validate on.
        model_file: the model to start from; not changed.
        log: `record.RunLog`, told of every epoch and of the result.

    Returns:
        Path of the model file of the epoch with the lowest validation loss.

    Raises:
        UserError: the loss is not finite.
        RuntimeError: a frozen weight changed.
    """
    keras.utils.clear_session()
    # Of its own for each stage: the same dropout masks on the same augmented
    # batches again would be learned by heart.
    seed = 10 * args.seed + stage.number
    keras.utils.set_random_seed(seed)
    model = network.load_model(model_file)
    trunk = network.TRUNKS[args.trunk]
    network.unfreeze(model, trunk.unfreeze_from if stage.unfreeze else None)
    below, above = network.split(model, trunk.cut if stage.unfreeze else None)
    whole = network.connect(below, above)
    network.compile_model(whole, make_optimizer(stage))
    frozen = network.digest(whole.non_trainable_weights)

    setting = (args.image_size, args.batch_size)
    batches = PairBatches(photos, *setting, seed, augment=stage.augment)
    valid_batches = PairBatches(valid, *setting, args.seed, validation=True)
    heads = list(whole.output)
    best_file = model_file.with_name(f"{stage.name}-best.keras")
    print(
        f"stage {stage.name}: {count_weights(whole)} weights train, {stage.epochs} epochs at most"
    )
    whole.fit(
        KerasBatches(batches, heads, args.workers),
        epochs=stage.epochs,
        validation_data=KerasBatches(valid_batches, heads, args.workers),
        callbacks=make_callbacks(stage, model, batches, best_file, log),
        shuffle=False,  # `PairBatches` shuffles; the order of steps is part of its key
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if network.digest(whole.non_trainable_weights) != frozen:
        raise RuntimeError(f"stage {stage.name}: frozen weights changed")
    model.load_weights(best_file)
    log.add_result(stage, evaluate(whole, KerasBatches(valid_batches, heads, args.workers)))
    return best_file


def make_optimizer(stage):
    """A new optimizer for a stage: no moments of the last one."""
    if stage.optimizer == "adam":
        return keras.optimizers.Adam(stage.learning_rate)
    return keras.optimizers.SGD(stage.learning_rate, momentum=0.9)


def make_callbacks(stage, model, batches, best_file, log):
    """What happens around every epoch, in this order."""
    callbacks = [
        SetEpoch(batches),
        StopOnNonFiniteLoss(stage.name),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", min_delta=0, verbose=1, **PLATEAU),
        log.callback(stage),
        KeepModels(model, best_file, best_file.with_name(f"{stage.name}-last.keras")),
    ]
    if stage.patience:
        stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=stage.patience, verbose=1)
        callbacks.append(stop)
    return callbacks


def count_weights(model):
    """Number of trained weights, with thousands marked."""
    return f"{sum(math.prod(weight.shape) for weight in model.trainable_weights):,}"


def save(model, path):
    """Saves a model file, whole or not at all."""
    with replacing(path) as temporary:
        model.save(temporary)


def evaluate(whole, batches):
    """Judges a model on validation photos, each once as first and second image.

    Args:
        whole: `model.connect(...)`.
        batches: `KerasBatches` of validation pairs.

    Returns:
        dict: `photos` and `error` (share wrong by the mean of the softmax
        heads), and for a paired model `same` and `different`: the share of
        pairs of either kind that `bin_out` gets right (NaN: there are none).
    """
    outputs = whole.predict(batches, verbose=0)
    num_wrong, position, right = 0, 0, {0: [], 1: []}
    for step in range(len(batches)):
        _, partner, labels = batches.pairs.pairs(step)
        rows = slice(position, position + len(partner))
        position += len(partner)
        probabilities = outputs["ctg_out_1"][rows].copy()
        if "bin_out" in outputs:
            # Row i of ctg_out_2 is about image partner[i].
            probabilities[partner] += outputs["ctg_out_2"][rows]
            guess = outputs["bin_out"][rows].argmax(axis=1)
            for same in (0, 1):
                is_kind = labels["bin_out"] == same
                right[same] += (guess[is_kind] == same).tolist()
        num_wrong += int((probabilities.argmax(axis=1) != labels["ctg_out_1"]).sum())
    result = {"photos": position, "error": num_wrong / position}
    if "bin_out" in outputs:
        result["same"] = float(np.mean(right[1])) if right[1] else math.nan
        result["different"] = float(np.mean(right[0])) if right[0] else math.nan
    return result


class KerasBatches(keras.utils.PyDataset):
    """Hands `PairBatches` to Keras: on threads, in order, a few batches ahead.

    Args:
        pairs: `PairBatches`.
        heads: names of the outputs; decides which inputs and labels are passed.
        workers: threads.
    """

    def __init__(self, pairs, heads, workers):
        super().__init__(workers=workers, max_queue_size=2 * workers)
        self.pairs = pairs
        self.heads = heads

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, step):
        inputs, labels = self.pairs[step]
        if "bin_out" not in self.heads:
            inputs = {"img_1": inputs["img_1"]}
        return inputs, {head: labels[head] for head in self.heads}


class SetEpoch(keras.callbacks.Callback):
    """Tells the batches which epoch it is, before the first one is read."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends the run at the step whose loss is not a number, and names it."""

    def __init__(self, stage_name):
        super().__init__()
        self.stage_name = stage_name
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is {logs['loss']} in stage {self.stage_name}, epoch {self.epoch + 1}, "
                f"step {batch + 1}. The weights of earlier epochs are kept; start from other "
                f"--pretrained weights, or lower the learning rate in train.py's STAGES"
            )


class KeepModels(keras.callbacks.Callback):
    """Saves the last epoch's model, and the best one's by validation loss."""

    def __init__(self, model, best_file, last_file):
        super().__init__()
        # Not `self.model`: that is the one-pass model, which shares its layers.
        self.saved_model = model
        self.best_file = best_file
        self.last_file = last_file
        self.best_loss = math.inf

    def on_epoch_end(self, epoch, logs=None):
        save(self.saved_model, self.last_file)
        if logs["val_loss"] < self.best_loss or epoch == 0:
            self.best_loss = logs["val_loss"]
            save(self.saved_model, self.best_file)
