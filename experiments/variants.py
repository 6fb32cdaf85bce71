"""Trains with one thing changed: the slips of 2017, and what might do better.

`train.py` is run as it is, but for the constants and functions that the named
variant replaces. A variant that paid has moved into `pairs/training/recipe.py`;
what did not pay is written down in docs/experiments.md and deleted here.

Run it:   python -m experiments.variants one-in-four [flags of train.py]
Look up:  python -m experiments.variants --help
"""

import dataclasses
import importlib
import sys

import numpy as np
from PIL import Image

import train
from pair_generator import swap_partners
from pairs.command_line import run
from pairs.errors import UserError
from pairs.network.trunks import TRUNKS
from pairs.training import recipe, settings

# Of trunks that do not scale bytes themselves.
INPUT_SCALE = "pairs.network.trunks.INPUT_SCALE"
# What only pairs notice: nothing of `--loss softmax`.
LOSS_WEIGHTS = "pairs.training.recipe.LOSS_WEIGHTS"
ALL_PAIRS_WEIGHT = "pairs.training.recipe.ALL_PAIRS_WEIGHT"
OF_PAIRS = {"pair_generator.swap_partners", LOSS_WEIGHTS, ALL_PAIRS_WEIGHT}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What one variant changes.

    Attributes:
        what: one human-readable line.
        replaced: dict from "module.NAME" to the constant or function instead.
        stages: dict from a stage's name, or "all", to the fields of
            `recipe.Stage` that change.
        one_permutation: the 2017 pairs and pair head, also of recipes with all pairs.
    """

    what: str
    replaced: dict = dataclasses.field(default_factory=dict)
    stages: dict = dataclasses.field(default_factory=dict)
    one_permutation: bool = False

    def check(self, args):
        """Raises a UserError if the variant changes nothing of a training.

        Args:
            args: of train.py.
        """
        before = recipe.plan(args.recipe, args.epochs)
        works = set(self.replaced)
        all_pairs = args.loss == "paired" and recipe.RECIPES[args.recipe].all_pairs
        changes_plan = [self.changed(stage) for stage in before] != before
        changes_plan |= all_pairs and self.one_permutation
        if args.loss != "paired":
            works -= OF_PAIRS
        # Of two pair heads only one is trained.
        works -= {LOSS_WEIGHTS} if all_pairs and not self.one_permutation else {ALL_PAIRS_WEIGHT}
        if TRUNKS[args.trunk].scales_itself:
            works -= {INPUT_SCALE}
        if args.demo or not (changes_plan or works):
            raise UserError("this variant would change nothing of this training")

    def changed(self, stage):
        """A stage with the fields that the variant changes."""
        fields = {**self.stages.get("all", {}), **self.stages.get(stage.name, {})}
        return dataclasses.replace(stage, **fields)

    def apply(self):
        """Changes the modules of this process, for good."""
        for place, value in self.replaced.items():
            owner, name = find(place)
            setattr(owner, name, value)
        for name, plan in recipe.RECIPES.items():
            recipe.RECIPES[name] = dataclasses.replace(
                plan,
                stages=tuple(map(self.changed, plan.stages)),
                all_pairs=plan.all_pairs and not self.one_permutation,
            )


def together(what, *variants):
    """Several variants at once; where two change the same, the later one counts."""
    replaced = {key: value for variant in variants for key, value in variant.replaced.items()}
    names = {name for variant in variants for name in variant.stages}
    stages = {
        name: {key: v for variant in variants for key, v in variant.stages.get(name, {}).items()}
        for name in names
    }
    return Variant(what, replaced, stages, any(each.one_permutation for each in variants))


def find(place):
    """The module and the name that "module.NAME" stands for.

    Raises:
        AttributeError: there is nothing to replace any more.
    """
    module, _, name = place.rpartition(".")
    owner = importlib.import_module(module)
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


SLIPS = {
    "scale-0-1": Variant(
        "photos scaled to [0, 1] instead of [-1, 1]",
        {INPUT_SCALE: (1 / 255, 0.0)},
    ),
    "nearest": Variant(
        "photos resized by nearest neighbour",
        {"pairs.photos.fit.RESAMPLING": Image.Resampling.NEAREST},
    ),
    "one-in-four": Variant(
        "same-class photos swapped in one batch of four only",
        {"pair_generator.swap_partners": one_in_four},
    ),
}
CANDIDATES = {
    "not-larger": Variant(
        "images as large as --image-size in every stage: what is left of a recipe without",
        stages={"all": {"image_scale": 1.0}},
    ),
    "plateau": Variant(
        "learning rate 1e-4 with plateaus in stages 2 and 3, as in 2017: what is left of a recipe "
        "without its own",
        stages={
            name: {"schedule": "plateau", "learning_rate": 1e-4} for name in ("blocks", "plain")
        },
    ),
    "all-pairs-0": Variant(
        "all pairs of a batch, weighted 0: what is left of a recipe without",
        {ALL_PAIRS_WEIGHT: 0.0},
    ),
    "one-permutation": Variant(
        "the 2017 pairs and pair head instead of all pairs of a batch",
        one_permutation=True,
    ),
    "pair-weight-0": Variant(
        "no pair loss",
        {LOSS_WEIGHTS: {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.0}},
    ),
}
VARIANTS = {
    "2017": together("the 2017 code: all three slips", *SLIPS.values()),
    **SLIPS,
    **CANDIDATES,
}


def name_in_settings(name):
    """Has the settings of a run name its variant: neither resumes the other's."""
    constants = settings.constants
    settings.constants = lambda *args: {**constants(*args), "variant": name}


def parse_args(argv):
    """The name of the variant, and the flags of train.py behind it, parsed."""
    name, *flags = argv or [""]
    if name in ("-h", "--help"):
        print("usage: variants.py VARIANT [flags of train.py]\n")
        for name, variant in VARIANTS.items():
            print(f"  {name:<20} {variant.what}")
        sys.exit(0)
    if name not in VARIANTS:
        raise UserError(f"{name!r} is no variant; python -m experiments.variants --help lists them")
    args = train.parse_args(flags)
    VARIANTS[name].check(args)
    return name, args


def main():
    name, _ = parse_args(sys.argv[1:])
    sys.argv[:2] = ["train.py"]
    VARIANTS[name].apply()
    name_in_settings(name)
    train.main()


if __name__ == "__main__":
    run(main)
