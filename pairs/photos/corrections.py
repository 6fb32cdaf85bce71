"""What people decided about suspicious labels: corrections of the sorting.

A file has the columns `image`, `decision` and `typeid`. The image is the name of
a photo, sorted or raw; the decision is `keep`, `relabel` or `remove`. `img2keras.py` sorts
accordingly, and changes nothing in the folder of raw photos.

    image,decision,typeid
    46_2043.jpg,relabel,83
    46_1136.jpg,remove,

People open such files with a spreadsheet, so what that makes of them is read, too.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable

from pairs.errors import UserError
from pairs.files import unguard_cell
from pairs.photos.find import TRAIN, VALID, typeid_order
from pairs.photos.raw import contest_name, typeid_of
from pairs.photos.read import printable
from pairs.photos.split import under_two_typeids
from pairs.tables import DELIMITERS, read_text, split_rows

COLUMNS = "image", "decision", "typeid"
DECISIONS = KEEP, RELABEL, REMOVE = "keep", "relabel", "remove"
# The typeid of each image; None: the photo is left out.
Corrections = dict[str, str | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a file: its number, and the cells as they are."""

    line: int
    image: str
    decision: str
    typeid: str

    @property
    def choice(self) -> str:
        """The decision, however it is spelled."""
        return self.decision.strip().lower()


def read_corrections(
    paths: Iterable[str | pathlib.Path], names: Collection[str], typeids: Collection[str]
) -> Corrections:
    """Reads some files of corrections; later ones win.

    Args:
        paths: of the files.
        names: everything in the folder of raw photos.
        typeids: its classes.

    Returns:
        the typeid of each image, or None to leave it out. To keep a photo is to give
        it the typeid of the line (it may have been relabelled when it was judged), or
        that of its name.

    Raises:
        UserError: no such file, or one that is damaged, contradicts itself, or is of
            other photos.
    """
    known = {spelled: name for name in names for spelled in (contest_name(name), name)}
    corrections: Corrections = {}
    for path in paths:
        rows = read_rows(path)
        images = [known.get(find_known(row.image, known), "") for row in rows]
        gone = [row for row, image in zip(rows, images, strict=True) if not image]
        if gone and not (any(images) and all(row.choice == REMOVE for row in gone)):
            raise UserError(
                f"{begin(path)}: {len(gone)} of its {len(rows)} images are not in --raw, e.g. "
                f"{gone[0].image[:100]!r}. Are these corrections of other photos?"
            )
        if gone:
            print(f"note: {begin(path)}: {len(gone)} photos to remove are not in --raw")
        decided: Corrections = {}
        for row, image in zip(rows, images, strict=True):
            if not image:
                continue
            typeid = decide(row, image, typeids, f"{begin(path)}, line {row.line}")
            if decided.setdefault(image, typeid) != typeid:
                raise UserError(
                    f"{begin(path)}, line {row.line}: another decision about {image!r} is in the "
                    f"same file. Remove one of the lines"
                )
        corrections.update(decided)
    return corrections


@dataclasses.dataclass(frozen=True)
class Corrected:
    """The places of photos after corrections.

    Attributes:
        places: of each file name, below the folder that is sorted into.
        relabelled: `(file name, typeid before, typeid now)`.
        left_out: file names.
    """

    places: dict[str, pathlib.Path]
    relabelled: list[tuple[str, str, str]]
    left_out: list[str]


def correct(
    places: dict[str, pathlib.Path],
    corrections: Corrections,
    groups: dict[str, str],
    classes: Collection[str],
) -> Corrected:
    """Moves photos between the classes of their side, or leaves them out.

    Near-duplicates that are of two classes now are for training, as they are without corrections.

    Args:
        places: of `split.plan_places`: they say which side every photo is on.
        corrections: of `read_corrections`. Those of photos without a place, which could
            not be read, do nothing.
        groups: of `split.group_photos`.
        classes: those that are sorted. A photo of another one has a place only if a
            correction gives it one of these.

    Raises:
        UserError: a class is not sorted, or is left without a training photo.
    """
    corrected = Corrected({}, [], [])
    for name, place in places.items():
        side, before, _ = place.parts
        typeid = corrections.get(name, before)
        if typeid is None:
            corrected.left_out.append(name)
            continue
        if typeid not in classes:
            raise UserError(
                f"--corrections: {name!r} is given the typeid {typeid!r}, but that class is "
                f"skipped: it has fewer than two different readable photos in --raw. Add some"
            )
        if typeid != before:
            corrected.relabelled.append((name, before, typeid))
        corrected.places[name] = pathlib.Path(side, typeid, place.name)
    now = {name: place.parts[1] for name, place in corrected.places.items()}
    in_two = under_two_typeids(now, groups)
    for name, place in corrected.places.items():
        if groups[name] in in_two:
            corrected.places[name] = pathlib.Path(TRAIN, *place.parts[1:])
    left = {place.parts[:2] for place in corrected.places.values()}
    for typeid in sorted(classes, key=typeid_order):
        if (TRAIN, typeid) not in left:
            raise UserError(
                f"--corrections: class {typeid!r} is left without a training photo. Add photos of "
                f"it, or remove all its photos from --raw"
            )
    if VALID not in {side for side, _ in left}:
        raise UserError("--corrections: no photo is left for validation. Add photos to --raw")
    return corrected


def begin(path: str | pathlib.Path) -> str:
    """The beginning of an error about a file."""
    return f"--corrections {printable(path)}"


def find_known(cell: str, known: Collection[str]) -> str:
    """What a cell means among some names, or "".

    A name may have an apostrophe or a space of its own at its beginning, so each is
    looked for with and without.
    """
    candidates = (unguard_cell(cell), cell, unguard_cell(cell.strip()), cell.strip())
    return next((name for name in candidates if name in known), "")


def without_zeros(cell: str, typeids: Collection[str]) -> str:
    """The typeid whose leading zeros a spreadsheet has dropped, or "": 0002 comes back as 2."""
    same = [typeid for typeid in typeids if typeid.isascii() and typeid.isdigit()]
    same = [typeid for typeid in same if (typeid.lstrip("0") or "0") == cell.strip()]
    return same[0] if len(same) == 1 else ""


def decide(row: Row, image: str, typeids: Collection[str], place: str) -> str | None:
    """The typeid that a row gives to an image; None leaves it out.

    Args:
        row: of `read_rows`.
        image: its photo.
        typeids: those that there are.
        place: the beginning of an error.

    Raises:
        UserError: an unknown decision or typeid.
    """
    decision, own = row.choice, typeid_of(image)
    if decision not in DECISIONS:
        raise UserError(
            f"{place}: the decision about {image!r} is {row.decision[:100]!r}; it must be "
            f"{', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}"
        )
    if decision == REMOVE:
        return None
    if not row.typeid.strip():
        if decision == KEEP:
            return own
        raise UserError(f"{place}: {image!r} is to be relabelled, but the typeid is missing")
    typeid = (
        find_known(row.typeid, typeids)
        or find_known(row.typeid, [own])
        or without_zeros(row.typeid, typeids)
    )
    if not typeid:
        raise UserError(
            f"{place}: {image!r} is given the typeid {row.typeid[:100]!r}, but --raw has no such "
            f"class"
        )
    return typeid


def read_rows(path: str | pathlib.Path) -> list[Row]:
    """The lines of a file below its header.

    Raises:
        UserError: no such file, it is no table of text, or it lacks a column.
    """
    text = read_text(path, begin(path))
    header = next((line for line in text.splitlines() if line.strip()), "")
    columns: list[str] = []
    for delimiter in DELIMITERS:
        columns = [cell.strip().strip('"').strip().lower() for cell in header.split(delimiter)]
        if set(columns) >= set(COLUMNS):
            break
    else:
        raise UserError(
            f"{begin(path)}: a first line {','.join(COLUMNS)} is expected, "
            f"{repr(header[:100]) if header else 'nothing'} is there"
        )
    rows = []
    for line, row in split_rows(text, delimiter, begin(path))[1:]:
        if any(cell.strip() for cell in row[len(columns) :]):
            raise UserError(
                f"{begin(path)}, line {line}: {len(row)} cells, the first line has {len(columns)}; "
                f"a name that holds {delimiter!r} must stand in quotes"
            )
        row += [""] * (len(columns) - len(row))
        rows.append(Row(line, *(row[columns.index(column)] for column in COLUMNS)))
    return rows
