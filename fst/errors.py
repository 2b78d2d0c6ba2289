"""The errors that are raised on purpose, as one tree. Those that several rooms share are here, the others in the file
that is named. Each message says what to do.

FstError                     base of all
|-- ConfigError              params.yaml or a flag: names the key's path
|-- DataError                a problem file: names file, line and remedy
|   `-- UnknownDomain        a domain spec that no family reads
|-- VerifierError            an unknown verifier, or one with wrong arguments
|-- ModelError               a model or adapter that cannot be loaded, or has no chat template
|-- EngineError              the engine died or cannot be reached (exit code 3)
|-- ReflectorError           the reflection model failed, after its retries (exit code 3)
|-- NothingLearned           a run that ended as it began, because something went wrong in it (exit code 8)
|-- RecordError              a run folder that is damaged, in use, or made with other parameters
|-- MissingDependency        an optional package that this command needs
|-- ValidationFailed         data that broke a critical expectation (exit code 5)
|-- GateRefused              a candidate that may not replace production (exit code 5)
|-- ChannelMoved             another release came first (exit code 6)
|-- StoreError               the store cannot be reached or cannot do what is needed (exit code 3)
|-- IntegrityError           bytes that do not match their checksum or signature (exit code 7)
|-- RanksDisagree            fst/method/run/ranks.py: processes of one run differ (exit code 3)
|-- NotReproduced            fst/release/reproduce.py: a stage failed on the way (exit code 3)
|-- ClaimsError              fst/claims/run.py: a piece of work did not end (exit code 3)
|-- WorkerDied               pipelines/worker.py: a flow's child process died or hung (exit code 3)
|-- GraphBusy                pipelines/graph.py: another process holds DVC's lock (exit code 3)
|-- NotReady                 pipelines/background.py: a process started beside this one ended (exit code 3)
|-- NotRecovered             pipelines/live.py: the closed loop ended without recovery (exit code 9)
`-- BenchFailed              pipelines/overhead.py: one side of the comparison failed
"""

from __future__ import annotations


class FstError(Exception):
    """Base of all errors raised on purpose. `exit_code` is the status that the command line exits with."""

    exit_code = 2


class ConfigError(FstError):
    """A parameter is unknown, missing or out of range; the message starts with its key path."""


class DataError(FstError):
    """A problem file or domain cannot be used; the message names file, line and remedy."""


class UnknownDomain(DataError):
    """A domain spec that no domain family reads."""


class VerifierError(FstError):
    """A verifier does not exist, or its arguments are wrong."""


class ModelError(FstError):
    """A model or adapter cannot be loaded, or lacks something that training needs."""


class EngineError(FstError):
    """The engine that samples answers died, is out of memory, or cannot reach its server."""

    exit_code = 3


class ReflectorError(FstError):
    """The reflection model gave no answer, after its retries."""

    exit_code = 3


class NothingLearned(FstError):
    """A run came to its end, and neither its weights nor its prompts learned anything; the message says why."""

    exit_code = 8


class RecordError(FstError):
    """A run folder is damaged, locked by a living process, or made with other parameters."""


class MissingDependency(FstError):
    """An optional package that the command needs is not installed."""


class ValidationFailed(FstError):
    """Data broke a critical expectation; the message is a table of the offending rows and names the page."""

    exit_code = 5


class GateRefused(FstError):
    """A candidate may not replace production; the message says which rule and by how much."""

    exit_code = 5


class ChannelMoved(FstError):
    """A channel moved after this release was decided; nothing was changed."""

    exit_code = 6


class StoreError(FstError):
    """The store of releases cannot be reached, refuses a request, or cannot do what is needed."""

    exit_code = 3


class IntegrityError(FstError):
    """Bytes do not match their checksum or signature; none of them are used."""

    exit_code = 7
