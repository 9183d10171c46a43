"""The first code cell of every chapter; a test holds all copies equal to this text."""

SETUP_CELL = """\
try:
    import book_kit, refimpl
except ModuleNotFoundError:  # on Colab: install the course, keep Colab's own torch
    %pip install -q "refimpl[notebooks] @ git+https://github.com/OWNER/REPO"
"""
