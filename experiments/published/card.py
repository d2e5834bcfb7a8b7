"""The card of an exported run: what it is, what was measured of it, on which text, by what licence."""

from pathlib import Path

from experiments.evaluation.record_files import stored_record
from experiments.published import BASE
from experiments.published.source import SourceRecord, read_source
from experiments.run import Run


def card_of(run: Run, workdir: Path, family: str, source: SourceRecord | None) -> str:
    """The README.md of the folder."""
    experiment = run.experiment
    origin = source or read_source(workdir, BASE)
    licence = origin and origin.licence
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
    if origin is not None:
        lines += [
            ("Imported" if source else "Trained")
            + f" from a checkpoint of the family `{origin.family}`"
            + (f", {origin.name} at {origin.revision}" if origin.name else "")
            + ", of these files (sha256):",
            "",
            *(f"- {name}: {digest}" for name, digest in origin.files.items()),
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
