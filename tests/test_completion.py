"""ddlm completion: what bash completes with the script."""

import subprocess
from pathlib import Path

import pytest
import shtab

from experiments import cli
from experiments.completion import FILES, FOLDERS, WORDS, every_command
from experiments.data.builders import DATASETS

ROOT = Path(__file__).parent.parent
# Asks as bash does when the tab key is pressed at the end of a line, given as an argument.
ASK = """
COMP_LINE=$1; COMP_POINT=${#1}; COMP_WORDS=($1)
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
registered=$(complete -p ddlm); function=${registered#*-F }
${function%% *} ddlm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """bash(line) -> what bash completes it to, in a new folder that has one file and one folder."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "runs").mkdir()
    (folder / "run.py").write_text("")

    def ask(line):
        script = subprocess.run(
            ["bash", "-c", f"source {folder}/.script; {ASK}", "bash", line],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not script.stderr
        return script.stdout.split()

    (folder / ".script").write_text(shtab.complete(every_command(), "bash"))
    return ask


@pytest.mark.parametrize(
    "line, words",
    [
        ("ddlm tr", ["trace", "train"]),
        ("ddlm ", cli.COMMANDS),
        ("ddlm train --dr", ["--dry-run"]),
        ("ddlm sample --workdir runs --num 3 --guid", ["--guidance", "--guidance-interval"]),
        ("ddlm sample --dry", []),
        ("ddlm train --config ru", ["run.py", "runs"]),
        ("ddlm sample --workdir ru", ["runs"]),
        ("ddlm compress ru", ["run.py", "runs"]),
        ("ddlm quality --train ru", ["run.py", "runs"]),
        ("ddlm evaluate --split va", ["validation"]),
        ("ddlm prepare --dataset ", list(DATASETS)),
        ("ddlm completion z", ["zsh"]),
    ],
)
def test_bash_completes(line, words, bash):
    assert sorted(bash(line)) == sorted(words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_with_every_command_and_option(shell, capsys):
    assert cli.guarded("completion", [shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in cli.COMMANDS)
    assert "dry-run" in script and "guidance-interval" in script


def test_another_shell_is_one_line(capsys):
    assert cli.guarded("completion", ["tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err


def test_every_name_that_is_completed_is_that_of_an_argument():
    commands = every_command()._subparsers._group_actions[0].choices.values()
    actions = [action for command in commands for action in command._actions]
    assert {*FILES, *FOLDERS, *WORDS, "dataset"} <= {action.dest for action in actions}
    written = {action.dest for action in actions if action.type is cli.output}
    assert written <= set(FILES)
