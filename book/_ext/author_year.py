"""The bibliography's labels are those of the text, "Hinton et al., 2015", in the order of authors and years."""

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle


class Labels(BaseLabelStyle):
    """Last names and year; letters tell apart what would be equal."""

    def format_labels(self, sorted_entries):
        seen = {}
        for entry in sorted_entries:
            label = self.label(entry)
            seen[label] = seen.get(label, 0) + 1
            yield label if seen[label] == 1 else f"{label}{chr(ord('a') + seen[label] - 1)}"

    def label(self, entry):
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        # rich names: TeX's accents and braces are read, not printed
        names = [" ".join(map(str, [*p.rich_prelast_names, *p.rich_last_names])) for p in people]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names) or entry.key
        return f"{who}, {entry.fields.get('year', 'n.d.')}"


class Style(Unsorted):
    default_label_style = Labels
    default_sorting_style = SortingStyle


def setup(app):
    register_plugin("pybtex.style.formatting", "course", Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
