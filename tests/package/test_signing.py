"""A package signed with one key, and what is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("model_signing", reason="the extra signing is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fulldeck.errors import BadInput
from fulldeck.package import Package, seal
from fulldeck.package.signing import SIGNATURE, sign, verify_signature
from fulldeck.serving import serve
from tests.serving.packages import sum_package
from tests.serving.servers import Server


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key."""
    made = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_only_what_was_signed_with_the_key_and_left_as_it_was_is_verified(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "own")
    _, other = keys(tmp_path, "other")
    package = sum_package(tmp_path / "package")
    with pytest.raises(BadInput, match="is not signed"):
        verify_signature(package, public)
    sign(package, private)
    verify_signature(package, public)
    assert Package.open(package).service.model == "sums"
    with pytest.raises(BadInput, match=r"is not signed with .*other\.pub"):
        verify_signature(package, other)
    (package / "encoder.json").write_text((package / "encoder.json").read_text() + " ")
    seal(package, {"name": "sums"})  # as one who may write, but has no key
    Package.open(package)
    with pytest.raises(BadInput, match=r"Signature mismatch"):
        verify_signature(package, public)


def test_what_is_signed_is_served_to_who_asks_for_the_signature(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "own")
    package = sum_package(tmp_path / "package")
    sign(package, private)
    command = [sys.executable, "-m", "fulldeck", "serve", str(package), "--public-key", str(public)]
    process = subprocess.Popen([*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        server = Server(process, int(url.rsplit(":", 1)[1]), False)
        assert server.infer("sums", [1, 2, 3])[1]["outputs"][0]["data"] == [6]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_server_with_a_public_key_serves_nothing_else(tmp_path: Path) -> None:
    _, public = keys(tmp_path, "own")
    package = sum_package(tmp_path / "package")
    with pytest.raises(BadInput, match="is not signed"):
        serve(package, port=0, public_key=public)
    with pytest.raises(BadInput, match="no such key"):
        sign(package, tmp_path / "missing.pem")
    (package / SIGNATURE).write_text("{}")
    with pytest.raises(BadInput, match="is not signed with"):
        serve(package, port=0, public_key=public)
