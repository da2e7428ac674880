"""Every instruction of the catalogue keeps the contract that plugin authors inherit."""

import pytest

from fulldeck.catalogue import built_in
from fulldeck.testing import InstructionContract


class TestEveryInstruction(InstructionContract):
    @pytest.fixture(autouse=True, params=built_in(), ids=lambda entry: entry.name)
    def _one(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TestEveryInstruction, "instruction", request.param.load(), raising=False)
