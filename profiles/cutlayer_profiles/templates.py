"""Pages from templates: what came over a network, such as device names, is escaped, and a missing value is an error."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

__all__ = ["render_page"]


def render_page(package: str, name: str, **content: Any) -> str:
    """Fill in the template ``name`` in a package's folder ``templates``.

    Raises `jinja2.UndefinedError` if a value is missing.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**content)
