"""One look for every figure: colour-blind safe, readable on a light and on a dark page."""

from __future__ import annotations

# Okabe and Ito (2008): told apart with every common colour vision
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#222222",
    "gray": "#777777",
}


def use_style() -> None:
    """Set matplotlib's defaults for the book: a white card, 7 inches wide at most, thin grid."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",  # opaque: the same on a dark page
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.prop_cycle": cycler(
                color=[COLORS[c] for c in ("blue", "orange", "green", "pink", "sky", "amber", "black")]
            ),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    )
