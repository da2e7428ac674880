"""`fulldeck predict RUN|PACKAGE INPUT`: one answer from a package, without a server."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fulldeck.cli.output import Json, write_json, write_table, write_text
from fulldeck.cli.target import Target, package_folder
from fulldeck.errors import BadInput, closest

if TYPE_CHECKING:
    from fulldeck.encoders import Encoder

EXAMPLE = "fulldeck predict runs/latest photo.png"
SUFFIXES = (".txt", ".text", ".md", ".json", ".csv", ".tsv", ".html", ".log", ".parquet")
"""A word that ends so is meant as the name of a file of text."""
LONGEST_PATH = 1000
TOKENS = 100
SHOWN = 200
"""Last characters of a prompt that are shown before its continuation."""


def command(
    target: Target,
    item: Annotated[
        str, typer.Argument(metavar="INPUT", help="A file (image, text, JSON), a text, or a JSON row.")
    ],
    engine: Annotated[
        str,
        typer.Option(help="What computes: auto (as packaged), or an engine that the package has a form for."),
    ] = "auto",
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help=f"Most tokens that a language model writes; left out: {TOKENS}."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            min=0,
            max=10,
            help="0 takes a language model's likeliest token, 1 draws; left out: 0.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Answer one input with a packaged model, without a server.

    INPUT is an image file, a text or a file with it, or a row as JSON: {"age": 31, "city": null}. The answer
    is each class with its probability, a value, or a text.
    """
    from functools import partial

    from fulldeck.encoders.tokens import TokenEncoder
    from fulldeck.package import Package
    from fulldeck.serving.predict import describe, remarks, unwrap
    from fulldeck.text_generation import fill_in, generate

    package = Package.open(package_folder(target))
    package.model(engine)
    encoder = package.encoder()
    writes = isinstance(encoder, TokenEncoder) and encoder.mask is None
    if not writes and (tokens, temperature) != (None, None):
        raise BadInput(f"--tokens and --temperature are for language models, and {target} holds none")
    if isinstance(encoder, TokenEncoder):
        model, output = package.engine(engine), package.service.outputs[0].name
        write = (
            partial(generate, tokens=tokens or TOKENS, temperature=temperature or 0) if writes else fill_in
        )
        prompt = str(read_item(encoder, item))
        text = write(lambda inputs: model.run(inputs)[output], encoder, prompt)
        if json:
            write_json({"text": text})
        else:
            typer.echo(f'{prompt[-SHOWN:]}\n... "{text}"' if writes else text)
            if not text.strip():
                write_text("Only white space came out: train longer, or try --temperature 0.8.")
        return
    parsed = encoder.parse(unwrap(encoder, read_item(encoder, item)))
    outputs = package.engine(engine).run(encoder.encode(encoder.collect([parsed])))
    notes = remarks(encoder, [parsed])
    answer = describe(package.service, outputs[package.service.outputs[0].name], notes)[0]
    if json:
        write_json(answer)
    elif "probabilities" in answer:
        ranked = answer["probabilities"].items()
        write_table(("label", "probability"), [(name, f"{share:.4f}") for name, share in ranked])
    else:
        typer.echo(answer["value"])
    for note in notes[0] if not json else ():
        typer.echo(f"note: {note}", err=True)


def read_item(encoder: Encoder, item: str) -> bytes | str | dict[str, Any] | list[Any]:
    """What INPUT means for this kind of model. Raises BadInput for a missing file or wrong JSON."""
    path = Path(item)
    is_file = os.path.isfile(item)  # unlike Path.is_file, not an error for a text too long for a name
    if encoder.kind == "image" and path.suffix != ".json" and not item.lstrip().startswith("["):
        if not is_file:
            raise BadInput(f"{item} does not exist; INPUT is an image file")
        return path.read_bytes()
    text = path.read_text(encoding="utf-8", errors="replace") if is_file else item
    if encoder.kind in ("text", "tokens"):
        if is_file and path.suffix == ".json":
            return _text_in(text)
        if not is_file and looks_like_path(item):
            names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
            near = closest(path.name, names)
            raise BadInput(
                f"{item} looks like a file, and does not exist{near or '; a text may have spaces'}"
            )
        return text
    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        what = 'a JSON object of columns, such as {"age": 31}' if encoder.kind == "table" else "a JSON list"
        if not is_file and looks_like_path(item):
            raise BadInput(f"{item} does not exist; INPUT is {what}, or a file with it") from None
        raise BadInput(f"INPUT must be {what}, or a file with it: {error}") from None
    if not isinstance(value, (dict, list)):
        raise BadInput("INPUT must be a JSON object or list")
    return value


def _text_in(text: str) -> str:
    """The text of a file that holds `{"text": "..."}`, as it is sent to a server; else all of the file."""
    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError):
        return text
    found = value.get("text") if isinstance(value, dict) and len(value) == 1 else None
    return found if isinstance(found, str) else text


def looks_like_path(word: str) -> bool:
    """Whether a text of one word is meant as a file: by how it begins or ends, or by its folder."""
    if len(word.split()) != 1 or len(word) > LONGEST_PATH:
        return False
    path = Path(word)
    inside = "/" in word and path.parent.is_dir()
    return inside or word.startswith(("/", "./", "../", "~")) or path.suffix.lower() in SUFFIXES
