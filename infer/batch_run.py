"""Runs one batch of inference requests on one release, in the model's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradmq.infer.infer_answer import InferAnswer, render_answer
from gradmq.infer.infer_request import InferRequest
from gradmq.infer.model_thread import Answered
from gradmq.infer.predict import predict
from gradmq.infer.refusal import Refused, model_failed
from gradmq.infer.serving import Holding, ServedRelease
from gradmq.infer.tensors import Array
from gradmq.serve import TensorModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and how it wants its answer."""

    wanted: InferRequest
    choose: Callable[[], Holding]
    """The release to answer from, as of now; raises ``Refused`` if there is none for it."""
    encoding: str | None
    """Compress the answer so."""
    rows: int


@dataclass(slots=True)
class BatchTimes:
    """Where the time of a batch went, in seconds, and how often the model ran for it."""

    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    executions: int = 0


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of each request, in order."""

    answers: Sequence[Answered[InferAnswer] | Refused]
    times: BatchTimes


class BatchRunner:
    """Runs batches of one model; belongs to the model's thread."""

    def __init__(self, model_name: str, spec: TensorModel, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds, the one that releases were offered by."""
        self._model_name = model_name
        self._clock = clock
        self._spec = spec
        self._datatypes = {tensor.name: tensor.datatype for tensor in spec.outputs}
        self._warned = False

    def run(self, asked: Sequence[Asked]) -> BatchOutcome:
        """Answer each request; none suffers from what another one is.

        Those that choose the same release run together; a batch on which the model fails is run
        again one by one: only who is to blame is refused.
        """
        times = BatchTimes()
        answers: dict[int, Answered[InferAnswer] | Refused] = {}
        chosen: dict[Holding, list[int]] = {}
        for index, each in enumerate(asked):
            try:
                chosen.setdefault(each.choose(), []).append(index)
            except Refused as refused:
                answers[index] = refused
        for holding, indices in chosen.items():
            found = self._answers(holding, [asked[index] for index in indices], times)
            for index, answer in zip(indices, found, strict=True):
                if isinstance(answer, InferAnswer):
                    answers[index] = Answered(answer, holding)
                else:
                    answers[index] = answer
        return BatchOutcome([answers[index] for index in range(len(asked))], times)

    def _answers(
        self, holding: Holding, asked: Sequence[Asked], times: BatchTimes
    ) -> list[InferAnswer | Refused]:
        release = holding.release
        try:
            outputs = self._predict_together(release, asked, times)
        except Refused as refused:
            _log.debug("a batch of %d is run one by one: %s", len(asked), refused)
            outputs = [self._predict_alone(release, each, times) for each in asked]
        begun = time.perf_counter()
        answers = [
            self._rendered(holding, each, found) for each, found in zip(asked, outputs, strict=True)
        ]
        times.output_s += time.perf_counter() - begun
        return answers

    def _predict_together(
        self, release: ServedRelease, asked: Sequence[Asked], times: BatchTimes
    ) -> Sequence[Mapping[str, Array] | Refused]:
        if len(asked) == 1:
            return [self._predict_alone(release, asked[0], times)]
        begun = time.perf_counter()
        inputs = {
            tensor.name: np.concatenate([each.wanted.inputs[tensor.name] for each in asked])
            for tensor in self._spec.inputs
        }
        times.input_s += time.perf_counter() - begun
        outputs = self._predict(release, inputs, times)
        ends = np.cumsum([each.rows for each in asked])
        for name, array in outputs.items():
            if len(array) != ends[-1]:
                text = f"output {name!r} has {len(array)} rows for {ends[-1]} rows of input"
                if not self._warned:
                    self._warned = True
                    _log.warning("%s: no batches of this model; leave infer.max_batch_size", text)
                raise Refused(500, text)
        pieces = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
        return [{name: pieces[name][i] for name in pieces} for i in range(len(asked))]

    def _predict_alone(
        self, release: ServedRelease, asked: Asked, times: BatchTimes
    ) -> Mapping[str, Array] | Refused:
        try:
            return self._predict(release, asked.wanted.inputs, times)
        except Refused as refused:
            return refused

    def _predict(
        self, release: ServedRelease, inputs: Mapping[str, Array], times: BatchTimes
    ) -> Mapping[str, Array]:
        begun = time.perf_counter()
        times.executions += 1
        try:
            return predict(release, self._spec, inputs)
        except Refused:
            raise
        except Exception as error:
            raise model_failed(release.number, error) from error
        finally:
            times.infer_s += time.perf_counter() - begun

    def _rendered(
        self, holding: Holding, asked: Asked, outputs: Mapping[str, Array] | Refused
    ) -> InferAnswer | Refused:
        if isinstance(outputs, Refused):
            return outputs
        wanted = asked.wanted
        try:
            answer = render_answer(
                self._model_name,
                holding.release,
                holding.age_s(self._clock()),
                wanted.id,
                wanted.outputs,
                outputs,
                self._datatypes,
            )
        except Refused as refused:
            return refused
        return answer if asked.encoding is None else answer.compressed(asked.encoding)
