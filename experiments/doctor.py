"""Check that this machine and installation can train; include the output in bug reports.

Shows versions, devices and their memory, how long a small training step takes to compile and to run, the
cache of compiled programs, the allocator, and free disk space. Writes nothing. If a check fails, its
line says what is wrong, and the exit code is 1.

Examples:
    ddlm doctor
    ddlm doctor > report.txt
"""

from experiments import cli
from experiments.errors import Failed


def command_line() -> cli.Parser:
    """The options of the command."""
    return cli.parser("doctor", __doc__)


def main(arguments: list[str]) -> None:
    """Nothing; each check is printed as it is made. Failed where one of them is not good."""
    command_line().parse_args(arguments)

    from experiments.overview.doctor import checks

    failed = []
    for check in checks():
        print(f"{check.name:<15} {check.found}", flush=True)
        if check.wrong:
            failed.append(check.name)
            print(f"{'':<15} WRONG: {check.wrong}", flush=True)
    if failed:
        raise Failed(f"these checks fail: {', '.join(failed)}")
    print("all checks pass")


if __name__ == "__main__":
    cli.run("doctor")
