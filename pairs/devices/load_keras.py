"""Loads Keras without the packages that it would load only because they are installed."""

import os
import pathlib
import sys
from typing import Any

# Keras looks for the first three (galleries of images, wrappers for scikit-learn, tables)
# and TensorFlow for JAX (its converter to LiteRT). No command of ours needs them there.
UNUSED = ("matplotlib", "sklearn", "pandas")
UNUSED_ON_TENSORFLOW = (*UNUSED, "jax")


def load_keras() -> None:
    """Imports Keras and its backend; once they are there, nothing happens.

    With all of these packages installed it takes a third less time and 200 MB less
    memory (docs/hardware.md). They can be imported afterwards as ever.
    """
    unused = UNUSED_ON_TENSORFLOW if is_on_tensorflow() else UNUSED
    hidden = [name for name in unused if name not in sys.modules]
    not_installed: Any = None  # says the import system of such an entry
    sys.modules.update(dict.fromkeys(hidden, not_installed))
    try:
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


def is_on_tensorflow() -> bool:
    """Whether Keras will compute with TensorFlow, by the places where Keras looks."""
    chosen = os.environ.get("KERAS_BACKEND")
    if not chosen:
        home = os.environ.get("KERAS_HOME") or pathlib.Path("~/.keras").expanduser()
        settings = pathlib.Path(home, "keras.json")
        chosen = settings.read_text(errors="replace") if settings.is_file() else "tensorflow"
    return "tensorflow" in chosen
