"""Draws a batch of pairs, for people who would rather look than read."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Unicode's last place, which is never given away.
NO_SIGN = "\U0010ffff"


def draw_pairs(
    batch: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    typeids: list[str],
) -> Image.Image:
    """Draws the pairs of a batch, first image left, second right.

    Returns:
        green frames around pairs of one class, red around pairs of two, the
        typeids below.
    """
    inputs, labels = batch
    images = inputs["img_1"]
    side, gap, text = images.shape[1], 8, 22
    # Four beside each other; of very many more, since a JPEG has at most 65,500 rows.
    columns = max(4, math.ceil(math.sqrt(len(images) / 8)))
    font = ImageFont.load_default(size=14)
    rows = math.ceil(len(images) / columns)
    cell = (2 * side + 3 * gap, side + 2 * gap + text)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for position, partner in enumerate(inputs["partner"]):
        left, top = position % columns * cell[0], position // columns * cell[1]
        same = labels["bin_out"][position]
        colour = (40, 140, 60) if same else (200, 60, 50)
        box = (left + 2, top + 2, left + cell[0] - 3, top + cell[1] - 3)
        draw.rectangle(box, outline=colour, width=3)
        sheet.paste(Image.fromarray(images[position]), (left + gap, top + gap))
        sheet.paste(Image.fromarray(images[partner]), (left + side + 2 * gap, top + gap))
        first, second = (
            shown(labels[head][position], typeids, font, side // 2)
            for head in ("ctg_out_1", "ctg_out_2")
        )
        words = f"{first} | {second}: {'same' if same else 'different'}"
        draw.text((left + gap, top + side + gap + 2), words, fill=colour, font=font)
    return sheet


def shown(label: int, typeids: list[str], font: Any, width: int) -> str:
    """A typeid that fits into so many pixels; where the font lacks a letter, its place among all.

    Pillow brings a font, of ASCII letters; no other is on every machine.
    """
    typeid = typeids[label]
    if any(is_box(sign, font) for sign in typeid):
        typeid = f"(no. {label + 1})"
    for length in range(len(typeid), 0, -1):
        text = typeid if length == len(typeid) else f"{typeid[:length]}..."
        if font.getlength(text) <= width:
            return text
    return ""


def is_box(sign: str, font: Any) -> bool:
    """Whether a font draws a sign as it draws all that it lacks."""
    drawn, lacking = (font.getmask(each) for each in (sign, NO_SIGN))
    return bool(drawn.size == lacking.size and bytes(drawn) == bytes(lacking))
