"""Sheets of images with words below each; small images are enlarged without smoothing."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmsm_cli.errors import visible
from lmsm_cli.reports.figures import MARK, write_picture

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

# Pixels of a cell's picture: it holds what it can of this, and words of some length fit below.
_SIDE = 144
_GAP, _FONT_SIZE, _LINE = 10, 12, 15
# Words stand closer to their own image than to the one below.
_BELOW_WORDS = 22
_MOST_COLUMNS = 10


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class, and with what probability."""

    image: "NDArray[uint8]"  # (H, W, C), C 1 (grey) or 3 (RGB)
    true_class: str
    predicted_class: str
    probability: float

    def lines(self) -> tuple[str, str]:
        """Return the two lines below the image."""
        return (
            f"true: {self.true_class}",
            f"{100 * self.probability:.1f}% for {self.predicted_class}",
        )


def draw_mistakes(mistakes: Sequence[Mistake], path: Path) -> None:
    """Draw the images in their order, row by row, to a PNG file. Raises DiskError.

    Each stands right above its true class and the probability of the class it was taken for.
    Without mistakes the sheet says so.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    font = _font()
    columns = min(_MOST_COLUMNS, max(2, math.ceil(math.sqrt(len(mistakes)))))
    width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + _BELOW_WORDS
    rows = max(1, math.ceil(len(mistakes) / columns))
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    canvas = ImageDraw.Draw(sheet)
    if not mistakes:
        canvas.text((_GAP, _GAP), "no image was classified wrongly", fill="black", font=font)
    for place, mistake in enumerate(mistakes):
        left, top = _GAP + place % columns * width, _GAP + place // columns * height
        image = _fitted(mistake.image)
        sheet.paste(image, (left, top + _SIDE - image.height))  # right above its words
        for number, text in enumerate(mistake.lines()):
            line = (left, top + _SIDE + 2 + number * _LINE)
            canvas.text(line, _shortened(text, font), fill="black", font=font)
    file, facts = io.BytesIO(), PngInfo()
    facts.add_text("Software", MARK)
    sheet.save(file, "PNG", pnginfo=facts)
    write_picture(path, file.getvalue())


def _fitted(pixels: "NDArray[uint8]") -> "Image":
    """Return an image as large as a cell has room for: whole multiples of a small one's pixels."""
    from PIL import Image

    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    times = _SIDE // max(image.size)
    if times:
        return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def _font() -> "FreeTypeFont":
    """Return matplotlib's font, which has more scripts than Pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    file = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), _FONT_SIZE)  # Pillow 10 takes no Path


def _shortened(text: str, font: "FreeTypeFont") -> str:
    """Return the text without as much of its end as a cell has no room for."""
    text = visible(text)
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength(text + "…") > _SIDE:
        text = text[:-1]
    return text + "…"
