"""Links of files outside the site; mkdocs checks those within (see test_site.py)."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest
import snippets

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", OUTSIDE)
def test_relative_links_lead_to_a_file(name: str) -> None:
    for target in LINK.findall((ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target.partition("#")[0]).exists(), f"{name}: {target}"


def test_links_to_other_hosts_are_well_formed() -> None:
    for name, text in snippets.pages().items():
        for target in LINK.findall(text):
            if "://" in target:
                url = urlparse(target)
                assert url.scheme == "https", f"{name}: {target}"
                assert "." in url.netloc, f"{name}: {target}"
