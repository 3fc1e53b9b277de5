"""One small picture for each column of the drift report: shares before and now, side by side, light enough to mail."""

import io
import warnings

import numpy as np
from PIL import Image

from monitoring.drift import Bin, Found, in_words
from monitoring.letter import Plot, one_line

COLOURS = 32  # of a picture: two are meant, the others soften edges; it is a third as many bytes
BARS = 10  # of the bins that changed most
BEFORE, NOW, QUIET = "#9aa5b1", "#d1495b", "#2e6f95"
WIDTH = 4.8  # inches: so wide, its words can be read on a phone


def plots(found: tuple[Found, ...]) -> tuple[Plot, ...]:
    """A PNG of each column that has data in both windows, those that moved first."""
    shown = sorted((column for column in found if not column.why), key=lambda column: not column.moved)
    return tuple(Plot(f"{column.name}.png", _png(column), in_words(column)) for column in shown)


def _png(column: Found) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = _shown(column.bins)
    figure = Figure(figsize=(WIDTH, 1 + 0.3 * len(bins)), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bins))
    axes.barh([p - 0.2 for p in places], [100 * b.before for b in bins], 0.36, color=BEFORE, label="reference")
    colour = NOW if column.moved else QUIET
    axes.barh([p + 0.2 for p in places], [100 * b.after for b in bins], 0.36, color=colour, label="now")
    axes.set_yticks(list(places), [_plain(b.name) for b in bins])
    axes.invert_yaxis()
    axes.set_xlabel(f"% of {column.what}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    out = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold letters that the font has not
        canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(COLOURS).save(out, "PNG", optimize=True)
    return out.getvalue()


def _shown(bins: tuple[Bin, ...]) -> list[Bin]:
    """The bins that changed most, in their order."""
    most = sorted(range(len(bins)), key=lambda n: -abs(bins[n].after - bins[n].before))[:BARS]
    return [bins[n] for n in sorted(most)]


def _plain(name: str) -> str:
    """A genre is called as its catalogue calls it: not a formula, and not longer than the picture."""
    return one_line(name).replace("$", r"\$")[:24]
