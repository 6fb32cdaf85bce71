"""One stage of a training: from a model file to a better model file.

`run_stage` loads the model, freezes what the stage does not train, fits, keeps
the best and the last epoch, checks that frozen weights did not move, and says
how good the best one is on the validation photos.
"""

import functools
import math
import pathlib
import shutil
import sys

import keras
import numpy as np

import model as network
from pair_generator import PairBatches
from pairs.command_line import UserError
from pairs.devices.cluster import ALONE
from pairs.files import replacing
from pairs.network import parts as model_parts
from pairs.network.trunks import TRUNKS, build_trunk, estimate_statistics
from pairs.photos import read as photo
from pairs.photos.augment import AUGMENTATION
from pairs.training.activation_store import open_store, remove_stores
from pairs.training.batches import KerasBatches
from pairs.training.callbacks import SetEpoch, StopOnNonFiniteLoss, Validate
from pairs.training.checkpoint import KeepCheckpoint

# The learning rate falls by this after so many epochs without a lower
# validation loss; 1e-6 is where the seed's last pass ends.
PLATEAU = {"factor": 0.1, "patience": 3, "min_lr": 1e-6}
DECIDES = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.EarlyStopping)
# Batches whose mean makes the BatchNormalization statistics of a random trunk.
STATISTICS_BATCHES = 8


def build_first_model(args, photos, start_file):
    """Builds the network with its starting weights and saves it to `start_file`."""
    keras.utils.set_random_seed(args.seed)
    trunk = build_trunk(args.trunk, args.image_size, args.pretrained, args.weights)
    if args.pretrained == "none":
        batches = PairBatches(photos, args.image_size, args.batch_size, args.seed)
        count = min(STATISTICS_BATCHES, len(batches))
        scale, offset = map(np.float32, network.INPUT_SCALE)
        images = (batches[step][0]["img_1"] * scale + offset for step in range(count))
        estimate_statistics(trunk, images)
    num_photos = np.bincount(photos.labels, minlength=len(photos.typeids)).tolist()
    model = network.build_model(trunk, photos.typeids, num_photos, paired=args.loss == "paired")
    save(model, start_file)
    picture = start_file.with_name("model.png")
    warning = network.draw_model(model, picture)
    print(warning or f"the model, drawn: {picture}")


def constants(cluster=ALONE):
    """What decides a result beside flags and stages, as JSON writes it."""
    return {
        "backend": keras.backend.backend(),
        "augmentation": AUGMENTATION,
        "plateau": PLATEAU,
        **({"groups of a batch": cluster.num_groups} if cluster.num_groups > 1 else {}),
        "input scale": list(network.INPUT_SCALE),
        "resampling": photo.RESAMPLING.name,
        "dropout": network.DROPOUT,
        "loss weights": network.LOSS_WEIGHTS,
        "unfreezing": {name: [place.unfreeze_from, place.cut] for name, place in TRUNKS.items()},
    }


def run_stage(stage, args, photos, valid, start_file, log, checkpoint, cluster=ALONE):
    """Trains one stage, from its beginning or from its last epoch.

    Args:
        stage: `recipe.Stage`.
        args: `train.parse_args()`.
        photos, valid: `photo.Photos` to train and to validate on.
        start_file: the model to start from; not changed.
        log: `record.RunLog`, told of every epoch and of the result.
        checkpoint: `checkpoint.Checkpoint` to go on from, if of this stage.
        cluster: `cluster.Cluster`, the devices to train on.

    Returns:
        Path of the model file of the epoch with the lowest validation loss.

    Raises:
        UserError: the loss is not finite, or memory is too small.
        RuntimeError: a frozen weight changed.
    """
    keras.utils.clear_session()
    # Of its own for each stage: the same dropout masks on the same augmented
    # batches again would be learned by heart.
    seed = 10 * args.seed + stage.number
    parts = load_parts(stage, args, start_file, seed)
    print(f"stage {stage.name}: {count_weights(parts.above)} weights train", flush=True)
    train_store, valid_store = open_stores(stage, args, parts, photos, valid, log, cluster)

    setting = (stage.image_size(args.image_size), args.batch_size)
    groups = cluster.num_groups
    pairs = PairBatches(photos, *setting, seed, stage.augment, num_groups=groups)
    valid_pairs = PairBatches(valid, *setting, args.seed, validation=True, num_groups=groups)
    best_file, last_file = model_files(log.folder, stage)
    with cluster.scope():
        # Stores and the result are each process' own work; what is trained is spread.
        spread = load_parts(stage, args, start_file, seed) if cluster.engine else parts
        trained, batches = spread.feed(pairs, train_store, args.workers, cluster)
        judged, valid_batches = spread.feed(valid_pairs, valid_store, args.workers, cluster)
        network.compile_model(trained, make_optimizer(stage, len(batches)), args.jit)
        trained.optimizer.build(trained.trainable_variables)
        if judged is not trained:
            network.compile_model(judged, "sgd")  # measured only; no step is taken
        before = spread.frozen_digest()
        callbacks = make_callbacks(stage, pairs, Validate(judged, valid_batches), log)
        if args.tensorboard and log.writes:
            board = pathlib.Path(args.tensorboard, stage.name)
            callbacks.append(keras.callbacks.TensorBoard(board, write_graph=False))
        decided = [callback for callback in callbacks if isinstance(callback, DECIDES)]
        keep_best = functools.partial(save, spread.model, best_file)
        callbacks.append(KeepCheckpoint(stage.name, log, checkpoint, decided, keep_best))
        fit(trained, batches, stage, callbacks, checkpoint)
        if spread.frozen_digest() != before:
            raise RuntimeError(f"stage {stage.name}: frozen weights changed")
        if log.writes:
            save(spread.model, last_file)
    cluster.wait_for_all()  # the best epoch is on the disk

    # `load_weights` of a .keras file takes three times as long.
    parts.model.set_weights(network.load_model(best_file).get_weights())
    judged, batches = parts.feed(valid_pairs, valid_store, args.workers)
    result = evaluate(model_parts.for_prediction(judged), batches)
    if log.writes:
        copy_file(best_file, log.folder / "model.keras")
    log.add_result(stage, result)  # the stage is done: the last file to be written
    return best_file


def model_files(folder, stage):
    """Where a stage leaves its best and its last epoch's model."""
    return [folder / f"{stage.name}-{which}.keras" for which in ("best", "last")]


def load_parts(stage, args, path, seed):
    """Loads the model file that a stage starts from, cut where its training begins."""
    keras.utils.set_random_seed(seed)
    model = load_at_size(path, args.trunk, stage.image_size(args.image_size))
    place = TRUNKS[args.trunk]
    network.unfreeze(model, place.unfreeze_from if stage.unfreeze else None)
    return Parts(model, place.cut if stage.unfreeze else None)


def load_at_size(path, trunk_name, image_size):
    """Loads a model file for photos of a size, whatever it was trained on before."""
    model = network.load_model(path)
    if model.get_layer("trunk").input_shape[1] == image_size:
        return model
    return network.resized(model, build_trunk(trunk_name, image_size, "none", path.parent))


def copy_file(source, target):
    """Copies a file, whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def save(model, path):
    """Saves a model file, whole or not at all."""
    with replacing(path) as temporary:
        model.save(temporary)


def open_stores(stage, args, parts, photos, valid, log, cluster):
    """The stores of a stage, `(training, validation)`; those of others are removed."""
    settings = {"dtype": args.cache, "workers": args.workers, "cluster": cluster}
    stores = []

    def open_one(photos, mirror, needed_later):
        lower = None
        if needed_later and not stage.unfreeze:
            # A later stage starts further down in the same photos: they pass the
            # trunk once, and these activations are made of those.
            below, between = model_parts.split_trunk(parts.model, TRUNKS[args.trunk].cut)
            stores.append(open_store(log.folder, below, photos, **settings, mirror=mirror))
            lower = stores[-1] and (stores[-1], between)
        stores.append(
            open_store(log.folder, parts.below, photos, **settings, mirror=mirror, lower=lower)
        )
        return stores[-1]

    later = [
        other.augment
        for other in log.stages
        if other.number > stage.number and other.unfreeze and other.image_scale == stage.image_scale
    ]
    valid_store = open_one(valid, False, needed_later=bool(later))
    train_store = None  # affine transforms are new every epoch
    if stage.augment != "affine":
        train_store = open_one(photos, stage.augment == "mirror", stage.augment in later)
    if log.writes:
        remove_stores(log.folder, keep=stores)
    cluster.wait_for_all()
    return train_store, valid_store


class Parts:
    """The model of a stage, cut where training begins; all parts share its layers.

    Attributes:
        model: `model.build_model(...)`, the one that is saved.
        below: images to activations, frozen.
        above: activations to outputs, trained.
        whole: both, images to outputs.
    """

    def __init__(self, model, cut):
        self.model = model
        self.below, self.above = model_parts.split(model, cut)
        self.whole = model_parts.connect(self.below, self.above)

    def feed(self, pairs, store, workers, cluster=ALONE):
        """The part that starts where the store, if any, left off, and its batches."""
        part = self.above if store else self.whole
        return part, KerasBatches(pairs, list(part.output), workers, store, cluster)

    def frozen_digest(self):
        """Digest of all weights that must not move."""
        return network.digest(self.above.non_trainable_weights + self.below.weights)


def fit(model, batches, stage, callbacks, checkpoint):
    """`model.fit` from the checkpoint on, with an error for people where memory runs out."""
    num_done = len(checkpoint.rows_of(stage.name))
    if num_done:
        print(f"stage {stage.name}: going on after epoch {num_done}", flush=True)
    batches.pairs.epoch = num_done
    try:
        with batches.own_errors():
            model.fit(
                batches.for_keras,
                initial_epoch=num_done,
                epochs=num_done if checkpoint.ended(stage.name) else stage.epochs,
                callbacks=callbacks,
                shuffle=False,  # `PairBatches` shuffles; the order of steps is part of its key
                verbose=1 if sys.stdout.isatty() else 2,
            )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = batches.pairs.batch_size
        smaller = f"try --batch-size {next_batch_size(size)}" if size > 2 else "use smaller images"
        raise UserError(
            f"out of memory in stage {stage.name} at batch size {size}: {smaller}"
        ) from error


def is_out_of_memory(error):
    """Whether an exception of any backend says that memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"}) or (
        "RESOURCE_EXHAUSTED" in str(error)
    )


def next_batch_size(batch_size):
    """Three quarters of a batch size, a multiple of 8 where it can be, at least 2."""
    smaller = batch_size * 3 // 4
    return smaller - smaller % 8 if smaller >= 8 else max(2, smaller)


def make_optimizer(stage, num_steps):
    """A new optimizer for a stage of `num_steps` an epoch: no moments of the last one."""
    learning_rate = stage.learning_rate
    if stage.schedule == "cosine":
        learning_rate = cosine(learning_rate, num_steps * stage.epochs)
    if stage.optimizer == "adam":
        return keras.optimizers.Adam(learning_rate)
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def cosine(learning_rate, num_steps):
    """The schedule "cosine" of `recipe.Stage`, over `num_steps` in all."""
    warm_up = num_steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, num_steps - warm_up, warmup_target=learning_rate, warmup_steps=warm_up
    )


def make_callbacks(stage, pairs, validate, log):
    """What happens around every epoch, in this order."""
    callbacks = [
        SetEpoch(pairs),
        StopOnNonFiniteLoss(stage.name),
        validate,
    ]
    if stage.schedule == "plateau":
        plateau = {"monitor": "val_loss", "min_delta": 0, "verbose": 1, **PLATEAU}
        callbacks.append(keras.callbacks.ReduceLROnPlateau(**plateau))
    callbacks.append(log.callback(stage))
    if stage.patience:
        stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=stage.patience, verbose=1)
        callbacks.append(stop)
    return callbacks


def count_weights(model):
    """Number of trained weights, with thousands marked."""
    return f"{sum(math.prod(weight.shape) for weight in model.trainable_weights):,}"


def evaluate(model, batches):
    """Judges a model on validation photos, each once as first and second image.

    Args:
        model: as `Parts.feed` returns it, with
        batches: `KerasBatches` of validation pairs.

    Returns:
        dict: `photos` and `error` (share wrong by the mean of the softmax
        heads), and for a paired model `same` and `different`: the share of
        pairs of either kind that `bin_out` gets right (None: there are none).
    """
    with batches.own_errors():
        outputs = model.predict(batches.for_keras, verbose=0)
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
        result["same"] = float(np.mean(right[1])) if right[1] else None
        result["different"] = float(np.mean(right[0])) if right[0] else None
    return result
