"""Signatures of packages: who sealed one, shown by a key pair. The work is model-signing's (the extra `signing`).

A signature covers every file of the package; it lies beside them as signature.json, a Sigstore bundle, which
`model_signing verify key` of the command line reads too. Keys are elliptic ones in PEM, as OpenSSL makes them.
Reference: https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from fulldeck.errors import BadInput, extra

SIGNATURE = "signature.json"


def sign(folder: Path, private_key: Path) -> Path:
    """Sign the package in `folder`; the signature's file. Raises BadInput if the key cannot be used."""
    library, target = _library(), folder / SIGNATURE
    target.unlink(missing_ok=True)
    try:
        library.signing.Config().use_elliptic_key_signer(private_key=_key(private_key)).sign(folder, target)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{private_key} cannot sign: {_line(error)}") from error
    return target


def verify_signature(folder: Path, public_key: Path) -> None:
    """Raises BadInput unless the package in `folder` is signed by who holds the private key, and unchanged since."""
    library, signature = _library(), folder / SIGNATURE
    if not signature.is_file():
        raise BadInput(f"{folder} is not signed")
    ignoring = library.hashing.Config().set_ignored_paths(paths=[signature])
    verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=_key(public_key))
    try:
        verifier.set_hashing_config(ignoring).verify(folder, signature)
    except Exception as error:  # the library and what it stands on raise errors of many kinds
        raise BadInput(f"{folder} is not signed with {public_key}: {_line(error)}") from error


def _library() -> ModuleType:
    extra("OpenSSL", "signing")
    return extra("model_signing", "signing")


def _key(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"{path}: there is no such key")
    return path


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
