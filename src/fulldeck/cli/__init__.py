"""The command line: one file a command, and everything heavy is imported inside the command.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import typer

from fulldeck import __version__
from fulldeck.cli import (
    compare,
    compile,
    dashboard,
    diagnose,
    doctor,
    evidence,
    explain,
    fingerprint,
    init,
    listing,
    new,
    plan,
    predict,
    report,
    run,
    scale,
    schema,
    serve,
    show,
    tune,
    verify,
)
from fulldeck.cli.output import Interrupted, width, write_error
from fulldeck.cli.several import exit_code, launched, lost, silent
from fulldeck.errors import BadInput, LostRank, RunFailed, SaidElsewhere
from fulldeck.logs import on_standard_error

COMMANDS = {
    "run": run,
    "plan": plan,
    "list": listing,
    "show": show,
    "serve": serve,
    "predict": predict,
    "doctor": doctor,
    "new": new,
    "schema": schema,
    "init": init,
    "explain": explain,
    "report": report,
    "compare": compare,
    "compile": compile,
    "diagnose": diagnose,
    "verify": verify,
    "evidence": evidence,
    "dashboard": dashboard,
    "tune": tune,
    "fingerprint": fingerprint,
    "scale": scale,
}
"""Name to the module that holds its `command` and an `EXAMPLE`."""

WIDEST_HELP = 80
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."

app = typer.Typer(
    help="Make a PyTorch model accurate, fast, small and served, one instruction at a time.",
    epilog=f"\b\nExample:\n  fulldeck run digits\n\n{EXIT_CODES}",
    context_settings={"help_option_names": ["-h", "--help"]},
    # Rich would cost every --help and every error 60 ms.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _name, _module in COMMANDS.items():
    app.command(_name, epilog=f"\b\nExample:\n  {_module.EXAMPLE}\n\n{EXIT_CODES}")(_module.command)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors are one line each on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_log = "--log-json" in words
    columns = min(width(), WIDEST_HELP)
    refuse = partial(write_error, as_json="--json" in words, as_log=as_log)
    with on_standard_error(as_json=as_log, quiet="--quiet" in words):
        try:
            code = int(app(words, prog_name="fulldeck", standalone_mode=False, terminal_width=columns) or 0)
        except typer.TyperException as error:
            return refuse(error.format_message(), error.exit_code)
        except BadInput as error:
            return refuse(str(error), 2)
        except LostRank as error:
            # The launcher of --nproc goes on, and it is the one that answers in the end.
            as_json = "--json" in words and launched() is None
            return write_error(lost(error), exit_code(error), as_json=as_json, as_log=as_log)
        except RunFailed as error:
            return refuse(str(error), 1)
        except SaidElsewhere as error:
            return silent(error)
        except Interrupted as error:
            return refuse(str(error), 130)
        return refuse("interrupted", 130) if code == 130 else code
