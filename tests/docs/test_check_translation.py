"""README.zh-CN.md says what README.md says, and the check notices when it does not."""

from __future__ import annotations

import check_translation
import pytest
from check_translation import ORIGINAL, TRANSLATION, differences


def test_the_translation_is_up_to_date() -> None:
    found = differences(ORIGINAL.read_text(), TRANSLATION.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("## The catalogue", "## The catalogue\n\n## Another", "headings: only in README.md"),
        ("epochs: 10}", "epochs: 11}", "code blocks: only in README.md"),
        ("| 08 | `lr_scheduler`", "| 09 | `lr_scheduler`", "tables: only in README.md"),
        ("](docs/architecture.md)", "](docs/concepts.md)", "links: only in README.md: docs/concepts.md"),
        ("one page.", "a page.", "then run: python docs/check_translation.py --accept"),
    ],
)
def test_a_change_of_the_original_is_noticed(old: str, new: str, said: str) -> None:
    original = ORIGINAL.read_text()
    assert old in original
    assert said in "\n".join(differences(original.replace(old, new, 1), TRANSLATION.read_text()))


def test_other_comments_are_no_difference() -> None:
    original, comment = ORIGINAL.read_text(), "# also plain lists"
    changed = original.replace("# or Datasets", comment)
    assert comment in changed
    assert check_translation.code(changed) == check_translation.code(original)
