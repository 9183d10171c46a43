"""Checks of the exercises: the reader and the published solution call the same ones."""
