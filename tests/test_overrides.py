"""`--set`, config files, and configs as plain data."""

import dataclasses

import pytest

from configs.smoke import get_config
from diffusion.schedules import Cosine, Polynomial
from experiments.data.tokenizers import Characters
from experiments.errors import UserError
from experiments.overrides import OverrideError, differences, leaves, load, override, resolve
from experiments.renames import TYPES
from experiments.serialization import decode, encode
from samplers.ancestral import Ancestral
from samplers.logits_processor import LogitsProcessor
from samplers.sliding_window import SlidingWindow


@pytest.mark.parametrize(
    "items, word",
    [
        (["sampler=FirstHitting", "sampler.grup=4"], "sampler.group"),
        (["sampler=Unmask", "sampler.amount=Threshold", "sampler.amount.level=1"], "probability"),
        (
            ["sampler=Unmask", "sampler.amount=Tokens", "sampler.amount.tokens=4"],
            "sampler.amount.num",
        ),
        (["sampler=firsthiting"], "did you mean FirstHitting"),
        (["sampler.order=mar"], "it is a setting of sampler=Unmask"),
        (["train.token_weight.every=4"], "it is a setting of train.token_weight=Goldfish"),
        (["sampler=Unmask", "sampler.amount.nats=2"], "sampler.amount=EntropyBudget"),
        (["train.xyz=3"], "settings of train: num_steps, .*, token_weight"),
    ],
)
def test_hints_are_of_what_was_chosen(items, word):
    with pytest.raises(UserError, match=word) as caught:
        override(get_config(), items)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", ["100000000000000000000", "-100000000000000000000", "1e20"])
def test_no_integer_setting_takes_what_the_devices_do_not_hold(value):
    e = get_config()
    whole = [path for path, now in leaves(e).items() if type(now) is int]
    whole.remove("model.mlp_ratio")  # a float, whose default is a whole number
    assert len(whole) > 20
    for path in whole:
        with pytest.raises(UserError, match=f"--set {path}=") as caught:
            override(e, [f"{path}={value}"])
        assert "\n" not in str(caught.value)


def test_a_seed_may_have_32_bits():
    assert override(get_config(), [f"train.seed={2**32 - 1}"]).train.seed == 2**32 - 1
    with pytest.raises(UserError, match="outside 0 to 4294967295"):
        override(get_config(), [f"train.seed={2**32}"])


def test_override_of_every_kind():
    e = override(
        get_config(),
        ["train.num_steps=1e3", "optimizer.schedule=WarmupCosine", "optimizer.schedule.peak_lr=1",
         "optimizer.schedule.decay_steps=5000", "model.scan=true",
         "data.path=some file.txt", "data.split_points=(1,2,3)", "process.schedule=Polynomial",
         "process.schedule.power=3", "data.tokenizer=Characters", "data.tokenizer.symbols=01"],
    )  # fmt: skip
    assert (
        e.train.num_steps == 1000
        and e.optimizer.schedule.peak_lr == 1.0
        and e.optimizer.schedule.decay_steps == 5000
    )
    assert (
        e.model.scan is True and e.data.path == "some file.txt" and e.data.split_points == (1, 2, 3)
    )
    assert e.process.schedule == Polynomial(3.0) and e.data.tokenizer == Characters("01")
    assert override(e, ["train.max_grad_ratio=None"]).train.max_grad_ratio is None


@pytest.mark.parametrize(
    "item, words",
    [
        ("train.num_step=5", ["train.num_step", "did you mean", "train.num_steps"]),
        ("peak_lr=5", ["optimizer.schedule.peak_lr"]),
        ("train.num_steps.x=5", ["no such setting"]),
        ("train.num_steps=many", ["train.num_steps=many", "expected int"]),
        ("train.num_steps=-1", ["at least 0"]),
        ("train.accumulation=3", ["multiple of"]),
        ("model.mlp=relu", ["one of gelu, swiglu"]),
        ("process.schedule=Cosin", ["Cosine", "Polynomial"]),
        ("sampler.steps=0", ["at least 1"]),
        ("model.width=33", ["multiple"]),
        ("train.num_steps", ["expected PATH=VALUE"]),
        ("data.sources=a", ['expected a tuple of str or None, in the form ("1", "2")']),
        (
            "data.split_points=1",
            ["expected a tuple of int, int, int, in the form (1, 2, 3) or None"],
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(item, words):
    with pytest.raises(UserError) as error:
        override(get_config(), [item])
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "path",
    ["optimizer.schedule.peak_lr", "optimizer.clip_norm", "train.ema_decay", "train.num_steps",
     "data.split_points", "sampler.logits_processor.temperature", "train.max_grad_ratio"],
)  # fmt: skip
@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-inf", "-Infinity", "1e400", "(1, inf, 3)"]
)
def test_numbers_must_be_finite(path, value):
    if path == "data.split_points" or "(" not in value:
        with pytest.raises(UserError) as error:
            override(get_config(), [f"{path}={value}"])
        assert str(error.value) == f"--set {path}={value}: must be finite"


def test_a_text_may_be_the_name_of_a_number():
    for text in ("nan", "inf", "12", "(1,"):
        assert override(get_config(), [f"data.path={text}"]).data.path == text
    assert override(get_config(), ["data.path=none"]).data.path is None


def test_stored_and_constructed_numbers_must_be_finite(tmp_path):
    data = encode(get_config())
    data["optimizer"]["schedule"]["peak_lr"] = float("nan")
    with pytest.raises(
        UserError, match=r"config\.optimizer\.schedule\.peak_lr = nan: must be finite"
    ):
        decode(data)
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\nfrom configs.smoke import get_config as base\n"
        "def get_config():\n"
        "    e = base()\n"
        "    return replace(e, optimizer=replace(e.optimizer, eps=float('inf')))\n"
    )
    with pytest.raises(UserError, match=r"mine\.py: optimizer\.eps = inf: must be finite"):
        load(str(path))


OWN = """
from __future__ import annotations
from dataclasses import dataclass, replace
from configs.smoke import get_config as base
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, Schedule

@dataclass(frozen=True)
class Mine(MDLM):
    weight: float = 1.0
    other: Schedule = Linear()

@dataclass(frozen=True)
class Bent(Linear):
    power: float = 2.0

@dataclass(frozen=True, kw_only=True)
class Needy(Mine):
    must: int

def get_config():
    return replace(base(), process=Mine(schedule=Bent()))
"""


def test_classes_of_ones_own_may_be_chosen_and_set_beside_those_of_the_library(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    own = load(str(path))
    assert override(own, ["process.weight=2"]).process.weight == 2.0
    assert type(override(own, ["process=Mine"]).process) is type(own.process)
    assert type(override(own, ["process=UDLM"]).process).__name__ == "UDLM"
    assert type(override(own, ["process.schedule=Bent"]).process.schedule).__name__ == "Bent"
    assert override(own, ["process.other=Cosine"]).process.other == Cosine()
    modified = override(own, ["process.other=Bent", "process.other.power=3"])
    assert modified.process.other == type(own.process.schedule)(power=3.0)
    library = tmp_path / "library.py"
    library.write_text(OWN.replace("process=Mine(schedule=Bent())", "train=base().train"))
    assert type(load(str(library), ["process=Mine"]).process).__name__ == "Mine"
    for item, words in {
        "process=MDML": ["Autoregressive, BFN, ", "MDLM, Mine, Needy, ", "(did you mean MDLM?)"],
        "process=Needy": ["Needy has no default for must; construct it in a config file"],
        "process=Mien": ["(did you mean Mine?)"],
        "process.schedule=Bend": ["Bent, Cosine, Geometric, Linear", "(did you mean Bent?)"],
        "process.other=X": ["Bent, Cosine, Geometric, Linear"],
        "process.weight=inf": ["must be finite"],
    }.items():
        with pytest.raises(UserError) as error:
            override(own, [item])
        assert str(error.value).startswith(f"--set {item}: ")
        assert all(word in str(error.value) for word in words), error.value


def test_what_may_be_absent_is_chosen_by_its_class_and_made_absent_again():
    with_teacher = override(get_config(), ["teacher=Teacher", "teacher.workdir=runs/a"])
    assert with_teacher.teacher.workdir == "runs/a"
    assert override(with_teacher, ["teacher=none"]).teacher is None
    with pytest.raises(UserError, match=r"teacher=Techer: expected one of Teacher, .*mean Teacher"):
        override(get_config(), ["teacher=Techer"])


def test_round_trip_through_plain_data_and_resolve():
    e = override(get_config(), ["process.schedule=Cosine", "data.split_points=(1,2,3)"])
    assert decode(encode(e)) == e and e.process.schedule == Cosine()
    full = resolve(e, Characters("abc"))
    assert full.process.vocab_size == full.model.vocab_size == 3
    with pytest.raises(UserError, match="vocab_size = 3, but the data has 4"):
        resolve(full, Characters("abcd"))


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "experiments.overrides.load", "pathlib.Path", None, 3]
)
def test_stored_configs_cannot_name_code_to_run(name):
    data = encode(get_config()) | {"sampler": {"_type": name, "args": "true"}}
    with pytest.raises(UserError, match="is not a setting"):
        decode(data)


def test_stored_values_of_a_wrong_kind_are_rejected():
    for change in [{"num_steps": "x"}, {"num_steps": -1}, {"unknown": 1}]:
        data = encode(get_config())
        data["train"] |= change
        with pytest.raises(UserError, match="train"):
            decode(data)


def test_settings_are_checked_together_whatever_their_order():
    e = override(get_config(), ["optimizer.schedule=WarmupCosine"])
    pair = ["optimizer.schedule.decay_steps=8", "optimizer.schedule.warmup_steps=5"]
    assert override(e, pair) == override(e, pair[::-1])
    swapped = ["process=Autoregressive", "sampler=LeftToRight"]
    assert override(e, swapped) == override(e, swapped[::-1])
    with pytest.raises(
        UserError, match=r"decay_steps=4, optimizer\.schedule\.warmup_steps=5: Warm"
    ):
        override(e, ["optimizer.schedule.decay_steps=4", "optimizer.schedule.warmup_steps=5"])


@pytest.mark.parametrize(
    "items, named",
    [
        (["sampler=LeftToRight"], "sampler=LeftToRight"),
        (
            ["optimizer.schedule.warmup_steps=5", "optimizer.schedule.decay_steps=4"],
            "optimizer.schedule.warmup_steps=5, optimizer.schedule.decay_steps=4",
        ),
        (["data.rows=pack", "process=GenMD4"], "data.rows=pack, process=GenMD4"),
    ],
)
def test_a_rejection_names_the_settings_at_fault_alone(items, named):
    others = [
        "optimizer.schedule=WarmupCosine",
        "optimizer.schedule.peak_lr=0.1",
        "train.seed=3",
        "sampler.steps=9",
    ]
    for given in ([*others, *items], [*others[:3], *items, "train.log_every=7"]):
        with pytest.raises(UserError) as error:
            override(get_config(), given)
        assert str(error.value).startswith(f"--set {named}: ")


@pytest.mark.parametrize(
    "items, setting",
    [
        (["train.seed"], "train.seed"),
        (["train.sed=1"], "train.sed"),
        (["train.seed=x"], "train.seed=x"),
        (["sampler=MDLM"], "sampler=MDLM"),
        (["train.seed=1", "train.batch_size=0"], "train.batch_size=0"),
    ],
)
def test_an_error_carries_the_setting_that_it_is_of(items, setting):
    with pytest.raises(OverrideError) as error:
        override(get_config(), items)
    assert error.value.setting == setting and error.value.about == f"--set {setting}"


def test_a_later_setting_wins_and_a_kind_forgets_the_settings_before_it():
    e = get_config()
    assert override(e, ["train.seed=1", "train.seed=2"]).train.seed == 2
    sub = override(e, ["sampler.steps=5", "sampler=Ancestral"]).sampler
    assert (
        sub.steps == 64 and override(e, ["sampler=Ancestral", "sampler.steps=5"]).sampler.steps == 5
    )


def test_differences_tell_what_forbids_continuing():
    e = get_config()
    longer = override(e, ["train.num_steps=99", "train.log_every=3", "sampler.steps=5"])
    assert differences(e, longer) == {}
    other = differences(e, override(e, ["optimizer.schedule.peak_lr=0.5"]))
    assert other == {"optimizer.schedule.peak_lr": "0.003 -> 0.5"}
    other = differences(e, override(e, ["process.schedule=Cosine"]))
    assert other["process.schedule"] == "Linear -> Cosine"
    assert len(leaves(e)) > 30 and all(not dataclasses.is_dataclass(v) for v in leaves(e).values())


def test_a_config_of_the_users_own_loads_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from configs.smoke import get_config\n")
    assert load(str(path)) == get_config()
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="must define get_config"):
        load(str(path))
    path.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load(str(path))
    with pytest.raises(UserError, match=r"does not exist; did you mean configs/smoke.py"):
        load("configs/smok.py")


@pytest.mark.parametrize("old, new", TYPES.items())
def test_a_class_stored_under_its_earlier_name_is_read(old, new):
    found = decode({"_type": old})
    assert f"{type(found).__module__}.{type(found).__name__}" == new and found == type(found)()


def test_settings_stored_under_their_earlier_names_are_read():
    transform = {"_type": "samplers.transform.Transform", "temperature": 0.5}
    inner = {"_type": "samplers.ancestral.Ancestral", "steps": 8, "transform": transform}
    plain = {"_type": "samplers.windows.Windows", "inner": inner, "stride": 3}
    now = Ancestral(8, logits_processor=LogitsProcessor(temperature=0.5))
    assert decode(plain) == SlidingWindow(now, stride=3)
