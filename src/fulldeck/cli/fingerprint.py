"""`fulldeck fingerprint new FILE` and `fulldeck fingerprint verify URL|PACKAGE --key FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fulldeck.cli.output import Json, write_json, write_table, write_text
from fulldeck.errors import BadInput
from fulldeck.ownership import THRESHOLD

EXAMPLE = "fulldeck fingerprint verify runs/latest --key owner.key"


def command(
    action: Annotated[
        Literal["new", "verify"],
        typer.Argument(help="new: make an owner's key. verify: look for its mark in a model."),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|RUN|PACKAGE|URL",
            help="The key's file for new; for verify a run or package folder, or a server's address.",
        ),
    ],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The owner's key, for verify.")] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="FULLDECK_TOKEN", show_envvar=True, help="The token that the server asks for."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Sizes of the input without the batch, such as 3,32,32, where the model leaves them open.",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The mark counts as found at p-values up to this one.")
    ] = THRESHOLD,
    json: Json = False,
) -> None:
    """Make an owner's key, or tell whether a model carries its mark (model_fingerprinting puts it there).

    The p-value is how probable so many right answers are of a model that was made without the key. A package is
    asked, and its weights are read; a server is only asked. Exit code 1: there is no sign of the mark.
    """
    if action == "new":
        if key is not None:
            raise BadInput("new makes a key; write: fulldeck fingerprint new FILE")
        result = _made(Path(target))
    else:
        if key is None:
            raise BadInput("say whose mark to look for: --key FILE")
        result = _looked(target, key, token, _sizes(shape), threshold)
    if json:
        write_json(result)
    elif action == "new":
        write_text(f"{target} is the owner's key: keep it secret, and keep a copy; it cannot be made again")
        write_text(f"its commitment, which may be published: {result['commitment']}")
    else:
        _write(result)
    if not result.get("found", True):
        raise typer.Exit(1)


def _made(path: Path) -> dict[str, Any]:
    from fulldeck.ownership.key import Key

    made = Key.new()
    made.write(path)
    return {"key": str(path), "commitment": made.commitment}


def _looked(
    target: str, file: Path, token: str | None, shape: tuple[int, ...] | None, threshold: float
) -> dict[str, Any]:
    from fulldeck.cli.target import package_folder
    from fulldeck.ownership.claim import of_answers, of_weights, together
    from fulldeck.ownership.key import Key
    from fulldeck.ownership.suspect import OfPackage, OfServer

    key = Key.read(file)
    suspect = (
        OfServer(target, token=token, shape=shape)
        if "://" in target
        else OfPackage(package_folder(Path(target)), shape)
    )
    answers = of_answers(key, suspect.form, suspect.ask)
    weights = of_weights(key, suspect.weights()) if isinstance(suspect, OfPackage) else None
    p_value = together(answers, weights)
    return {
        "target": target,
        "found": p_value <= threshold,
        "p_value": p_value,
        "threshold": threshold,
        "commitment": key.commitment,
        "triggers": {
            "matches": answers.matches,
            "count": answers.count,
            "expected": answers.count / suspect.form.classes,
            "p_value": answers.p_value,
            "queries": suspect.queries,
        },
        "weights": weights
        and {
            "matches": weights.matches,
            "count": weights.count,
            "expected": weights.count / 2,
            "p_value": weights.p_value,
            "layer": weights.place,
            "layers_tried": weights.tries,
        },
    }


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = ()
    if min(sizes, default=0) < 1:
        raise BadInput(f'--shape takes sizes such as 3,32,32, got "{text}"')
    return sizes


def _write(result: dict[str, Any]) -> None:
    rows = []
    for name, label in (("triggers", "answers to triggers"), ("weights", "bits in weights")):
        if (one := result[name]) is not None:
            found = f"{one['matches']} of {one['count']}"
            rows.append((label, found, f"{one['expected']:.0f}", f"{one['p_value']:.2g}"))
    write_table(("looked at", "as the key has them", "by chance", "p-value"), rows)
    if result["weights"] is not None:
        write_text(
            f"weights of {result['weights']['layer']}, the best of {result['weights']['layers_tried']} tried"
        )
    verdict = (
        "the mark of this key is in this model"
        if result["found"]
        else "no sign of this key's mark: it is another key, or another model"
    )
    write_text(f"{verdict} (p {result['p_value']:.2g}, threshold {result['threshold']:g})")
