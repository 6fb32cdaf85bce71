"""One stage of a training: from a model file to a better model file.

`set_up` loads the model, freezes what the stage does not train, opens the
stores and compiles; `train` fits and checks that frozen weights did not move;
`run_stage` does both, saves the last and the best epoch, and scores the best.
"""

import dataclasses
import functools
import math
import pathlib
import shutil
import sys

import keras
import numpy as np

from pairs.devices.cluster import ALONE, Cluster
from pairs.files import replacing
from pairs.network.files import load_at_size, load_model, save_model
from pairs.network.frozen import forget_compiled, forward
from pairs.network.parts import (
    compares_all_pairs,
    connect,
    digest,
    for_prediction,
    forget_models,
    split,
    split_trunk,
    unfreeze,
    uses_xla,
)
from pairs.network.trunks import TRUNKS
from pairs.network.weights_folder import CHECKPOINT, MODEL, stage_files
from pairs.photos.read import Photos
from pairs.training.activation_store import ActivationStore, open_store
from pairs.training.batches import KerasBatches, Pairs
from pairs.training.callbacks import DECIDES, Validate, make_callbacks
from pairs.training.checkpoint import Checkpoint, KeepCheckpoint, restore
from pairs.training.features import Trained, finish_model
from pairs.training.memory import memory_errors
from pairs.training.optimizer import compile_model, make_metrics, make_optimizer
from pairs.training.recipe import Stage
from pairs.training.run import Run
from pairs.training.scoring import judge
from pairs.training.store_folder import remove_stores


class Parts:
    """The model of a stage, cut where training begins; all parts share its layers.

    Attributes:
        model: `model.build_model(...)`, the one that is saved.
        below: images to activations, frozen.
        above: activations to outputs, trained.
        whole: both, images to outputs.
        judged_above, judged_whole: the same, as validation asks them: about a pair
            of images, also where training compares all pairs of a batch.
        cut: as given.
    """

    def __init__(self, model: keras.Model, cut: int | None) -> None:
        self.model = model
        self.cut = cut
        self.below, self.judged_above = split(model, cut)
        self.judged_whole = connect(self.below, self.judged_above)
        self.above, self.whole = self.judged_above, self.judged_whole
        if compares_all_pairs(model):
            self.above = split(model, cut, all_pairs=True)[1]
            self.whole = connect(self.below, self.above)

    def feed(
        self,
        pairs: Pairs,
        store: ActivationStore | None,
        run: Run,
        devices: Cluster,
        padded: bool = False,
    ) -> tuple[keras.Model, KerasBatches]:
        """The part that starts where the store, if any, or OpenVINO left off, and its batches."""
        source = store or (forward(self.below, run.openvino) if run.openvino else None)
        if pairs.validation:
            part = self.judged_above if source else self.judged_whole
        else:
            part = self.above if source else self.whole
        heads = list(part.output)
        return part, KerasBatches(pairs, heads, run.workers, source, devices, padded, run.balance)

    def frozen_digest(self) -> str:
        """Digest of all weights that must not move."""
        return digest(self.above.non_trainable_weights + self.below.weights)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A stage, ready to train.

    Attributes:
        parts: on one device; stores and scores are each process' own work.
        distributed: what trains, on all devices; on one device the same as `parts`.
        learner, batches: the compiled model that trains, and what it is fed.
        judged, valid_batches: the same for validation.
    """

    parts: Parts
    distributed: Parts
    learner: keras.Model
    batches: KerasBatches
    judged: keras.Model
    valid_batches: KerasBatches


def run_stage(
    run: Run, stage: Stage, pairs: Pairs, valid_pairs: Pairs, model_file: pathlib.Path
) -> pathlib.Path:
    """Trains one stage, from its beginning or from its last epoch.

    Args:
        run: the training.
        stage: a row of its plan.
        pairs: `PairBatches` to train on.
        valid_pairs: `PairBatches` to validate on.
        model_file: the model to start from; not changed.

    Returns:
        the model file of the epoch with the lowest validation loss.

    Raises:
        UserError: the loss is not finite, or memory is too small.
        RuntimeError: a frozen weight changed.
    """
    with memory_errors(stage, run.devices, None):
        setup = set_up(run, stage, pairs, valid_pairs, model_file)
    best_file, last_file = stage_files(run.folder, stage.name)
    best = train(run, stage, setup)
    if run.devices.is_main_process:
        save_model(setup.distributed.model, last_file)
    if best:
        restore(setup.parts.above.trainable_variables, best, run.folder / CHECKPOINT)
        save_model(setup.parts.model, best_file)
    run.devices.barrier()  # the best epoch is on the disk
    if not best:
        # `load_weights` of a .keras file takes three times as long.
        setup.parts.model.set_weights(load_model(best_file).get_weights())
    judged, batches = setup.parts.feed(valid_pairs, setup.valid_batches.store, run, ALONE)
    with memory_errors(stage, run.devices, run.batch_size):
        judgement = judge(for_prediction(judged), batches)
    if run.devices.is_main_process:
        if stage == run.stages[-1]:
            trained = Trained(run, setup.parts.model, setup.parts.cut, best_file)
            with memory_errors(stage, run.devices, None):
                judgement = finish_model(trained, setup.batches, setup.valid_batches, judgement)
        copy_file(best_file, run.folder / MODEL)
    run.log.add_result(stage, judgement.result())  # the stage is done: the last file to be written
    return best_file


def set_up(
    run: Run, stage: Stage, pairs: Pairs, valid_pairs: Pairs, model_file: pathlib.Path
) -> Setup:
    """Gets a stage ready to train. Args: as `run_stage`."""
    forget_models()
    forget_compiled()
    parts = load_parts(run, stage, model_file)
    num_weights = sum(math.prod(weight.shape) for weight in parts.above.trainable_weights)
    size = run.image_size_of(stage)
    print(f"stage {stage.name}: {num_weights:,} weights train, images of {size} pixels", flush=True)
    store, valid_store = open_stores(run, stage, parts, pairs.photos, valid_pairs.photos)
    with run.devices.scope():
        distributed = load_parts(run, stage, model_file) if run.devices.engine else parts
        padded = uses_xla(run.jit)
        learner, batches = distributed.feed(pairs, store, run, run.devices, padded)
        judged, valid_batches = distributed.feed(valid_pairs, valid_store, run, run.devices, padded)
        compile_model(learner, make_optimizer(stage, len(batches)), run.jit)
        learner.optimizer.build(learner.trainable_variables)
        make_metrics(learner, run.devices)
        if judged is not learner:
            compile_model(judged, "sgd")  # measured only; no step is taken
            make_metrics(judged, run.devices)
    return Setup(parts, distributed, learner, batches, judged, valid_batches)


def train(run: Run, stage: Stage, setup: Setup) -> list[np.ndarray]:
    """Fits a stage from the checkpoint on, and saves every epoch.

    Returns:
        the best epoch's trained weights; none where another process writes.

    Raises:
        UserError, RuntimeError: see `run_stage`.
    """
    best_file, _ = stage_files(run.folder, stage.name)
    with run.devices.scope():
        before = setup.distributed.frozen_digest()
        validate = Validate(setup.judged, setup.valid_batches)
        callbacks = make_callbacks(stage, setup.batches.pairs, validate, run.log)
        if run.tensorboard and run.devices.is_main_process:
            board = run.tensorboard / stage.name
            callbacks.append(keras.callbacks.TensorBoard(board, write_graph=False))
        decided = [callback for callback in callbacks if isinstance(callback, DECIDES)]
        save_best = functools.partial(save_model, setup.distributed.model, best_file)
        keep = KeepCheckpoint(stage.name, run.log, run.checkpoint, decided, save_best)
        callbacks.append(keep)
        fit(setup.learner, setup.batches, stage, callbacks, run.checkpoint)
        if setup.distributed.frozen_digest() != before:
            raise RuntimeError(f"stage {stage.name}: frozen weights changed")
    return keep.best if run.devices.is_main_process else []


def load_parts(run: Run, stage: Stage, path: pathlib.Path) -> Parts:
    """Loads the model file that a stage starts from, cut where its training begins."""
    keras.utils.set_random_seed(run.seed_of(stage))
    model = load_at_size(path, run.trunk, run.image_size_of(stage))
    cut = TRUNKS[run.trunk].cut(model.get_layer("trunk")) if stage.unfreeze else None
    unfreeze(model, cut)
    return Parts(model, cut)


def copy_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file, whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def open_stores(
    run: Run, stage: Stage, parts: Parts, photos: Photos, valid: Photos
) -> tuple[ActivationStore | None, ActivationStore | None]:
    """The stores of a stage, `(training, validation)`; those of others are removed."""
    later = [
        other
        for other in run.stages[run.stages.index(stage) + 1 :]
        if other.unfreeze and other.image_scale == stage.image_scale
    ]
    lower_parts = None
    if later and not stage.unfreeze:
        trunk = parts.model.get_layer("trunk")
        lower_parts = split_trunk(parts.model, TRUNKS[run.trunk].cut(trunk))
    mirrors = stage.augment == "mirror"
    if run.pool is not None:
        # Every photo is held out by one fold and trained on by the others: one
        # store of all of them, which stays for the folds to come. Later stages need it,
        # whatever they train on, for the photos that they hold out.
        needed_later = mirrors in [other.augment == "mirror" for other in later]
        pooled = open_both(run, parts, run.pool, mirrors, lower_parts if needed_later else None)[-1]
        run.devices.barrier()
        if pooled is None:
            if run.cache == "off" and run.devices.is_main_process:  # a run that stored left them
                remove_stores(run.home)
            return None, None
        own = None if stage.augment == "affine" else pooled.part(run.pool, photos)
        return own, pooled.part(run.pool, valid)
    stores = open_both(run, parts, valid, False, lower_parts)
    valid_store = stores[-1]
    train_store = None  # affine transforms are new every epoch
    if stage.augment != "affine":
        needed_later = stage.augment in [other.augment for other in later]
        stores += open_both(run, parts, photos, mirrors, lower_parts if needed_later else None)
        train_store = stores[-1]
    if run.devices.is_main_process:
        remove_stores(run.home, keep=[store.path for store in stores if store])
    run.devices.barrier()
    return train_store, valid_store


def open_both(
    run: Run,
    parts: Parts,
    photos: Photos,
    mirror: bool,
    lower_parts: tuple[keras.Model, keras.Model] | None,
) -> list[ActivationStore | None]:
    """The store of a later stage, if there is one, and that of a stage, made from it.

    A later stage starts further down in the trunk. Photos pass the trunk once.

    Args:
        run, photos, mirror: as in `open_store`.
        parts: of the stage.
        lower_parts: `split_trunk` where the later stage starts; None: none needs these photos.
    """
    if lower_parts is None:
        return [open_store(run, parts.below, photos, mirror)]
    below, between = lower_parts
    first = open_store(run, below, photos, mirror)
    source = (first, between) if first else None
    return [first, open_store(run, parts.below, photos, mirror, source)]


def fit(
    model: keras.Model,
    batches: KerasBatches,
    stage: Stage,
    callbacks: list[keras.callbacks.Callback],
    checkpoint: Checkpoint,
) -> None:
    """`model.fit` from the checkpoint on, with a readable error if memory runs out."""
    num_done = len(checkpoint.rows_of(stage.name))
    if num_done:
        print(f"stage {stage.name}: resumes after epoch {num_done}", flush=True)
    batches.pairs.epoch = num_done
    size = batches.pairs.batch_size
    with memory_errors(stage, batches.devices, size), batches.original_errors():
        model.fit(
            batches.for_keras,
            initial_epoch=num_done,
            epochs=num_done if checkpoint.ended(stage.name) else stage.epochs,
            callbacks=callbacks,
            shuffle=False,  # `PairBatches` shuffles; the order of steps is part of its key
            verbose=1 if sys.stdout.isatty() else 2,
        )
