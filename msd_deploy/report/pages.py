"""Pages of one look: every report's template extends page.html.j2, and asks nothing of any server.

A template is rendered with autoescape: whatever comes from a user's data is text, never markup.
"""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: object) -> str:
    """Return a report as one self-contained page.

    Args:
        package: Its `templates` folder holds the template.
        template: The template's name.
        values: What the template names; a name that is missing is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("msd_deploy.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
