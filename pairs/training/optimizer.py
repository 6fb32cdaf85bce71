"""How a stage is compiled: losses, optimizer, schedule."""

import keras

from pairs.network.parts import uses_xla
from pairs.training import recipe


def compile_model(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | str, jit: bool = False
) -> None:
    """Compiles with the seed's losses for the outputs that the model has.

    Args:
        model: with the outputs of `build_model`.
        optimizer: or its name.
        jit: compile with XLA.
    """
    heads = list(model.output)
    model.compile(
        optimizer=optimizer,
        loss={head: "sparse_categorical_crossentropy" for head in heads},
        loss_weights={head: recipe.LOSS_WEIGHTS[head] for head in heads},
        # Weighted: the padding of a batch that several devices share does not count.
        weighted_metrics={head: ["accuracy"] for head in heads},
        jit_compile=uses_xla(jit),
    )


def make_optimizer(stage: recipe.Stage, num_steps: int) -> keras.optimizers.Optimizer:
    """A new optimizer for a stage of `num_steps` per epoch: no moments of the last one."""
    learning_rate = stage.learning_rate
    if stage.schedule == "cosine":
        learning_rate = cosine(learning_rate, num_steps * stage.epochs)
    if stage.optimizer == "adam":
        return keras.optimizers.Adam(learning_rate)
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def cosine(learning_rate: float, num_steps: int) -> keras.optimizers.schedules.CosineDecay:
    """The schedule "cosine" of `recipe.Stage`, over `num_steps` in all."""
    warm_up = num_steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, num_steps - warm_up, warmup_target=learning_rate, warmup_steps=warm_up
    )
