"""Every error a user can meet, as one tree.

FstError                     base: the message says what to do
|-- ConfigError              params.yaml or a flag: names the key's path
|-- DataError                a problem file: names file, line and remedy
|   `-- UnknownDomain        a domain spec nobody can read
|-- VerifierError            an unknown verifier, or one whose arguments are off
|-- ModelError               a model that cannot be loaded or has no chat template
|-- EngineError              whoever samples answers died, or cannot be reached (exit code 3)
|-- ReflectorError           the reflection model failed for good (after its retries)
|-- RecordError              a run folder that is damaged, taken or of another configuration
|-- MissingDependency        an optional package that this command needs
|-- ValidationFailed         data that broke a critical expectation (exit code 5)
|-- GateRefused              a candidate that may not replace production (exit code 5)
|-- ChannelMoved             somebody else released meanwhile (exit code 6)
|-- StoreError               the store cannot be reached or cannot do what is needed (exit code 3)
`-- IntegrityError           bytes that are not what their checksum or signature says (exit code 7)
"""

from __future__ import annotations


class FstError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the CLI exits with."""

    exit_code = 2


class ConfigError(FstError):
    """A parameter is unknown, missing or out of range; the message starts with its key path."""


class DataError(FstError):
    """A problem file or domain cannot be used; the message names file, line and remedy."""


class UnknownDomain(DataError):
    """A domain spec that no domain family can read."""


class VerifierError(FstError):
    """A verifier that does not exist or whose arguments are wrong."""


class ModelError(FstError):
    """A model that cannot be loaded, or that lacks what training needs."""


class EngineError(FstError):
    """The engine that samples answers died, is out of memory, or does not reach its server."""

    exit_code = 3


class ReflectorError(FstError):
    """The reflection model could not answer after its retries."""

    exit_code = 3


class RecordError(FstError):
    """A run folder that is damaged, locked by a living process, or made with other parameters."""


class MissingDependency(FstError):
    """An optional package that this command needs is not installed."""


class ValidationFailed(FstError):
    """Data broke a critical expectation; the message is a table of the offending rows and names the page."""

    exit_code = 5


class GateRefused(FstError):
    """A candidate may not replace production; the message says which rule and by how much."""

    exit_code = 5


class ChannelMoved(FstError):
    """A channel points elsewhere than when this release was decided; nothing was changed."""

    exit_code = 6


class StoreError(FstError):
    """The store of releases cannot be reached, refuses, or cannot do what is needed."""

    exit_code = 3


class IntegrityError(FstError):
    """Bytes are not what their checksum or signature says; nothing of them is used."""

    exit_code = 7
