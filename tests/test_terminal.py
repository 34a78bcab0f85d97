"""Text from outside, such as a file's name, is shown on a terminal and does not command it."""

import logging
import os
import subprocess
import sys

import pytest

from personalive.cli.main import main
from personalive.terminal import VisibleFormatter, visible

TITLE = "ev\x1b]0;pwned\x07il"
"""Names a terminal's window, if it gets there as it is."""
SHOWN = r"ev\x1b]0;pwned\x07il"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 10:30\u202fUhr 写真 👍.mp4", None),
        ("two\nlines", None),
        (TITLE, SHOWN),
        ("\r\b\x7f\x9b31m", r"\r\x08\x7f\x9b31m"),
        ("gpj.\u202e4pm", r"gpj.\u202e4pm"),
        ("\udcff\u2028", r"\udcff\u2028"),
    ],
)
def test_what_commands_a_terminal_becomes_visible_and_the_rest_stays(text, shown):
    assert visible(text) == (text if shown is None else shown)


def test_log_lines_and_their_tracebacks_are_visible_text():
    try:
        raise ValueError(TITLE)
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, __file__, 1, "%s ends", (TITLE,), sys.exc_info())
    text = VisibleFormatter("%(message)s").format(record)
    assert "\x1b" not in text and text.startswith(f"{SHOWN} ends\nTraceback") and text.count(SHOWN) == 2


def test_verify_shows_a_name_that_holds_commands(tmp_path, portrait, capsys):
    path = tmp_path / f"{TITLE}.png"
    path.write_bytes(portrait.read_bytes())
    assert main(["verify", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{SHOWN}.png has no content credentials" in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", f"{TITLE}.mp4"], f"ERROR: the file {SHOWN}.mp4 does not exist"),
        (["animate", "--ref_image", TITLE], f"ERROR: the reference {SHOWN} does not exist"),
        (["verify", "a", TITLE], f"unrecognized arguments: {SHOWN}"),
        (["batch", "jobs.csv"], f"no column '{SHOWN}'"),
        (["batch", "rows.csv"], f"the reference .*{SHOWN}.png does not exist"),
    ],
)
def test_errors_show_what_they_quote(tmp_path, portrait, arguments, said):
    (tmp_path / "jobs.csv").write_text(f"reference,driver,output,{TITLE}\na,b,c.mp4,d\n")
    (tmp_path / "rows.csv").write_text(f"reference,driver,output\n{TITLE}.png,{portrait},c.mp4\n")
    command = [sys.executable, "-m", "personalive", *arguments]
    here = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode in (1, 2) and "\x1b" not in done.stderr and "\x07" not in done.stderr
    assert all(part in done.stderr for part in said.split(".*")), done.stderr
