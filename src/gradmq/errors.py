"""Every error that gradmq raises on purpose.

GradmqError
├── SettingsError           a setting, file or argument the user gave is wrong
├── JobError                a job's file, data or callables are wrong
├── RemoteProtocolError     a peer sent something the wire standard does not allow
│   └── WireVersionMismatch  … and speaks another version of it altogether
├── LayoutMismatch          this model's tensors are not the run's
├── JoinRefused             the broker refused this member, with its reason
├── Fenced                  this session has ended: its lease ran out or its name was taken over
├── WaitTimeout             a wait passed its deadline; says for whom it waited
│   ├── BrokerAway          … for the broker
│   ├── ShardAway           … for a shard
│   └── DrainTimeout        … for verdicts; ``.unanswered`` lists their seqs
├── Closed                  the object was closed, or belongs to a forked parent
├── CheckpointError         a checkpoint is missing, damaged or of another layout
├── JournalError            a journal is damaged, of another run, or cannot be written
└── RoleFailed              a process started by gradmq ended with an error
"""

from __future__ import annotations

from collections.abc import Sequence


class GradmqError(Exception):
    """Base of all errors of gradmq; its text is one line: what was wrong, and what to do."""


class SettingsError(GradmqError):
    """A setting, a file or an argument given by the user is wrong."""


class JobError(GradmqError):
    """A job's file, data or callables are wrong."""


class RemoteProtocolError(GradmqError):
    """A peer sent something that the wire standard does not allow."""


class WireVersionMismatch(RemoteProtocolError):
    """The peer speaks another wire version; both sides must run the same release."""


class LayoutMismatch(GradmqError):
    """The tensors of this model are not those of the run."""


class JoinRefused(GradmqError):
    """The broker refused this member; the text is its reason."""


class Fenced(GradmqError):
    """This session has ended for good; the worker joins again as a new one."""


class WaitTimeout(GradmqError):
    """A wait passed its deadline; the text names who was waited for."""


class BrokerAway(WaitTimeout):
    """The broker did not answer within the deadline."""


class ShardAway(WaitTimeout):
    """A shard did not answer within the deadline."""


class DrainTimeout(WaitTimeout):
    """Verdicts were still missing when the deadline passed."""

    def __init__(self, text: str, unanswered: Sequence[int]) -> None:
        super().__init__(text)
        self.unanswered: tuple[int, ...] = tuple(unanswered)


class Closed(GradmqError):
    """The object was closed, or was inherited through fork and belongs to the parent."""


class CheckpointError(GradmqError):
    """A checkpoint is missing, damaged, or of another layout."""


class JournalError(GradmqError):
    """A journal is damaged, of another run or shard, or cannot be written."""


class RoleFailed(GradmqError):
    """A process that gradmq started ended with an error."""
