"""Draws photos of made-up dog breeds: a small fine-grained data set for the demo.

Twelve breeds come in groups that share a coat colour or a build and differ in
markings, ears, tail or legs. Pose, light and background vary from photo to
photo and say nothing about the breed. The files carry the contest's names.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pairs.files import replacing

Colour = tuple[int, int, int]
CANVAS = 256  # pixels drawn; halved in the end, which smooths the edges
PHOTO = 128  # pixels saved


@dataclasses.dataclass(frozen=True)
class Breed:
    """What all dogs of a breed share; lengths in units of the body's height.

    Attributes:
        coat, second: RGB colours of the coat and of its markings.
        marking: "none", "saddle", "spots", "stripes" or "belly".
        length, legs, snout: of body, legs and muzzle.
        ears: "pointed", "hanging" or "round".
        tail: "curled", "up" or "down".
        shaggy: long hair breaks the outline.
    """

    coat: Colour
    second: Colour
    marking: str
    length: float
    legs: float
    snout: float
    ears: str
    tail: str
    shaggy: bool


BLACK, WHITE, RUST = (42, 38, 40), (232, 226, 214), (166, 84, 38)
SAND, GREY, BROWN = (214, 172, 112), (128, 130, 138), (96, 58, 34)
WALLS = ((150, 170, 190), (176, 172, 160), (140, 160, 140), (170, 156, 150))
GROUNDS = ((112, 140, 84), (160, 148, 118), (132, 126, 120))
# Typeids have gaps and sort differently as text and as numbers, as the contest's.
BREEDS = {
    "0": Breed(SAND, BLACK, "none", 1.7, 0.9, 0.55, "hanging", "up", False),
    "2": Breed(SAND, BLACK, "saddle", 1.9, 1.0, 0.75, "pointed", "down", False),
    "9": Breed(SAND, WHITE, "belly", 1.6, 0.8, 0.60, "pointed", "curled", True),
    "10": Breed(WHITE, BLACK, "spots", 1.8, 1.1, 0.60, "hanging", "up", False),
    "14": Breed(WHITE, RUST, "spots", 2.1, 0.45, 0.70, "hanging", "up", False),
    "20": Breed(WHITE, GREY, "none", 1.5, 0.6, 0.35, "round", "curled", True),
    "33": Breed(BLACK, WHITE, "belly", 1.7, 0.9, 0.60, "hanging", "down", True),
    "57": Breed(BLACK, RUST, "belly", 2.2, 0.4, 0.80, "hanging", "down", False),
    "64": Breed(GREY, WHITE, "belly", 1.8, 0.95, 0.60, "pointed", "curled", True),
    "88": Breed(GREY, BLACK, "stripes", 1.6, 1.2, 0.70, "round", "down", False),
    "101": Breed(RUST, BROWN, "stripes", 1.7, 0.8, 0.35, "round", "up", False),
    "133": Breed(RUST, WHITE, "saddle", 1.8, 0.9, 0.60, "hanging", "down", True),
}


def draw_breeds(
    folder: str | pathlib.Path, photos_per_breed: int, seed: int, labelled: bool = True
) -> dict[str, str]:
    """Draws a data set.

    Args:
        folder: made if absent.
        photos_per_breed: how many.
        seed: the same seed draws the same photos.
        labelled: names `typeid_hash.jpg`; otherwise `hash.jpg`.

    Returns:
        the typeid of each image id (the file name without ending).
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = {}
    for number, (typeid, breed) in enumerate(BREEDS.items()):
        for photo in range(photos_per_breed):
            rng = np.random.default_rng([seed, number, photo])
            # Two numbers with a comma, as the contest's image ids.
            image_id = ",".join(str(part) for part in rng.integers(10**8, 2**32, size=2))
            name = f"{typeid}_{image_id}" if labelled else image_id
            with replacing(folder / f"{name}.jpg") as temporary:
                draw_photo(breed, rng).save(temporary, quality=90)
            answers[name] = typeid
    return answers


def draw_photo(breed: Breed, rng: np.random.Generator) -> Image.Image:
    """Draws one dog: `PIL.Image.Image`, RGB, `PHOTO` pixels square."""
    background = draw_background(rng)
    shape, marks, face = draw_dog(breed, rng)
    coat = fur(breed.coat, rng)
    coat.paste(fur(breed.second, rng), mask=marks)
    coat.paste((24, 20, 22), mask=face)
    turn: dict[str, Any] = {"resample": Image.Resampling.BICUBIC, "angle": rng.uniform(-12, 12)}
    turn["translate"] = tuple(rng.uniform(-0.07, 0.07, size=2) * CANVAS)
    coat, shape = coat.rotate(**turn), shape.rotate(**turn)
    background.paste(coat, mask=shape)
    if rng.random() < 0.5:
        background = background.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    small = background.resize((PHOTO, PHOTO), Image.Resampling.BOX)
    return light(small, rng)


def draw_background(rng: np.random.Generator) -> Image.Image:
    """Wall or sky over grass, sand or floor, with blurred things in it."""
    wall = np.array(WALLS[rng.integers(len(WALLS))]) + rng.normal(0, 8, size=3)
    ground = np.array(GROUNDS[rng.integers(len(GROUNDS))]) + rng.normal(0, 8, size=3)
    image = Image.new("RGB", (CANVAS, CANVAS), colour_of(wall))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.45, 0.8) * CANVAS
    draw.rectangle((0, horizon, CANVAS, CANVAS), fill=colour_of(ground))
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(0, CANVAS, size=2)
        width, height = rng.uniform(0.04, 0.18, size=2) * CANVAS
        near = wall if y < horizon else ground
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        box = (x - width, y - height, x + width, y + height)
        shape(box, fill=colour_of(near + rng.normal(0, 22, size=3)))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.03) * CANVAS))


def colour_of(values: Any) -> tuple[int, ...]:
    """Three numbers as Pillow's RGB."""
    return tuple(np.clip(values, 0, 255).astype(int).tolist())


def fur(colour: Colour, rng: np.random.Generator) -> Image.Image:
    """A canvas of one coat colour, a little different in every dog, with grain."""
    tone = np.array(colour) * rng.uniform(0.94, 1.06) + rng.normal(0, 4, size=3)
    grain = rng.normal(0, 9, size=(CANVAS // 3, CANVAS // 3, 1))
    pixels = np.clip(tone + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)


def light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brighter to one side, warmer or colder, with a little sensor noise."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.2)
    axis = np.linspace(-1, 1, PHOTO)
    slope = axis[:, None] * math.sin(angle) + axis[None, :] * math.cos(angle)
    gain = rng.uniform(0.88, 1.1) * (1 + strength * slope)[..., None]
    tint = 1 + rng.normal(0, 0.02, size=3)
    pixels = np.asarray(image) * gain * tint + rng.normal(0, 3, size=(PHOTO, PHOTO, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_dog(breed: Breed, rng: np.random.Generator) -> list[Image.Image]:
    """Draws one dog from the side, facing left.

    Returns:
        three `L` images: the outline, where the second colour goes, and the
        eye and nose.
    """
    layers = [Image.new("L", (CANVAS, CANVAS), 0) for _ in range(3)]
    outline, marks, face = (ImageDraw.Draw(layer) for layer in layers)
    unit = rng.uniform(0.24, 0.29) * CANVAS  # pixels: the body's height
    length, legs = breed.length * unit, breed.legs * unit
    top = CANVAS / 2 - (unit + legs) / 2 + 0.2 * unit
    left, right = CANVAS / 2 - length / 2 + 0.2 * unit, CANVAS / 2 + length / 2 + 0.2 * unit
    bottom = top + unit
    body = (left, top, right, bottom)

    outline.ellipse(body, fill=255)
    for place in (0.16, 0.30, 0.74, 0.88):
        foot = left + place * length + rng.uniform(-0.14, 0.14) * unit
        hip = left + place * length
        outline.line((hip, top + 0.6 * unit, foot, bottom + legs), fill=255, width=int(0.19 * unit))
    draw_tail(outline, breed, right, top, unit, rng)
    head = (left - 0.15 * unit, top - rng.uniform(0.15, 0.4) * unit)
    radius = 0.40 * unit
    outline.line((*head, left + 0.3 * unit, top + 0.4 * unit), fill=255, width=int(0.5 * unit))
    outline.ellipse(circle(head, radius), fill=255)
    nose = (head[0] - radius - breed.snout * unit * 0.6, head[1] + 0.16 * unit)
    outline.line((*head, *nose), fill=255, width=int(0.32 * unit))
    outline.ellipse(circle(nose, 0.16 * unit), fill=255)

    draw_marking(marks, breed, body, unit, rng)
    draw_ear(outline, marks, breed, head, radius, unit)
    face.ellipse(circle((nose[0] - 0.1 * unit, nose[1] - 0.05 * unit), 0.08 * unit), fill=255)
    face.ellipse(circle((head[0] - 0.16 * unit, head[1] - 0.1 * unit), 0.05 * unit), fill=255)
    if breed.shaggy:
        layers[0] = hair(layers[0], unit, rng)
    return layers


def circle(centre: Any, radius: float) -> Any:
    """The box of a circle, as Pillow wants it."""
    x, y = centre
    return (x - radius, y - radius, x + radius, y + radius)


def draw_tail(
    outline: Any, breed: Breed, right: float, top: float, unit: float, rng: np.random.Generator
) -> None:
    """The tail, from the rump on."""
    root = (right - 0.12 * unit, top + 0.35 * unit)
    width = int(0.13 * unit)
    if breed.tail == "curled":
        centre = (root[0] + 0.05 * unit, root[1] - 0.45 * unit)
        outline.arc(circle(centre, 0.34 * unit), 150, 150 + 290, fill=255, width=width)
        return
    rise = rng.uniform(0.6, 0.9) if breed.tail == "up" else -rng.uniform(0.6, 0.9)
    outline.line((*root, root[0] + 0.45 * unit, root[1] - rise * unit), fill=255, width=width)


def draw_ear(outline: Any, marks: Any, breed: Breed, head: Any, radius: float, unit: float) -> None:
    """The ear; a hanging one has the second colour, so it can be seen."""
    x, y = head
    if breed.ears == "pointed":
        tip = (x + 0.12 * unit, y - radius - 0.42 * unit)
        outline.polygon((x - 0.2 * unit, y - 0.2 * unit, *tip, x + 0.36 * unit, y), fill=255)
    elif breed.ears == "round":
        outline.ellipse(circle((x + 0.18 * unit, y - radius), 0.2 * unit), fill=255)
    else:
        ear = (x + 0.02 * unit, y - 0.25 * unit, x + 0.36 * unit, y + 0.62 * unit)
        outline.ellipse(ear, fill=255)
        marks.ellipse(ear, fill=150)


def draw_marking(
    marks: Any, breed: Breed, body: Any, unit: float, rng: np.random.Generator
) -> None:
    """Where the second colour goes on the body."""
    left, top, right, bottom = body
    if breed.marking == "saddle":
        width = right - left
        marks.ellipse((left + 0.2 * width, top - 0.3 * unit, right, top + 0.6 * unit), fill=255)
    elif breed.marking == "belly":
        marks.rectangle((0, top + rng.uniform(0.6, 0.7) * unit, CANVAS, CANVAS), fill=255)
    elif breed.marking == "spots":
        for _ in range(26):
            place = (rng.uniform(left - 0.5 * unit, right), rng.uniform(top - 0.4 * unit, bottom))
            marks.ellipse(circle(place, rng.uniform(0.06, 0.15) * unit), fill=255)
    elif breed.marking == "stripes":
        step = 0.24 * unit
        for x in np.arange(left - unit, right, step) + rng.uniform(0, step):
            slant = rng.uniform(-0.1, 0.1) * unit
            marks.line((x, top - unit, x + slant, bottom), fill=255, width=int(0.08 * unit))


def hair(outline: Image.Image, unit: float, rng: np.random.Generator) -> Image.Image:
    """Long hair: short strokes outwards and down from points of the outline."""
    ys, xs = np.nonzero(np.asarray(outline.filter(ImageFilter.FIND_EDGES)))
    draw = ImageDraw.Draw(outline)
    for pick in rng.integers(0, len(xs), size=260):
        x, y = int(xs[pick]), int(ys[pick])
        dx, dy = rng.normal(0, 0.1) * unit, abs(rng.normal(0, 0.13)) * unit
        draw.line((x, y, x + dx, y + dy), fill=255, width=2)
    return outline
