"""The book's own small helpers: numbers into prose, one style for figures, tables, checks of exercises."""

import warnings

from book_kit.numbers import glue
from book_kit.style import COLORS, use_style
from book_kit.tables import show_table

__all__ = ["COLORS", "glue", "show_table", "use_style"]

# tqdm, which transformers imports, misses widgets that no chapter shows
warnings.filterwarnings("ignore", message="IProgress not found")
