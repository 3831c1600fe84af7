"""How a job's model is served: what its inputs and outputs mean to the people who ask it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gradmq.errors import JobError

if TYPE_CHECKING:
    import numpy as np

#: Data types of the Open Inference Protocol.
DATATYPES: Final = frozenset(
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "BF16",
        "FP32",
        "FP64",
        "BYTES",
    ]
)

#: Content types that come with requests of tensors: kserve's clients say the second of binary ones,
#: curl the third of whatever it is given.
_OF_TENSORS: Final = frozenset(
    ["application/json", "application/octet-stream", "application/x-www-form-urlencoded"]
)

_CONTENT_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9][a-z0-9!#$&^_.+-]*")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of the Open Inference Protocol; -1 stands for a size that may vary.

    The first dimension is the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            known = ", ".join(sorted(DATATYPES))
            raise JobError(f"tensor {self.name}: datatype {self.datatype!r} is none of {known}")
        if not self.shape or any(size < -1 for size in self.shape):
            raise JobError(
                f"tensor {self.name}: shape {self.shape} needs a batch dimension first, "
                "and no size below -1"
            )


@dataclass(frozen=True, slots=True)
class TensorModel:
    """A model asked with named tensors and answering with named tensors.

    Without ``prepare`` the model is called with the inputs in order, as torch tensors; without
    ``finish`` its output, or tuple of outputs, is the answer in the order of ``outputs``.
    Both run in the thread that runs the model, under ``torch.inference_mode``. BF16 comes to
    ``prepare`` as float32, BYTES as an array of bytes objects.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    prepare: Callable[[Mapping[str, np.ndarray[Any, Any]]], tuple[Any, ...]] | None = None
    """Arrays by input name -> the positional arguments of the model.

    A ``ValueError`` tells the one who asked that these inputs cannot be used.
    """
    finish: Callable[[Any], Mapping[str, Any]] | None = None
    """What the model returned -> tensors or arrays by output name; of BYTES, bytes or str."""
    media: Mapping[str, Callable[[bytes], Mapping[str, np.ndarray[Any, Any]]]] = field(
        default_factory=dict
    )
    """Content type, as in ``image/png`` -> what makes all inputs of a file of that type.

    They run beside the model, in another thread, one at a time. A ``ValueError`` tells the one who
    asked what is wrong with the file.
    """
    class_names: tuple[str, ...] = ()
    """What the model's classes are called, by number; for who shows its answers."""

    def __post_init__(self) -> None:
        for tensors, function, name in (
            (self.inputs, self.prepare, "prepare"),
            (self.outputs, self.finish, "finish"),
        ):
            texts = [tensor.name for tensor in tensors if tensor.datatype == "BYTES"]
            if texts and function is None:
                raise JobError(f"tensor {texts[0]}: torch has no BYTES; give TensorModel a {name}")
        for kind in self.media:
            if kind in _OF_TENSORS or not _CONTENT_TYPE.fullmatch(kind):
                raise JobError(
                    f"media: {kind!r} is not the content type of a kind of file: name it "
                    "in lower case and without parameters, as in image/png"
                )


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model that maps token ids (B, T) int64 to logits (B, T, V) of each next token.

    ``encode`` may return no token for the empty text; ``decode`` takes any list of token ids below
    V, also one that is cut in the middle of a character, and never raises.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    context_tokens: int
    """The largest T. Of longer texts the model sees the end; one that outgrows it while it is
    generated goes on from its newest half."""
    sample_prompt: str = ""
    """Completed by the first and the last release of a run, to show what it has learned."""
    cache: Callable[[Any], Any] | None = None
    """``cache(model)`` makes an empty cache of keys and values, for one text.

    The model is then called as ``model(tokens, cache)`` with only the tokens (1, T) that are not in
    the cache yet, adds them, and returns their logits. Without it, the model gets the whole text
    for each token.
    """
    chat: Callable[[Sequence[Mapping[str, str]]], str] | None = None
    """Messages with ``role``, ``content`` and perhaps ``name`` -> the text to go on from.

    Runs in the thread that runs the model. A ``ValueError`` tells the one who asked that these
    messages cannot be used. Without it, chat completions are refused.
    """
    chat_stop: Sequence[str] = ()
    """In a chat, an answer ends before the first of these too."""

    def __post_init__(self) -> None:
        if isinstance(self.chat_stop, str) or "" in self.chat_stop:
            raise JobError(f"chat_stop: {self.chat_stop!r} must be texts, none of them empty")
