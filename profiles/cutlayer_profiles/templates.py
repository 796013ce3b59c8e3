"""Pages from templates: whatever came over a network, such as device names, is escaped, and nothing is left out unnoticed."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

__all__ = ["render_page"]


def render_page(package: str, name: str, **content: Any) -> str:
    """The template ``name`` of a package's folder ``templates``, filled in. Raises `jinja2.UndefinedError` if something lacks."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**content)
