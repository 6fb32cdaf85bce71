"""The training plans: one table of stages each. `train.py --recipe` chooses.

Reading a table is reading the plan. `seed` is the 2017 recipe and the default.
The numbers above the tables belong to the plans that use them: augmentation, plateau and
the weight of `bin_out` to `seed`, that of all pairs to the others. Which layers train is
a matter of the trunk: `pairs.network.trunks.TRUNKS`.
"""

import dataclasses
import math
from typing import Literal

from pairs.errors import UserError

LOSS_WEIGHTS = {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5}
DROPOUT = 0.5
# The weight of the pair loss of all pairs. Chosen by experiment: docs/experiments.md.
ALL_PAIRS_WEIGHT = 2.0
# The settings of 2017. Their shear of 0.2 was in radians; ImageDataGenerator takes
# degrees today. The edges are filled with the nearest pixel, its default.
AUGMENTATION = {
    "rotation_range": 45,
    "shear_range": math.degrees(0.2),
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
# The learning rate falls by this after so many epochs without a lower
# validation loss; 1e-6 is where the last pass of 2017 ends.
PLATEAU = {"factor": 0.1, "patience": 3, "min_lr": 1e-6}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a training plan.

    Attributes:
        number: 1 to 9, another for each: it seeds the stage's random numbers.
        name: file names and log rows carry it.
        unfreeze: what trains beside the heads: "blocks", the trunk's last ones; None: nothing.
        optimizer: "adam", or "sgd" with momentum 0.9.
        learning_rate: at the start of a "plateau", at the top of a "cosine".
        epochs: at most.
        augment: "affine": a random affine transform for every training image;
            "mirror": every image mirrored or not, at random, which can be
            stored; None: photos as they are.
        patience: stop after so many epochs without a lower validation loss;
            None trains all epochs.
        schedule: "plateau": the learning rate x 0.1 after 3 epochs without a
            lower validation loss; "cosine": up from zero in the first tenth of
            the steps, then down to zero along half a cosine (arXiv:1608.03983).
        image_scale: image size of the stage, in units of --image-size.
    """

    number: int
    name: str
    unfreeze: Literal["blocks"] | None
    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    epochs: int
    augment: Literal["affine", "mirror"] | None
    patience: int | None = None
    schedule: Literal["plateau", "cosine"] = "plateau"
    image_scale: float = 1.0


STAGES_2017 = (
    # The heads start random; their first gradients would wreck the trunk.
    Stage(1, "heads", None, "adam", 1e-3, epochs=30, augment="affine", patience=3),
    # The last blocks: the features that tell one class from its neighbours.
    Stage(2, "blocks", "blocks", "sgd", 1e-4, epochs=30, augment="affine"),
    # Photos as they will be at test time; the plateaus take it down to 1e-6.
    Stage(3, "plain", "blocks", "sgd", 1e-4, epochs=10, augment=None),
)


# Measured against STAGES_2017 in docs/results.md. Mirrored photos can be stored, affine
# transforms cannot: the time that saves goes into larger images.
def stored_and_larger(scale: float) -> tuple[Stage, ...]:
    """Two stages of stored activations, at so many times `--image-size`."""
    return (
        Stage(1, "heads", None, "adam", 1e-3, 10, "mirror", None, "cosine", scale),
        Stage(2, "blocks", "blocks", "sgd", 6e-3, 12, "mirror", None, "cosine", scale),
    )


TUNED = stored_and_larger(1.6)
NIGHT = stored_and_larger(2.2)  # whether that pays: docs/experiments.md


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `--recipe` chooses.

    Attributes:
        what: it in some words, for `--help`.
        stages: in their order.
        all_pairs: whether the pair loss looks at every pair of a batch, not at one
            permutation of it.
    """

    what: str
    stages: tuple[Stage, ...]
    all_pairs: bool = False

    @property
    def image_scale(self) -> float:
        """The largest of its stages."""
        return max(stage.image_scale for stage in self.stages)


RECIPES = {
    "seed": Recipe("the recipe of 2017", STAGES_2017),
    "tuned": Recipe("fewer errors", TUNED, all_pairs=True),
    "night": Recipe("tuned with larger images", NIGHT, all_pairs=True),
}


def plan(recipe: str, epochs: list[int] | None = None) -> list[Stage]:
    """The stages of a recipe.

    Args:
        recipe: key of `RECIPES`.
        epochs: one number per stage, instead of the recipe's; 0 leaves the stage
            out. None: the recipe's.

    Raises:
        UserError: another number of stages, or nothing left to train.
    """
    stages = RECIPES[recipe].stages
    if epochs is None:
        return list(stages)
    if len(epochs) != len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise UserError(
            f"--epochs: {len(epochs)} numbers given, {len(stages)} are needed, one for each stage "
            f"of the {recipe} recipe: {names}"
        )
    planned = [
        dataclasses.replace(stage, epochs=count)
        for stage, count in zip(stages, epochs, strict=True)
        if count > 0
    ]
    if not planned:
        raise UserError("--epochs all 0: at least one stage must train")
    return planned
