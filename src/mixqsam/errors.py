"""The exceptions that mixqsam raises for reasons a user can act on.

    MixqsamError                exit code 1
    ├── InputError              exit code 2   an input cannot be used
    │   ├── ModelError                        a checkpoint is missing, unsupported, truncated or malformed
    │   ├── ImageError                        images are missing or unreadable
    │   ├── AnnotationError                   annotations, detections or prompts do not fit
    │   └── ArtifactError                     a quantized directory, analysis or allocation cannot be read
    ├── BudgetError             exit code 3   the budget cannot be met or cannot be understood
    ├── OutputError             exit code 4   a result cannot be written (full disk, permissions, in use)
    ├── NumericError            exit code 5   NaN or infinity where finite numbers are needed
    ├── HonestyError            exit code 6   a model's values do not fit its bit-widths
    ├── ParallelError           exit code 7   a group of processes is incomplete
    └── DependencyError         exit code 8   an installed package computes otherwise than mixqsam expects

A message says what happened, names the file, and says what to do.
"""


class MixqsamError(Exception):
    """Base of all errors of mixqsam."""

    exit_code = 1


class InputError(MixqsamError):
    """An input cannot be used."""

    exit_code = 2


class ModelError(InputError):
    """A checkpoint is missing, of another architecture, truncated or malformed."""


class ImageError(InputError):
    """Images are missing or unreadable."""


class AnnotationError(InputError):
    """Annotations, detections or prompts are missing, malformed or do not fit the images."""


class ArtifactError(InputError):
    """A quantized directory, an analysis or an allocation file cannot be read."""


class BudgetError(MixqsamError):
    """A budget cannot be met, or its text cannot be understood."""

    exit_code = 3


class OutputError(MixqsamError):
    """A result cannot be written."""

    exit_code = 4


class NumericError(MixqsamError):
    """NaN or infinity occurred where finite numbers are needed."""

    exit_code = 5


class HonestyError(MixqsamError):
    """A model's values do not fit its bit-widths; it must not be saved."""

    exit_code = 6


class ParallelError(MixqsamError):
    """A group has another number of processes than requested, or a process was lost."""

    exit_code = 7


class DependencyError(MixqsamError):
    """The installed version of another package computes otherwise than mixqsam expects."""

    exit_code = 8


# Maximum number of characters that a message repeats of what a user gave.
_MOST_INPUT = 200


def shortened(value: object, *, most: int = _MOST_INPUT) -> str:
    """A value's text on one line for a message, cut where it is long.

    Args:
        value: an exception, or anything that came from outside.
        most: characters.
    """
    # What is cut away anyway is not worth splitting; a text may be a whole file.
    text = str(value)[: 4 * most]
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
