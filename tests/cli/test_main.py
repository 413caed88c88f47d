from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import pytest

import perftricks
from perftricks.cli import COMMANDS
from tests.cli.conftest import ROOT, command


def test_module_and_version():
    """``python -m perftricks`` is the command, and knows its version."""
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"perftricks {perftricks.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(call, arguments):
    """Without arguments, or asked for help, it lists the commands and succeeds."""
    result = call(*arguments)
    assert result.status == 0
    assert result.err == ""
    for name, summary in COMMANDS.items():
        assert name in result.out
        assert summary in result.out


def test_help_imports_no_command():
    """Listing the commands imports none of them, and no rich."""
    program = (
        "import sys; from perftricks.cli import main; main(['--help'])\n"
        "assert not {'perftricks.cli.wordcount', 'perftricks.wordcount', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(call, name):
    """Each command has help with examples."""
    result = call(name, "--help")
    assert result.status == 0
    assert COMMANDS[name] in result.out
    assert f"perftricks {name} " in result.out.partition("Examples:")[2]


# What the value of an option may be called; "<a|b>" lists all that there are.
METAVARS = {
    "N",
    "S",
    "FILE",
    "FOLDER",
    "SIZE",
    "NAME",
    "TAGS",
    "TEXT",
    "ADDRESS",
    "KEY=VALUE",
    "[=FILE]",
    None,
}
OPTION = re.compile(
    r"^  (?:-\w, )?(--[\w-]+)(?:, -\w|, --[\w-]+| / --[\w-]+)*(?: ([^\s]+))?", re.MULTILINE
)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_alike(call, name):
    """Values have the same names in all commands, and --json is the same option everywhere."""
    shown = call(name, "--help").out.partition("\nOptions:\n")[2]
    options = {option: value or None for option, value in OPTION.findall(shown)}
    assert {"--json", "--help"} <= set(options)
    for option, value in options.items():
        assert value in METAVARS or re.fullmatch(r"<[\w|-]+>", value), (option, value)
    assert options["--json"] == "[=FILE]"
    text = " ".join(shown.partition("--json [=FILE]")[2].split())
    assert text.startswith(
        "Print all figures as JSON in place of what is shown, or write them to a file: "
        "--json=FILE.json."
    )


@pytest.mark.parametrize("name", ["info", "cache"])
def test_json_beside_the_screen(call, tmp_path, name):
    """A file gets what the standard output would get, and the screen stays."""
    path = tmp_path / "all.json"
    beside = call(name, "--json", path)
    assert beside.status == 0
    assert beside.out == call(name).out
    assert json.loads(path.read_bytes()).keys() == call(name, "--json", "-").json.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_written_to_json_files_only(call, name, tmp_path, monkeypatch):
    """A name that follows --json by mistake is refused, not overwritten, in every command."""
    path = tmp_path / "corpus.txt"
    path.write_text("茶")
    monkeypatch.setattr("perftricks.cli.recompute_demo.installed", lambda backend: "torch")
    needed = {"wordcount": [path], "recompute-plan": ["models:net", "--batch-size", 1]}
    result = call(name, *needed.get(name, ()), f"--json={path}")
    assert (result.status, result.out) == (2, "")
    assert f"--json {str(path)!r}: expected a file that ends in .json" in result.err
    assert path.read_text() == "茶"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wordcuont"], "perftricks: no command 'wordcuont'; the commands are: wordcount"),
        (["--nope"], "perftricks: No such option: --nope"),
        (["wordcount"], "perftricks wordcount: Missing argument 'PATHS'"),
        (["wordcount", "x", "--nope"], "perftricks wordcount: No such option: --nope"),
        (["wordcount", "x", "--mode", "full"], "perftricks wordcount: Invalid value for '--mode'"),
        (["wordcount", "x", "-w", "0"], "perftricks wordcount: Invalid value for '-w'"),
        (["wordcount", "x", "-n", "many"], "perftricks wordcount: Invalid value for '-n'"),
    ],
)
def test_wrong_usage(call, arguments, message):
    """Wrong usage is one line that says where to find help, and status 2."""
    result = call(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith(message)
    assert result.err.endswith(" --help'.\n")
    assert result.err.count("\n") == 1


def test_old_python_can_parse_the_entry_point():
    """The file that says which Python is needed is understood by Python 3.7."""
    for name in ("__main__.py", "__init__.py"):
        source = (ROOT / "perftricks" / name).read_text(encoding="utf-8")
        ast.parse(source, feature_version=(3, 7))


def test_old_python_is_told(monkeypatch, capsys):
    """On an older Python the command says in one line what it needs."""
    from perftricks.__main__ import main as entry

    monkeypatch.setattr(sys, "version_info", (3, 7, 16))
    assert entry() == 2
    assert capsys.readouterr().err == (
        "perftricks: the command line needs Python 3.10 or newer, this is 3.7\n"
    )
