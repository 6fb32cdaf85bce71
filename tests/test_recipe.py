import pytest

from pairs.errors import UserError
from pairs.training.recipe import RECIPES, STAGES_2017, plan


def test_epochs_replace_those_of_a_recipe_and_zero_leaves_a_stage_out():
    assert [(stage.name, stage.epochs) for stage in plan("seed", [5, 0, 2])] == [
        ("heads", 5),
        ("plain", 2),
    ]
    assert plan("seed") == list(STAGES_2017)


@pytest.mark.parametrize(
    ("recipe", "epochs", "words"),
    [
        (
            "seed",
            [1, 1],
            "3 are needed, one for each stage of the seed recipe: heads, blocks, plain",
        ),
        ("tuned", [1, 1, 1], "2 are needed, one for each stage of the tuned recipe: heads, blocks"),
        ("tuned", [0, 0], "at least one stage must train"),
    ],
)
def test_epochs_that_fit_no_plan_are_refused(recipe, epochs, words):
    with pytest.raises(UserError, match=words):
        plan(recipe, epochs)


def test_stages_of_a_recipe_are_numbered_and_named_apart():
    for chosen in RECIPES.values():
        stages = chosen.stages
        assert [stage.number for stage in stages] == list(range(1, len(stages) + 1))
        assert len({stage.name for stage in stages}) == len(stages)
