"""The card of an exported run: what it is, what was measured of it, on which text, by what licence."""

from pathlib import Path

from experiments.evaluation.record_files import stored_record
from experiments.published.source import SourceRecord
from experiments.run import Run


def card_of(run: Run, workdir: Path, family: str, source: SourceRecord | None) -> str:
    """The README.md of the folder."""
    experiment = run.experiment
    licence = source and source.licence
    tokenizer = experiment.data.tokenizer
    lines = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "library_name: ddlm",
        "---",
        "",
        f"# {type(experiment.process).__name__}, exported by ddlm",
        "",
        f"The layout is that of the family `{family}`; `ddlm import FOLDER --workdir RUN` makes a run",
        f"of it again. Checkpoint {run.step}, fingerprint {run.fingerprint}.",
        f"Tokenizer: {type(tokenizer).__name__} {tokenizer.sha256}".rstrip() + ".",
        "",
    ]
    if source is not None:
        lines += [
            f"Imported from a checkpoint of the family `{source.family}`"
            + (f", {source.name} at {source.revision}" if source.name else "")
            + ", of these files (sha256):",
            "",
            *(f"- {name}: {digest}" for name, digest in source.files.items()),
            "",
        ]
    return "\n".join([*lines, "## Measured", "", *_measured(workdir, run.fingerprint), ""])


def _measured(workdir: Path, fingerprint: str) -> list[str]:
    """A line for each record of the checkpoint."""
    lines = []
    for path in sorted((workdir / "records").glob("*.json")):
        record = stored_record(path)
        if not record or record["checkpoint_fingerprint"] != fingerprint:
            continue
        error = record["standard_error"]
        spread = "" if error is None else f" +- {error:.4f}"
        text = f"{record['split']} of {record['source']} (sha256 {record['split_sha256']})"
        value = f"{record['kind']}: {record['value']:.4f}{spread} {record['unit']}"
        lines.append(f"- {value} on {text}; {record['estimator']}")
    return lines or ["Nothing yet."]
