"""How every picture looks."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#222222"
GREY = "#9aa0a6"
ORANGE = "#e8710a"  # what the paper compares with
BLUE = "#1a73e8"  # Libra R-CNN
BLUES = ("#aecbfa", "#669df6", "#1a73e8", "#174ea6")

RC = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "font.size": 9.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


styled = mpl.rc_context(RC)  # as a decorator: matplotlib reads these settings whenever something is added


def new_figure(num_panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure without a window and its axes, side by side; sizes are inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


@styled
def save(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Writes a PNG, and creates its folder if there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor="white")
