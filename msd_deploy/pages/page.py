"""HTML pages and the tables on them.

A template is rendered with autoescape: whatever comes from a user's data is text, never markup.

Tables and headline numbers as a page or a terminal shows them: words only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: object) -> str:
    """Return a report as one self-contained page.

    Args:
        package: Its `templates` folder holds the template.
        template: The template's name.
        values: What the template names; a name that is missing is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("msd_deploy.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


@dataclass(frozen=True, slots=True)
class Line:
    """A table's row.

    Attributes:
        name: What it is about, for example a form or a method.
        model: teacher or student.
        cells: In the order of the headings.
    """

    name: str
    model: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the names' own column is not among the headings.

    Attributes:
        title: What it shows.
        names: Heading of the names.
        notes: What to know of a row, by its name.
        groups: Headings of the cells, by what they have in common.
        lines: Its rows.
    """

    title: str
    names: str
    notes: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number: the student's share of the teacher's."""

    name: str
    share: str
    detail: str
