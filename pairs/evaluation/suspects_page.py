"""The page to decide on labels to check: `suspects.html`, one file without network.

A person looks at each suspect beside photos of both classes, chooses what to do,
and downloads corrections.csv: image, decision (keep, relabel, remove), typeid.
The page itself (layout, style, what a key does) is the template `suspects.html`.
"""

import hashlib
import html
import itertools
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from pairs.errors import UserError
from pairs.evaluation.evaluate import printed_name
from pairs.evaluation.figures import embeddable
from pairs.evaluation.page import fill_template, script_json
from pairs.evaluation.suspects import (
    MOST_SUSPECTS,
    Suspect,
    labels_to_check,
    one_of_each_first,
)
from pairs.files import write_text
from pairs.photos.find import SIDES
from pairs.photos.place import read_sorting
from pairs.photos.read import Photos, open_photo, printable

# What a browser and a person take in one go; with them the page stays below 5 MB.
MOST_GROUPS, MOST_OF_GROUP = 60, 6
# Longer sides in pixels.
LARGE, SMALL = 400, 120


def write_suspects_page(
    suspects: Sequence[Suspect],
    photos: Photos,
    names: dict[str, str],
    folder: pathlib.Path,
    groups: Sequence[Sequence[int]] = (),
) -> None:
    """Writes `folder/suspects.html`.

    Args:
        suspects: of `find_suspects`; the first `MOST_SUSPECTS` are shown.
        photos: the same. One that cannot be read any more is shown without picture.
        names: human-readable, by typeid.
        folder: is there already.
        groups: of near-duplicates: indices of photos. Those under several labels
            are listed first.
    """
    shown = suspects[:MOST_SUSPECTS]
    out = sorted_into(photos)
    is_sorted = out is not None and bool(read_sorting(out))
    described = [describe_suspect(suspect, photos, is_sorted) for suspect in shown]
    described_groups = [describe_group(group, photos.labels) for group in groups]
    described_groups.sort(key=lambda group: group["classes"] == 1)  # stable
    listed = described_groups[:MOST_GROUPS]
    beside = [
        index
        for suspect in shown
        for index in (
            *suspect.near_suggested,
            *suspect.near_own,
            *suspect.duplicates,
        )
    ]
    beside += [index for group in listed for index in group["members"]]
    data = {
        "key": key_of(described),
        "typeids": photos.typeids,
        "classes": [printed_name(typeid, names) for typeid in photos.typeids],
        "suspects": described,
        "groups": listed,
        # A photo may be the neighbour of many: its picture is there once.
        "photos": {index: describe_photo(index, photos) for index in dict.fromkeys(beside)},
    }
    page = fill_template(
        "suspects.html",
        title=labels_to_check(len(suspects)),
        subtitle=html.escape(in_words(suspects, photos)),
        groups=html.escape(groups_in_words(described_groups)),
        **sorting_in_words(photos),
        data=script_json(data),
    )
    write_text(folder / "suspects.html", page)


def sorting_in_words(photos: Photos) -> dict[str, str]:
    """How to sort these photos again, as they were sorted if that is known.

    Returns:
        `file`, the name of the new corrections, `command`, which takes them, and `about`, a
        sentence on it; as HTML.
    """
    out = sorted_into(photos) or pathlib.Path("data")
    flags = read_sorting(out)
    words = ["--raw", from_here(flags.get("raw") or out / "raw"), "--out", from_here(out)]
    for name in ("valid_fraction", "seed"):
        if name in flags:
            words += [f"--{name.replace('_', '-')}", flags[name]]
    words += ["--link"] if flags.get("link") else []
    earlier = flags.get("corrections", [])
    names = {pathlib.PurePath(file).name for file in earlier}
    numbered = (f"corrections-{number}.csv" for number in itertools.count(2))
    # In the place of an earlier one, it would undo what that decided.
    new = next(name for name in itertools.chain(["corrections.csv"], numbered) if name not in names)
    for file in [*map(from_here, earlier), new]:
        words += ["--corrections", file]
    about = (
        f"The command sorts with the flags of the last sorting, and with its corrections before "
        f"the new ones. Run it in {printable(pathlib.Path.cwd())}, and put {new} there. Then train "
        f"again, with --restart."
        if flags
        else "How these photos were sorted is not known. If img2keras.py did not sort them, there "
        "is nothing to sort again: move them by hand, as the downloaded file says."
    )
    command = f"python img2keras.py {shlex.join(printable(str(word)) for word in words)}"
    return {"file": new, "command": html.escape(command), "about": html.escape(about)}


def sorted_into(photos: Photos) -> pathlib.Path | None:
    """The folder that holds the sides of some photos; None: they are in neither."""
    path = pathlib.Path(os.path.abspath(photos.paths[0]))
    return path.parents[2] if path.parts[-3] in SIDES else None


def from_here(path: str | pathlib.Path) -> str:
    """A path as one types it here: relative if it lies below this folder, else absolute."""
    whole, here = pathlib.Path(os.path.abspath(path)), pathlib.Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def describe_suspect(suspect: Suspect, photos: Photos, is_sorted: bool) -> dict[str, Any]:
    """What the page needs of a suspect; `is_sorted`: as `img2keras.py` does, all names differ."""
    name = pathlib.Path(photos.paths[suspect.index]).name
    typeid = photos.typeids[photos.labels[suspect.index]]
    if not (is_sorted or name.partition("_")[0] in photos.typeids):
        name = f"{typeid}/{name}"  # class folders often number their photos alike
    return {
        **describe_photo(suspect.index, photos, LARGE),
        "image_name": text_or_none(name),
        "suggested": suspect.suggested,
        "own_probability": round(suspect.own_probability, 4),
        "probability": round(suspect.probability, 4),
        "near_suggested": suspect.near_suggested,
        "near_own": suspect.near_own,
        "duplicates": suspect.duplicates,
    }


def describe_photo(index: int, photos: Photos, side: int = SMALL) -> dict[str, Any]:
    """Label, name as it is shown, and picture ("": it cannot be read any more) of a photo."""
    path = photos.paths[index]
    try:
        # Never `photos.open`: another photo in its place would be judged instead.
        picture = embeddable(open_photo(path, side, fit=None))
    except UserError:
        picture = ""
    return {
        "label": int(photos.labels[index]),
        "name": printable(pathlib.Path(path).name),
        "picture": picture,
    }


def describe_group(group: Sequence[int], labels: np.ndarray) -> dict[str, Any]:
    """Size, number of classes, and some photos of a group of near-duplicates."""
    of_group = labels[list(group)].tolist()
    # The few that are shown show all classes.
    shown = one_of_each_first(of_group)[:MOST_OF_GROUP]
    members = [int(group[place]) for place in shown]
    return {"size": len(of_group), "classes": len(set(of_group)), "members": members}


def text_or_none(name: str) -> str | None:
    """A file name for corrections.csv, or None: a browser can write UTF-8 only."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return name


def key_of(described: Sequence[dict[str, Any]]) -> str:
    """What decisions are stored under: that of other suspects, or in another order, differs."""
    asked = [[photo["name"], photo["label"], photo["suggested"]] for photo in described]
    return hashlib.sha256(script_json(asked).encode()).hexdigest()[:32]


def in_words(suspects: Sequence[Suspect], photos: Photos) -> str:
    """What is listed, and what is not, as sentences."""
    text = (
        f"{len(suspects)} of {len(photos)} photos look like another class, or have a "
        f"near-duplicate under another label. Each was judged by a model that has not seen it."
    )
    if len(suspects) > MOST_SUSPECTS:
        text += (
            f" The first {MOST_SUSPECTS} of {len(suspects)} are here; all are in suspects.csv. "
            f"Once these are corrected, the next come up."
        )
    return text


def groups_in_words(groups: Sequence[dict[str, Any]]) -> str:
    """How many groups of near-duplicates there are, as sentences."""
    if not groups:
        return "None among these photos."
    num_mixed = sum(group["classes"] > 1 for group in groups)
    text = (
        f"Groups of photos that are nearly or exactly the same: {len(groups)}, of which "
        f"{num_mixed} are under several classes; these come first."
    )
    if len(groups) > MOST_GROUPS:
        text += f" The first {MOST_GROUPS} are here."
    return text
