"""How a stage is compiled: losses, optimizer, schedule."""

from typing import Any

import keras
from keras import ops

from pairs.devices.cluster import Cluster
from pairs.network.parts import ALL_PAIRS, uses_xla
from pairs.training import recipe

# A logarithm of odds that no pair has; what cannot be chosen.
FAR_BELOW = -1e4


class AllPairsLoss(keras.losses.Loss):
    """What the pair head says of every pair of a batch, judged in two ways.

    Cross-entropy of "the same class or not": pairs of one class and pairs of two
    weigh the same, however few of either there are. And a contrast: which of the
    other images are of an image's class? All images are asked at once, so those of
    another class that look most alike count most. An image is no pair with itself.

    Source: the sigmoid loss of arXiv:2303.15343, balanced, and the supervised
    contrastive loss of arXiv:2004.11362, whose temperature is learned here: both see
    the same odds.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image, whose mean over the batch is that of the pairs.

        Args:
            y_true: int array, shape `(batch,)`: classes; -1 for an image that only
                pads the batch.
            y_pred: float array, shape `(batch, batch, 2)`: probabilities of
                "different" and "same".
        """
        labels = ops.reshape(y_true, (-1,))
        is_image = labels >= 0
        itself = ops.eye(ops.shape(labels)[0], dtype="bool")
        others = ops.logical_and(is_image[:, None] & is_image[None], ops.logical_not(itself))
        is_same = ops.equal(labels[:, None], labels[None])
        same, different = (
            ops.cast(ops.logical_and(kind, others), y_pred.dtype)
            for kind in (is_same, ops.logical_not(is_same))
        )
        log_different, log_same = (
            ops.log(ops.maximum(y_pred[..., kind], keras.config.epsilon())) for kind in (0, 1)
        )
        loss = -0.5 * (mean_over(log_different, different) + mean_over(log_same, same))
        log_odds = log_same - log_different
        among_others = ops.logsumexp(ops.where(others, log_odds, FAR_BELOW), axis=1, keepdims=True)
        num_same = ops.sum(same, axis=1, keepdims=True)
        of_its_class = ops.sum((log_odds - among_others) * same, axis=1, keepdims=True)
        has_same = ops.cast(num_same > 0, y_pred.dtype)
        loss -= mean_over(of_its_class / ops.maximum(num_same, 1.0), has_same)
        return loss * ops.sum(ops.cast(is_image, y_pred.dtype))


def mean_over(values: Any, counts: Any) -> Any:
    """The part of each row in the mean of values that count (1) and do not (0): `(rows,)`."""
    return ops.sum(values * counts, axis=1) / ops.maximum(ops.sum(counts), 1.0)


def compile_model(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | str, jit: bool = False
) -> None:
    """Compiles with the losses for the outputs that the model has.

    Args:
        model: with the outputs of `build_model`, or of `parts.split`.
        optimizer: or its name.
        jit: compile with XLA.
    """
    heads = list(model.output)
    losses = dict.fromkeys(heads, "sparse_categorical_crossentropy")
    weights = {**recipe.LOSS_WEIGHTS, ALL_PAIRS: recipe.ALL_PAIRS_WEIGHT}
    if ALL_PAIRS in heads:
        losses[ALL_PAIRS] = AllPairsLoss()
    model.compile(
        optimizer=optimizer,
        loss=losses,
        loss_weights={head: weights[head] for head in heads},
        # Weighted: padding does not count.
        weighted_metrics={head: ["accuracy"] for head in heads if head != ALL_PAIRS},
        jit_compile=uses_xla(jit),
    )


def make_metrics(model: keras.Model, devices: Cluster) -> None:
    """Makes the variables of a compiled model's metrics, as its first batch would.

    TensorFlow traces a step that makes variables a second time, and each tracing takes
    seconds. So one batch of zeros is measured here. On several devices, and on other
    backends, Keras itself makes them first.
    """
    if devices.engine or keras.backend.backend() != "tensorflow":
        return
    outputs = keras.tree.map_structure(
        lambda output: ops.zeros([side or 1 for side in output.shape], output.dtype), model.output
    )
    labels = {head: ops.zeros(1, "int32") for head in outputs}
    model.compute_loss(None, labels, outputs)
    model.compute_metrics(None, labels, outputs)
    model.reset_metrics()


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
