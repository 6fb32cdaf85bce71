"""Trains with one thing changed: the slips of 2017, and what might do better.

`train.py` is run as it is, but for the constants and functions that the named
variant replaces. A variant that paid has moved into `recipe.py`; what is left
here is kept so that `ablation.py` can measure it again.

Run it:   python benchmarks/variants.py one-in-four [flags of train.py]
Look up:  python benchmarks/variants.py --help
"""

import dataclasses
import importlib
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import photo
import recipe
import train
from command_line import UserError, run
from pair_generator import FOR_ORDER, swap_partners, validation_order, validation_partners


@dataclasses.dataclass(frozen=True)
class Variant:
    """What one variant changes.

    Attributes:
        what: one line for people.
        replaced: dict from "module.NAME" to the constant or function instead.
        wrapped: dict from "module.NAME" to a function that makes the new one
            from the old one.
        stages: dict from a stage's name, or "all", to the fields of
            `recipe.Stage` that change.
    """

    what: str
    replaced: dict = dataclasses.field(default_factory=dict)
    wrapped: dict = dataclasses.field(default_factory=dict)
    stages: dict = dataclasses.field(default_factory=dict)

    def apply(self):
        """Changes the modules of this process, for good."""
        for place, value in self.replaced.items():
            owner, name = find(place)
            setattr(owner, name, value)
        for place, wrap in self.wrapped.items():
            owner, name = find(place)
            setattr(owner, name, wrap(getattr(owner, name)))
        for name, stages in recipe.RECIPES.items():
            recipe.RECIPES[name] = tuple(
                dataclasses.replace(
                    stage, **self.stages.get("all", {}), **self.stages.get(stage.name, {})
                )
                for stage in stages
            )


def together(what, *variants):
    """Several variants at once; where two change the same, the later one counts."""
    parts = [
        {key: value for variant in variants for key, value in getattr(variant, part).items()}
        for part in ("replaced", "wrapped")
    ]
    names = {name for variant in variants for name in variant.stages}
    stages = {
        name: {key: v for variant in variants for key, v in variant.stages.get(name, {}).items()}
        for name in names
    }
    return Variant(what, *parts, stages)


def find(place):
    """The module (or class in it) and the name that "module.NAME" stands for.

    Raises:
        AttributeError: there is nothing to replace any more.
    """
    module, *owners, name = place.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    getattr(owner, name)
    return owner, name


def one_in_four(labels, rng):
    """Partners as the author's file drew them: in three batches of four, anybody."""
    labels = np.asarray(labels)
    if rng.random() < 0.25:
        return swap_partners(labels, rng)
    partner = np.empty(len(labels), np.int32)
    order = rng.permutation(len(labels))
    partner[order] = np.roll(order, -1)  # nobody is their own partner
    return partner


def couples_order(batches):
    """The order of an epoch: two photos of one class side by side, each photo once."""
    if batches.validation:
        return batches.fixed_order
    return validation_order(batches.photos.labels, batches.rng(FOR_ORDER))


def crop(image, image_size):
    """The largest square from the middle of a photo, instead of squashing it."""
    upright = ImageOps.exif_transpose(image)
    size = (image_size, image_size)
    return ImageOps.fit(photo.to_rgb(upright), size, photo.RESAMPLING)


def scaled_difference(layer, features):
    """The squared difference in units that start the pair head gently."""
    return 0.1 * (features[0] - features[1]) ** 2


def average_optimizer(make_optimizer):
    """`stage.make_optimizer` with a running average of the last stage's weights."""

    def make(stage, num_steps):
        optimizer = make_optimizer(stage, num_steps)
        if stage.number == 3:
            optimizer.use_ema, optimizer.ema_momentum = True, 0.98
        return optimizer

    return make


def average_callbacks(make_callbacks):
    """`stage.make_callbacks`: the average is what is validated and saved."""

    def make(stage, pairs, validate, log):
        import keras

        callbacks = make_callbacks(stage, pairs, validate, log)
        if stage.number == 3:
            swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            # Of a run that goes on, the checkpoint holds the average as the weights.
            swap._ema_weights_in_model = any(row["stage"] == stage.name for row in log.rows)
            callbacks.insert(callbacks.index(validate), swap)
        return callbacks

    return make


def smoothed_crossentropy(labels, probabilities):
    """Cross-entropy against labels a tenth of which is spread over all classes.

    Source: label smoothing, arXiv:1512.00567, section 7.
    """
    import keras

    num_classes = probabilities.shape[-1]
    one_hot = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), num_classes)
    return keras.ops.categorical_crossentropy(0.9 * one_hot + 0.1 / num_classes, probabilities)


def smooth_labels(compile_model):
    """`model.compile_model` with smoothed labels for the class heads."""

    def compile_smoothed(model, optimizer, jit=False):
        import keras

        import model as network

        compile_model(model, optimizer, jit)
        heads = list(model.output)
        losses = dict.fromkeys(heads, smoothed_crossentropy)
        if "bin_out" in losses:
            losses["bin_out"] = "sparse_categorical_crossentropy"
        model.compile(
            optimizer=keras.optimizers.get(optimizer),
            loss=losses,
            loss_weights={head: network.LOSS_WEIGHTS[head] for head in heads},
            weighted_metrics={head: ["accuracy"] for head in heads},
            jit_compile=model.jit_compile,
        )

    return compile_smoothed


def loss_weights(pairs):
    """`model.LOSS_WEIGHTS` with another weight of the pair loss."""
    return {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": pairs}


def pair_weight(weight):
    """Another weight of the pair loss."""
    weights = {"model.LOSS_WEIGHTS": loss_weights(weight)}
    return Variant(f"pair loss weighted {weight} instead of 0.5", weights)


def heads_without_pairs(run_stage):
    """`stage.run_stage` with the pair loss from the second stage on only."""

    def run(stage, *rest):
        import model as network

        network.LOSS_WEIGHTS = loss_weights(0.0 if stage.number == 1 else 0.5)
        return run_stage(stage, *rest)

    return run


SLIPS = {
    "scale-0-1": Variant(
        "photos scaled to [0, 1] instead of [-1, 1]", {"model.INPUT_SCALE": (1 / 255, 0.0)}
    ),
    "nearest": Variant(
        "photos resized by nearest neighbour", {"photo.RESAMPLING": Image.Resampling.NEAREST}
    ),
    "one-in-four": Variant(
        "same-class photos swapped in one batch of four only",
        {"pair_generator.swap_partners": one_in_four},
    ),
}
LARGER = 1.6
CANDIDATES = {
    "couples": Variant(
        "batches of class couples: half of all pairs are of one class",
        {
            "pair_generator.swap_partners": validation_partners,
            "pair_generator.PairBatches.order": couples_order,
        },
    ),
    "crop": Variant("the middle of a photo instead of squashing it", {"photo.squash": crop}),
    "label-smoothing": Variant(
        "label smoothing 0.1 of the class heads", wrapped={"model.compile_model": smooth_labels}
    ),
    "cosine": Variant(
        "cosine schedule with warm-up in stages 2 and 3",
        stages={name: {"schedule": "cosine"} for name in ("blocks", "plain")},
    ),
    "cosine-3e-3": Variant(
        "cosine schedule with warm-up, up to 3e-3, in stages 2 and 3",
        stages={
            name: {"schedule": "cosine", "learning_rate": 3e-3} for name in ("blocks", "plain")
        },
    ),
    "average": Variant(
        "running average of the last stage's weights",
        wrapped={
            "stage.make_optimizer": average_optimizer,
            "stage.make_callbacks": average_callbacks,
        },
    ),
    "distance-scale": Variant(
        "squared difference x 0.1", {"model.SquaredDifference.call": scaled_difference}
    ),
    "larger-last": Variant(
        f"images {LARGER} times as large in the last stage",
        stages={"plain": {"image_scale": LARGER}},
    ),
    "larger": Variant(
        f"images {LARGER} times as large in every stage", stages={"all": {"image_scale": LARGER}}
    ),
    "not-larger": Variant(
        "images as large as --image-size in every stage: what is left of a recipe without",
        stages={"all": {"image_scale": 1.0}},
    ),
    "plateau": Variant(
        "learning rate 1e-4 with plateaus in stages 2 and 3, the seed's: what is left of a recipe "
        "without its own",
        stages={
            name: {"schedule": "plateau", "learning_rate": 1e-4} for name in ("blocks", "plain")
        },
    ),
    "mirror": Variant(
        "photos mirrored or not, and stored, instead of affine transforms",
        stages={name: {"augment": "mirror"} for name in ("heads", "blocks", "plain")},
    ),
    # As one of the author's files has it.
    "heads-without-pairs": Variant(
        "stage 1 with a pair loss of weight 0", wrapped={"stage.run_stage": heads_without_pairs}
    ),
    "pair-weight-0": pair_weight(0.0),
    "pair-weight-2": pair_weight(2.0),
    "dropout-0.2": Variant("dropout 0.2 instead of 0.5", {"model.DROPOUT": 0.2}),
    "rate-1e-3": Variant(
        "learning rate 1e-3 instead of 1e-4 in stages 2 and 3",
        stages={name: {"learning_rate": 1e-3} for name in ("blocks", "plain")},
    ),
}
VARIANTS = {
    "2017": together("the 2017 code: all three slips", *SLIPS.values()),
    **SLIPS,
    **CANDIDATES,
}


def name_in_settings(name):
    """Has the settings of a run name its variant: neither goes on with the other's."""
    import stage

    constants = stage.constants
    stage.constants = lambda *args: {**constants(*args), "variant": name}


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print("usage: variants.py VARIANT [flags of train.py]\n")
        for name, variant in VARIANTS.items():
            print(f"  {name:<20} {variant.what}")
        return
    if name not in VARIANTS:
        raise UserError(f"{name!r} is no variant; python benchmarks/variants.py --help lists them")
    VARIANTS[name].apply()
    name_in_settings(name)
    sys.argv[:2] = ["train.py"]
    train.main()


if __name__ == "__main__":
    run(main)
