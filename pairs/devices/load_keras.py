"""Loads Keras without the packages that it would load only because they are installed."""

import gc
import importlib
import os
import pathlib
import sys
from typing import Any

from pairs.errors import UserError

# Keras looks for the first three (galleries of images, wrappers for scikit-learn, tables)
# and TensorFlow for JAX (its converter to LiteRT). No command of ours needs them there.
UNUSED = ("matplotlib", "sklearn", "pandas")
UNUSED_ON_TENSORFLOW = (*UNUSED, "jax")


def load_keras() -> None:
    """Imports Keras and its backend; does nothing if they are imported already.

    With all of these packages installed it takes a third less time and 200 MB less
    memory. The packages can be imported afterwards as ever. The garbage collector
    waits, and looks at all of this only once: half a million objects, which stay. That
    saves another quarter (docs/hardware.md).

    Raises:
        UserError: the backend that was chosen is not installed.
    """
    if "keras" in sys.modules:
        return
    unused = UNUSED_ON_TENSORFLOW if is_on_tensorflow() else UNUSED
    hidden = [name for name in unused if name not in sys.modules]
    not_installed: Any = None  # says the import system of such an entry
    sys.modules.update(dict.fromkeys(hidden, not_installed))
    collects = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("keras")
    except (ImportError, ValueError) as error:
        named = os.environ.get("KERAS_BACKEND", "of keras.json")
        raise UserError(
            f"Keras' backend {named} cannot be loaded ({error}): install it, or leave out "
            f"KERAS_BACKEND"
        ) from error
    else:
        gc.collect()  # what is garbage now would stay, too, with all that it will refer to
        gc.freeze()
    finally:
        for name in hidden:
            del sys.modules[name]
        if collects:
            gc.enable()


def is_on_tensorflow() -> bool:
    """Whether Keras will compute with TensorFlow; False where that is not sure."""
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen:
        return chosen == "tensorflow"
    # Keras' settings are in the second folder where the home is read-only.
    for folder in (os.environ.get("KERAS_HOME", "~/.keras"), "/tmp/.keras"):
        try:
            settings = pathlib.Path(os.path.expanduser(folder), "keras.json").read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return False
        if "tensorflow" not in settings:
            return False
    return True
