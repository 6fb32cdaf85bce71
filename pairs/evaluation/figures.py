"""The pictures of an evaluation: confusion matrix, reliability, heat maps, thumbnails."""

import base64
import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from pairs.evaluation import metrics

# With more classes their names could not be read, and take half a minute to draw.
MOST_NAMED = 200


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A Matplotlib figure and its axes, without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def draw_confusions(confusions: np.ndarray, typeids: list[str], path: pathlib.Path) -> None:
    """Draws the confusion matrix, rows scaled to shares, to a PNG."""
    num_classes = len(confusions)
    side = min(24, max(5, 2 + 0.28 * num_classes))
    figure, axes = new_figure(side + 1, side)
    shares = confusions / np.maximum(confusions.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if num_classes <= 40:
        for row, column in zip(*np.nonzero(confusions), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(confusions[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    size = 8 if num_classes <= 60 else 4
    # parse_math: a typeid may be `$5$`, which is no formula.
    names = {"labels": in_its_font(typeids), "fontsize": size, "parse_math": False}
    if num_classes <= MOST_NAMED:
        axes.set_xticks(range(num_classes), rotation=90, **names)
        axes.set_yticks(range(num_classes), **names)
    axes.set_xlabel("guessed typeid")
    axes.set_ylabel("true typeid")
    axes.set_title("photos, coloured by share of the true class")
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=110, format="png")


def in_its_font(typeids: list[str]) -> list[str]:
    """Typeids, or, where Matplotlib's own font lacks their script, their place among all."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return [
        typeid if all(font.get_char_index(ord(sign)) for sign in typeid) else f"(no. {label + 1})"
        for label, typeid in enumerate(typeids)
    ]


def draw_reliability(curves: dict[str, np.ndarray], labels: np.ndarray, path: pathlib.Path) -> None:
    """Draws accuracy against confidence to a PNG.

    Args:
        curves: class probabilities of the photos by the name of their curve.
        labels: of the photos.
        path: of the PNG.
    """
    figure, axes = new_figure(5.5, 5)
    axes.plot([0, 1], [0, 1], ":", color="grey", label="perfect")
    for label, probabilities in curves.items():
        count, confidence, accuracy = metrics.bin_by_confidence(probabilities, labels)
        filled = count > 0
        error = metrics.calibration_error(probabilities, labels)
        (line,) = axes.plot(
            confidence[filled], accuracy[filled], "-", label=f"{label}: error {error:.3f}"
        )
        # The larger the dot, the more photos.
        sizes = 200 * count[filled] / count.sum()
        axes.scatter(confidence[filled], accuracy[filled], s=12 + sizes, color=line.get_color())
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the first guess")
    axes.set_ylabel("share that is right")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")


def thumbnail(image: Image.Image, side: int) -> str:
    """A square picture of a few hundred bytes: WebP as base64."""
    return embeddable(image.resize((side, side), Image.Resampling.LANCZOS))


def embeddable(image: Image.Image) -> str:
    """A picture for a page: WebP as base64."""
    out = io.BytesIO()
    image.save(out, "WEBP", quality=55, method=4)
    return base64.b64encode(out.getvalue()).decode()


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Lays a heat map over a photo: grey where nothing was seen, warm where much was.

    Args:
        image: RGB.
        heat: float array in [0, 1], any shape `(rows, columns)`.
    """
    from matplotlib import colormaps

    small = Image.fromarray((255 * heat).astype(np.uint8))
    large = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC)) / 255
    colours = colormaps["inferno"](large)[..., :3] * 255
    grey = np.asarray(image.convert("L").convert("RGB"), float)
    weight = 0.65 * large[..., None]
    return Image.fromarray((grey * (1 - weight) + colours * weight).astype(np.uint8))
