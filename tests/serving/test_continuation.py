"""A language model behind /predict: it writes on, drawn by seed, or fills masks in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.instructions.deployment.model_packaging import package_model
from fulldeck.networks.gpt import Gpt

from .servers import Server, running

LENGTH = 8


def letters(first: int = 97, last: int = 122) -> nn.Module:
    """A GPT that has learnt to go on with the alphabet, or with other bytes in succession."""
    torch.manual_seed(0)
    model = Gpt(256, LENGTH, width=32, layers=1, heads=2)
    ids = torch.arange(first, last + 1).repeat(52 // (last + 1 - first)).unfold(0, LENGTH + 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    encoder = TokenEncoder(LENGTH)
    folder = package_model(
        tmp_path_factory.mktemp("letters") / "package",
        [letters()],
        encoder,
        encoder.encode(np.full((2, LENGTH), 97)),
        name="letters",
        task="language_modelling",
    )
    with running(folder) as server:
        yield server


def test_goes_on_with_the_likeliest_beyond_its_length(server: Server) -> None:
    assert not server.imported_torch
    status, answer = server.ask("POST", "/predict", {"text": "abcdef", "tokens": 14})
    assert status == 200
    assert answer["text"] == "ghijklmnopqrst"
    assert answer["likeliest"][0][0]["token"] == "g"
    assert len(answer["likeliest"][0]) == 10


def test_a_plain_body_is_the_text(server: Server) -> None:
    status, answer = server.ask("POST", "/predict", b"hijk", content_type="text/plain")
    assert (status, answer["text"][:4]) == (200, "lmno")


def test_the_seed_decides_what_is_drawn(server: Server) -> None:
    def drawn(seed: int) -> Any:
        wish = {"text": "abc", "tokens": 20, "temperature": 4.0, "seed": seed}
        return server.ask("POST", "/predict", wish)[1]["text"]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tokens": 3}, "prompt.text is required"),
        ({"text": 3}, "prompt.text must be a text"),
        ({"text": "a", "tokens": 100_000}, "prompt.tokens must be between 1 and 512"),
        ({"text": "a", "token": 3}, "did you mean tokens?"),
        ({"text": "a", "temperature": -1}, "prompt.temperature must be"),
        (b"\xff\xfe", "not valid UTF-8"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(server: Server, body: Any, words: str) -> None:
    status, answer = server.ask("POST", "/predict", body)
    assert status == 400
    assert words in answer["error"]
    assert "\n" not in answer["error"]


def test_the_command_line_writes_on_too(server: Server, tmp_path: Path, capsys: Any) -> None:
    from fulldeck.cli import main

    folder = package_model(
        tmp_path / "package",
        [letters()],
        TokenEncoder(LENGTH),
        {"input": np.full((2, LENGTH), 97)},
        name="letters",
    )
    assert main(["predict", str(folder), "abcd"]) == 0
    assert capsys.readouterr().out.startswith('abcd\n... "efgh')
    assert main(["predict", str(folder), "abcd", "--tokens", "3", "--temperature", "0.1"]) == 0
    assert capsys.readouterr().out == 'abcd\n... "efg"\n'


def test_the_command_line_says_that_only_blanks_came_out(tmp_path: Path, capsys: Any) -> None:
    from fulldeck.cli import main

    encoder = TokenEncoder(LENGTH)
    inputs = {"input": np.full((2, LENGTH), 97)}
    folder = package_model(tmp_path / "package", [letters(32, 32)], encoder, inputs, name="blanks")
    assert main(["predict", str(folder), "    ", "--tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith('    \n... "   "\nOnly white space came out: train longer')
