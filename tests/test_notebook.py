"""A notebook without a terminal: a run shows plain lines, and can be told to say nothing."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

RUN = """\
import fulldeck as fd
settings = {"epochs": 2, "threads": 1, "device": "cpu"}
result = fd.run("breast_cancer", [fd.LrScheduler()], out="runs", **settings)
"""
CELLS = (RUN, RUN.replace("**settings", "watcher=fd.Watcher(), **settings"))


def test_a_run_shows_plain_lines_in_a_real_kernel(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown, silent = (cell.outputs for cell in notebook.cells)
    assert {output.output_type for output in shown} == {"stream"}, "text, not HTML"
    assert {output.name for output in shown} == {"stdout"}
    text = "".join(output.text for output in shown)
    assert not any(ord(letter) < 32 for letter in text if letter != "\n"), "no control characters"
    lines = text.splitlines()
    assert lines[0].startswith("breast_cancer in runs/2")
    assert [line.split()[1] for line in lines if line.startswith("  epoch ")] == ["1", "2"]
    assert silent == []
