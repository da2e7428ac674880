"""Templates to one self-contained page: styles, scripts and the chart library are written into it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from fulldeck.figures import duration
from fulldeck.report.words import ratio, said, shown, si

HERE = Path(__file__).parent
STATIC = HERE / "static"
VERDICT_CLASSES = {"helps": "helps", "hurts": "hurts", "no difference": "same"}
"""Verdicts to their colours; others have that of what is not known."""


def render(template: str, **content: Any) -> str:
    """The page that `template` makes of `content`. All text is escaped; nothing is loaded from elsewhere."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "said": said,
        "shown_as": lambda value, name, decimals=2: shown(name, value, decimals),
        "duration": duration,
        "picture": _picture,
        "cell": _cell,
        "breakable": _breakable,
        "capitalised": lambda text: text[:1].upper() + text[1:],
        "rate": si,
        "verdict_class": lambda verdict: VERDICT_CLASSES.get(verdict, "open"),
    }
    environment.globals |= {"static": _static, "ratio": ratio}
    return environment


def _static(name: str) -> Markup:
    """A file of `static/` as it is: our own, so it is not escaped."""
    return Markup((STATIC / name).read_text(encoding="utf-8").strip())


def _picture(address: str) -> str:
    """`address` if it is a picture that stands in the page itself, else the empty string."""
    return address if re.match(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/=]+$", address) else ""


def _cell(value: Any) -> str:
    """A value of a table's row."""
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _breakable(name: str) -> Markup:
    """A name that may break after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))
