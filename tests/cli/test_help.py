"""Help, completion, colours and hints: what every command owes a person."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import click
import pytest
import typer

from lowcarb_scheduler.cli import options
from lowcarb_scheduler.cli.app import COMMANDS, load_all
from support.cli_files import forecast_rows, run, write_forecast, write_job


def commands() -> dict[str, click.Command]:
    """Return every command by the words that a person types."""
    found = {}
    for name, command in load_all().commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {sub}": each for sub, each in inner.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_examples_and_each_can_be_typed(name):
    _, *lines = commands()[name].epilog.split("\n\n")
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "lowcarb"
        words = name.split()
        assert arguments[: len(words)] == words
        commands()[name].make_context(name, arguments[len(words) :])  # refuses what is no option


def test_the_list_of_commands_shows_the_first_line_of_each_command_s_help():
    first_lines = {name: command.help.splitlines()[0] for name, command in load_all().commands.items()}
    assert {name: entry.help for name, entry in COMMANDS.items()} == first_lines


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_in_a_pipe_is_plain_text(capsys, name):
    answer = run(capsys, *name.split(), "--help")
    assert answer.code == 0
    assert answer.out.startswith("Usage: lowcarb ")
    assert not set(answer.out) & set("╭│╰\\\x1b")
    examples = answer.out.split("\nExamples:\n")[1].splitlines()
    assert all(line.startswith(f"  lowcarb {name}") for line in examples)


def shell(words: str) -> list[str]:
    """Complete a line as bash does; the last word is the one that is begun."""
    code = "import sys\nfrom lowcarb_scheduler.cli import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "_LOWCARB_COMPLETE": "complete_bash", "COMP_WORDS": words,
             "COMP_CWORD": str(len(words.split(" ")) - 1)},
    )  # fmt: skip
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_sources():
    assert shell("lowcarb tr") == ["tradeoff"]
    assert shell("lowcarb plan --pat") == ["--patience"]
    assert shell("lowcarb forecast --source synthetic --location D") == ["DE", "DK"]


def test_sources_are_completed_after_a_comma():
    assert options.sources("watttime,uk") == ["watttime,uk-carbon-intensity"]
    assert options.signals("m") == ["marginal"]


def test_places_of_a_file_are_completed_whatever_their_case(tmp_path):
    path = write_forecast(tmp_path)
    context = typer.Context(click.Command("plan"))
    context.params = {"source": "traces", "traces": path}
    assert options.locations(context, "d") == ["DE"]
    context.params = {"source": "traces", "traces": tmp_path / "none.csv"}
    assert options.locations(context, "d") == []


def test_the_script_of_completion_is_shown():
    told = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # make runs this in sh
    code = "import sys\nfrom lowcarb_scheduler.cli import main\nsys.exit(main(['--show-completion', 'bash']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=told)
    assert done.returncode == 0, done.stderr
    assert "_LOWCARB_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan", "--sorce", "x"], "No such option --sorce. Did you mean --source? See lowcarb plan --help"),
        (["archive", "lst"], "No such command 'lst'. Did you mean 'list'?; see lowcarb archive --help"),
        (
            ["forecast", "--location", "DE", "--source", "sinthetic"],
            "source: 'sinthetic' is unknown; did you mean synthetic? there are ",
        ),
        (["forecast", "--location", "DEE", "--source", "synthetic"], "did you mean DE?"),
        (
            ["forecast", "--location", "DE", "--source", ",,"],
            "source: ',,' has no name beside a comma; write",
        ),
    ],
)
def test_what_was_meant_is_guessed(capsys, arguments, line):
    answer = run(capsys, *arguments)
    assert answer.code == 2
    assert line in answer.line


def test_semicolons_between_columns_are_recognised(capsys, tmp_path):
    rows = [row.replace(",", ";") for row in forecast_rows()]
    file = write_forecast(tmp_path, rows, "location;time;g_per_kwh")
    answer = run(capsys, "plan", "--job", write_job(tmp_path), "--forecast", file)
    assert answer.code == 2
    assert "separate columns by commas" in answer.line
    (tmp_path / "fleet.csv").write_text("id;location\na;DE\n", encoding="utf-8")
    job = write_job(tmp_path, clients=None, fleet="fleet.csv")
    answer = run(capsys, "plan", "--job", job, "--forecast", write_forecast(tmp_path))
    assert answer.code == 2
    assert "its columns are separated by semicolons; separate columns by commas" in answer.line
