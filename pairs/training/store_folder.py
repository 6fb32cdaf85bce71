"""Where a run keeps its stores of activations, and what of it may be deleted.

`weights/activations` may be a link to a larger disk, where other files lie and other runs
keep theirs. So a run has a folder of its own behind a link, and deletes only what has the
name of a store.
"""

import contextlib
import pathlib
import re
import secrets
import shutil
from collections.abc import Collection, Iterator

from pairs.errors import UserError
from pairs.files import replacing

ACTIVATIONS = "activations"
# Holds the name of the run's own folder behind a link. It moves with the weights folder,
# and all machines of a cluster read the same.
BEHIND_LINK = ".activations"
# A store is named by its key; `.off` says that there was no room for it.
OFF = ".off"
STORE = re.compile(rf"[0-9a-f]{{32}}({re.escape(OFF)})?")
OWN_FOLDER = re.compile(r"pairs-[0-9a-f]{16}")


def disk_of_stores(home: pathlib.Path) -> pathlib.Path:
    """A folder on the disk that stores will take room of; it may not be there yet.

    Args:
        home: the weights folder of the whole training.

    Raises:
        UserError: it is a link that leads nowhere.
    """
    folder = home / ACTIVATIONS
    if folder.is_symlink() and not folder.is_dir():
        raise UserError(
            f"{folder}: a link to no folder. Mount the disk that it leads to, or remove the link"
        )
    return folder


def store_folder(home: pathlib.Path) -> pathlib.Path:
    """The folder of a run's stores, which may not be there yet.

    Behind a link the first call names it; on a cluster the main process must be the first.

    Args, raises: as `disk_of_stores`.
    """
    folder = disk_of_stores(home)
    if not folder.is_symlink():
        return folder
    name = name_behind_link(home)
    if not name:
        name = f"pairs-{secrets.token_hex(8)}"
        with replacing(home / BEHIND_LINK) as temporary:
            temporary.write_text(name, "utf-8")
    return folder / name


def name_behind_link(home: pathlib.Path) -> str:
    """The name of a run's own folder behind a link; "" if it has none."""
    try:
        name = (home / BEHIND_LINK).read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""
    return name if OWN_FOLDER.fullmatch(name) else ""


def folder_there(home: pathlib.Path) -> pathlib.Path | None:
    """`store_folder` where a run may have stores already; nothing is named for it."""
    folder = home / ACTIVATIONS
    if not folder.is_dir():
        return None
    if not folder.is_symlink():
        return folder
    name = name_behind_link(home)
    return folder / name if name else None


def stores_in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """What lies in a folder by the name of a store."""
    return (path for path in folder.glob("*") if STORE.fullmatch(path.name))


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes the half-written shards of a killed run."""
    for store in stores_in(folder):
        for leftover in store.glob(".tmp-*"):
            leftover.unlink()


def remove_stores(home: pathlib.Path, keep: Collection[pathlib.Path] = ()) -> None:
    """Deletes the stores of a run, but not those that are still in use."""
    folder = folder_there(home)
    for path in stores_in(folder) if folder else ():
        if path.is_dir() and path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def remove_activations(home: pathlib.Path) -> None:
    """Deletes the stores of a run, and what was decided about them; a link stays."""
    folder = folder_there(home)
    if not folder:
        return
    remove_stores(home)
    for path in stores_in(folder):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):  # other files are in it
        folder.rmdir()
    (home / BEHIND_LINK).unlink(missing_ok=True)
