"""The network that an objective learns from: taken from a finished run, and never trained here."""

from dataclasses import replace
from pathlib import Path

from diffusion.distillation import Student
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.overrides import leaves
from experiments.run import load_run, merged


def load_teacher(experiment: Experiment) -> tuple[Experiment, dict | None]:
    """(the experiment with what its teacher's run says filled in, the teacher's averaged parameters);
    UserError where there is no such run, or it is of another kind or alphabet."""
    needed = experiment.process.traits.second_network == "teacher"
    teacher = experiment.teacher
    if not needed:
        if teacher is not None:
            name = type(experiment.process).__name__
            raise UserError(f"process {name} learns from no teacher; leave teacher out")
        return experiment, None
    if teacher is None or not teacher.workdir:
        raise UserError(
            f"{type(experiment.process).__name__} learns from a trained run; give its directory with "
            "--set teacher.workdir=RUN"
        )
    if not Path(teacher.workdir).is_dir():
        raise UserError(f"teacher.workdir {teacher.workdir} does not exist; give a run directory")
    run = merged(load_run(teacher.workdir))
    student, process = experiment.process, run.experiment.process
    assert isinstance(student, Student)  # by its traits
    try:
        student = student.student_of(process)
    except ValueError as error:
        raise UserError(
            f"teacher.workdir {teacher.workdir} holds a {type(process).__name__}, and {error}"
        ) from error
    if run.experiment.data.tokenizer != experiment.data.tokenizer:
        raise UserError(f"teacher.workdir {teacher.workdir} was trained on another alphabet")
    if teacher.start_from and run.experiment.model != experiment.model:
        own, taught = leaves(experiment.model), leaves(run.experiment.model)
        other = ", ".join(
            f"{k} {taught[k]} and not {own[k]}" for k in taught if taught[k] != own[k]
        )
        raise UserError(
            f"teacher.workdir {teacher.workdir} has another model ({other}), whose parameters do not "
            "fit; set the same, or --set teacher.start_from=False"
        )
    filled = replace(teacher, model=run.experiment.model, fingerprint=run.fingerprint)
    return replace(experiment, teacher=filled, process=student), run.params
