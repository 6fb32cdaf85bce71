"""Who computes what does not train: Keras, or OpenVINO, which is faster on a CPU.

OpenVINO joins normalization and activations to the convolutions before them. In float32 its
numbers are Keras' to rounding; in bfloat16, on a CPU that multiplies it, they are not.
"""

import functools
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# As OpenVINO names them. Not told, it takes bfloat16 wherever the CPU can.
PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16"}
# The forward passes of a stage: two stores, and what lies between them.
MOST_COMPILED = 4


def forward(model: keras.Model, openvino: str | None) -> Callable[[np.ndarray], Any]:
    """The forward pass of a model, on batches of any length.

    Args:
        model: with one input. Its weights are read now: it must not train any more.
        openvino: a key of `PRECISION_HINTS`; None: Keras computes.

    Returns:
        a function from a batch to what `model.predict_on_batch` returns. It may be called
        on several threads.
    """
    return compiled(model, openvino) if openvino else model.predict_on_batch


# To compile takes seconds.
@functools.lru_cache(MOST_COMPILED)
def compiled(model: keras.Model, precision: str) -> "Compiled":
    """`Compiled`, once for each model, until `forget_compiled`."""
    return Compiled(model, precision)


def forget_compiled() -> None:
    """Frees the models that OpenVINO has compiled."""
    compiled.cache_clear()


class Compiled:
    """A model that OpenVINO computes.

    Args:
        model: of Keras on TensorFlow, in float32.
        precision: a key of `PRECISION_HINTS`.
    """

    def __init__(self, model: keras.Model, precision: str) -> None:
        import tensorflow as tf

        openvino = import_openvino()
        signature = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
        traced = tf.function(lambda batch: model(batch, training=False), [signature])
        graph = openvino.convert_model(traced.get_concrete_function())
        hints = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
            # It would bind threads to cores, and those that TensorFlow starts later share them.
            "ENABLE_CPU_PINNING": False,
        }
        self.request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
        self.is_dict = isinstance(model.output, dict)
        self.lock = threading.Lock()  # a pass takes all cores

    def __call__(self, batch: np.ndarray) -> Any:
        """What the model says of a batch: an array, or a dict of arrays, float32."""
        with self.lock:
            found = self.request.infer([batch], share_inputs=True)
        arrays = {output.any_name: array for output, array in found.items()}
        return arrays if self.is_dict else next(iter(arrays.values()))


def import_openvino() -> Any:
    """Imports OpenVINO without its telemetry (Google Analytics, on by default)."""
    name = "openvino_telemetry"
    not_installed: Any = None  # says the import system of such an entry
    sys.modules.setdefault(name, not_installed)
    import openvino

    return openvino


def in_float32(model: keras.Model) -> keras.Model:
    """A model itself, or a copy that computes in float32, which its weights are in any case."""
    text = model.to_json()
    changed = re.sub(r'"mixed_b?float16"', '"float32"', text)
    if text == changed:
        return model
    exact = keras.models.model_from_json(changed)
    exact.set_weights(model.get_weights())
    return exact
