"""The network that an objective learns from, or a token weight compares with: taken from a finished run,
and never trained here."""

from dataclasses import replace
from pathlib import Path

from diffusion.distillation import Student
from diffusion.process import Objective
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.overrides import leaves
from experiments.run import load_run, merged


def load_teacher(experiment: Experiment) -> tuple[Experiment, dict | None]:
    """(the experiment with what its teacher's run says filled in, the teacher's averaged parameters);
    UserError where there is no such run, or it is of another kind or alphabet."""
    teacher, weight = experiment.teacher, experiment.train.token_weight
    taught = experiment.process.traits.second_network == "teacher"
    if not (taught or weight.needs_reference):
        if teacher is not None:
            name = type(experiment.process).__name__
            raise UserError(f"process {name} learns from no teacher; leave teacher out")
        return experiment, None
    learner = type(experiment.process if taught else weight).__name__
    if teacher is None or not teacher.workdir:
        raise UserError(
            f"{learner} learns from a trained run; give its directory with "
            + ("" if teacher else "--set teacher=Teacher ")
            + "--set teacher.workdir=RUN"
        )
    if not Path(teacher.workdir).is_dir():
        raise UserError(f"teacher.workdir {teacher.workdir} does not exist; give a run directory")
    run = merged(load_run(teacher.workdir))
    process = run.experiment.process
    try:
        learning = _learning(experiment.process, process, learner)
    except ValueError as error:
        raise UserError(
            f"teacher.workdir {teacher.workdir} holds a {type(process).__name__}, but {error}"
        ) from error
    if run.experiment.data.tokenizer != experiment.data.tokenizer:
        raise UserError(f"teacher.workdir {teacher.workdir} was trained on another alphabet")
    if not taught and run.experiment.data.labels != experiment.data.labels:
        raise UserError(f"teacher.workdir {teacher.workdir} was trained with other labels")
    if teacher.start_from and run.experiment.model != experiment.model:
        own, its = leaves(experiment.model), leaves(run.experiment.model)
        other = ", ".join(f"{k} {its[k]} and not {own[k]}" for k in its if its[k] != own[k])
        raise UserError(
            f"teacher.workdir {teacher.workdir} has another model ({other}), whose parameters do not "
            "fit; set the same, or --set teacher.start_from=False"
        )
    filled = replace(teacher, model=run.experiment.model, fingerprint=run.fingerprint)
    return replace(experiment, teacher=filled, process=learning), run.params


def _learning(process: Objective, of_teacher: Objective, learner: str) -> Objective:
    """What is trained with a teacher of that process: its student, or itself where the teacher's losses
    are only compared with. ValueError for a teacher of another kind."""
    if isinstance(process, Student):
        return process.student_of(of_teacher)
    if type(of_teacher) is not type(process):
        raise ValueError(f"{learner} learns from {type(process).__name__}")
    return process
