"""datatrove's filters under our steps' names."""

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

FILTERS = {
    "gopher_repetition": GopherRepetitionFilter,
    "gopher_quality": GopherQualityFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}


def make(language="en"):
    """The filters with their defaults, by name."""
    return {name: make_one(language=language) for name, make_one in FILTERS.items()}


def judge(one, text):
    """`keep` or the reason, and the text that is left. What makes datatrove fail has the error's name."""
    document = Document(text=text, id="0")
    try:
        result = one.filter(document)
    except (ArithmeticError, AssertionError, ValueError) as error:
        return type(error).__name__, text
    if result is True:
        return "keep", document.text
    return (result[1] if isinstance(result, tuple) else "dropped"), text
