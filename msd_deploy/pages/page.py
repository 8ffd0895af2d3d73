"""Rendering of HTML pages, and their tables and tiles as plain text values.

Templates are rendered with autoescape, so that users' data is never markup.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: object) -> str:
    """Render a report as one self-contained page.

    Args:
        package: Package with the template in its `templates` folder.
        template: Name of the template.
        values: Variables of the template; a missing one is an error.
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
    """A row of a table.

    Attributes:
        name: Name of the row, for example of a variant or method.
        model: teacher or student.
        cells: Cells in the order of the headings.
    """

    name: str
    model: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with grouped columns.

    Attributes:
        title: Title of the table.
        names: Heading of the first column, the rows' names.
        notes: Notes on rows, by name.
        groups: Headings of the cells, by group.
        lines: Rows.
    """

    title: str
    names: str
    notes: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number: the student's value as a share of the teacher's."""

    name: str
    share: str
    detail: str
