"""A scorer from a local folder in the format of the `transformers` library.

Nothing is downloaded, unpickled or executed from the folder: weights are read from .safetensors only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.evaluation.units import Estimate
from experiments.sample_metrics.scorers import Scorer, in_pieces, untold

_TOKENS = 4096  # in one call, padding included
_ROUNDING = 1e-5  # of the greatest logit; a causal model changes by nothing at all
_ROOM = 1024  # where a model names no limit


def load_folder(path: str) -> "FolderScorer":
    """The causal language model in the folder `path`, on CPU in float32."""
    if not list(Path(path).glob("*.safetensors")):
        raise UserError(
            f"--scorer {path} holds no .safetensors file, and weights in pickle files are "
            "unsupported; save the model again with safe_serialization=True"
        )
    try:
        import torch  # pyright: ignore[reportMissingImports]  # of an extra
        import transformers  # pyright: ignore[reportMissingImports]  # of an extra
    except ImportError as error:
        raise UserError(
            f'--scorer {path} needs transformers; in the repository: pip install -e ".[transformers]"'
        ) from error
    local = {"local_files_only": True, "trust_remote_code": False}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **local)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, dtype=torch.float32, **local
        )
    except Exception as error:  # the library raises what its many loaders happen to raise
        message = " ".join(str(error).split())[:200]
        raise UserError(f"--scorer {path}: not a causal language model ({message})") from error
    without_dropout(tokenizer)
    scorer = FolderScorer(path, tokenizer, model.eval(), torch)
    scorer.check_causal()
    return scorer


def without_dropout(tokenizer: Any) -> None:
    """Nothing; a tokenizer of that library gives a text the same tokens each time, whatever its file
    says of dropout."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None) is not None:
        model.dropout = None


@dataclass(frozen=True)
class FolderScorer(Scorer):
    """Texts begin with the model's BOS token where it has one. Otherwise the first token of a piece has
    no distribution, and neither it nor its characters are counted."""

    path: str
    tokenizer: Any
    model: Any
    torch: Any

    @property
    def described(self) -> dict:
        begins = "scored, after BOS" if self._start else "not scored: the model has no BOS token"
        return {
            "scorer": self.path,
            "kind": f"transformers {self.model.config.model_type}",
            "room": self._room,
            "first_token": begins,
            "features": "last layer's state at the last token",
        }

    @property
    def _start(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [bos]

    @property
    def _room(self) -> int:
        limit = getattr(self.model.config, "max_position_embeddings", None) or _ROOM
        return limit - len(self._start)

    def check_causal(self) -> None:
        """UserError for a network whose output at a position depends on later tokens."""
        size = self.model.get_input_embeddings().weight.shape[0]
        z = np.arange(12).reshape(1, 12).repeat(2, 0) % size
        z[1, -1] = (z[1, -1] + 1) % size
        with self.torch.no_grad():
            out = self.model(self.torch.from_numpy(z)).logits[:, :-1]
        if float((out[0] - out[1]).abs().max()) > _ROUNDING * float(out.abs().max()):
            raise UserError(
                f"--scorer {self.path} ({self.model.config.model_type}) is not autoregressive: a later "
                "token changes its distribution of an earlier one"
            )

    def tokens(self, text, where):
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        outside = {self.tokenizer.unk_token_id} - {self.tokenizer.bos_token_id}  # GPT-2: one token
        if not ids or outside & set(ids):
            raise UserError(
                f"{where}: not all of its text is in the alphabet of the scorer {self.path}; use "
                "a scorer with the samples' alphabet"
            )
        return np.array(ids, np.int64)

    def _pieces(self, rows, read, progress):
        """As `in_pieces`, of read(the model's output, tokens with the start) of a batch."""
        width = min(self._room, max(map(len, rows))) + len(self._start)

        def call(padded):
            start = np.tile(np.array(self._start, np.int32), (len(padded), 1))
            z = self.torch.from_numpy(np.concatenate([start, padded], 1).astype(np.int64))
            with self.torch.no_grad():
                return read(self.model(z, output_hidden_states=True), z).numpy()

        return in_pieces(rows, self._room, max(1, _TOKENS // width), call, progress)

    def score(self, texts, progress=untold):
        rows = [self.tokens(text, "text") for text in texts]
        unscored, characters = 0 if self._start else 1, sum(map(len, texts))
        nats, sizes = np.zeros(len(rows)), np.zeros(len(rows), int)

        def log_p(out, z):  # of each token but the first of all
            distribution = self.torch.log_softmax(out.logits[:, :-1], -1)
            return distribution.gather(-1, z[:, 1:, None])[..., 0]

        for i, size, values in self._pieces(rows, log_p, progress):
            nats[i] -= values[: size - unscored].sum(dtype=np.float64)
            sizes[i] += size - unscored
        if unscored:
            for row in rows:
                firsts = [row[k : k + 1] for k in range(0, len(row), self._room)]
                characters -= sum(len(self.tokenizer.decode(first)) for first in firsts)
        if not sizes.sum():
            raise UserError(f"--scorer {self.path}: the texts are too short to be scored")
        return Estimate(nats[:, None], sizes, characters)

    def features(self, texts, progress=untold):
        rows, points = [self.tokens(text, "text") for text in texts], {}
        states = self._pieces(rows, lambda out, z: out.hidden_states[-1], progress)
        for i, size, state in states:
            points[i] = state[size - 1 + len(self._start)]
        return np.stack([points[i] for i in range(len(rows))])
