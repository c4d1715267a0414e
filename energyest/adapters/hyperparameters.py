"""Selection of the hyperparameters that a trace records: an allow list, not a block list.

Traces are shared with others. Numbers and short plain words distinguish runs; addresses, paths,
long texts and keys do not, and may be private.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

# A table of runs needs names and numbers, not whole configurations.
_MOST, _MOST_VISITED, _MOST_DEPTH = 100, 10_000, 5
# Values that a user asks for by name may be longer.
_MOST_CHARACTERS, _MOST_ASKED_CHARACTERS, _MOST_ITEMS = 40, 1000, 100

_WORD = re.compile(r"[^\W_]+(?:(?:[-_+ ]|\.(?=\d))[^\W_]+)*\+?")
_NAME = re.compile(r"[^\W_]+(?:[-_+ .][^\W_]+)*|_*[^\W_]+(?:_+[^\W_]+)*_*")
_MOST_NAME_CHARACTERS = 200
# The words of a name: split at non-letters and at capitals.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
# Values of these names are never recorded. "max_tokens" is a number of tokens, not a secret.
_SECRET = re.compile(
    r".*(?:passw|passphrase|secret|credential|apikey|crypt).*|.*(?:token|pwd|dsn)|"
    r".*(?<!mon)(?<!tur)key(?:file|pair|ring)?|(?:o|un)?auth(?!ors?$|ored).*|"
    r"(?:db|user|my|root|admin|sql|smtp|ftp)?pass|pw|pin|pat|otp|jwt|sas|sid|cookies?|sessions?|"
    r"bearer|private|signature|salt|nonce|[cx]srf|webhooks?|certs?|certificates?|licen[cs]es?|"
    r"logins?|conn|connections?|access|wallet|mnemonic"
)
# Text of these names is not recorded: it reveals locations or identities.
_PLACE = re.compile(
    r"tokens|keys|ur[il]s?|.*(?:path|dir|directory|folder|file|filename)s?|root|home|host.*|"
    r"server|endpoint|address|ip|bucket|proxy|user.*|e?mails?|phone|account|owner|author|team|entity|"
    r"prompt"
)
# Text that looks like words but starts like a key, or has the form of a key or address.
_KEY = re.compile(
    r"(?:sk|pk|rk|hf|gh[opsur]|github|glpat|xox\w|npm|pypi|dckr)[-_].*|(?:Bearer|Basic) .*|"
    r"(?:AKIA|ASIA|AIza|eyJ|ya29).*|.*\d{9}.*|.*\d+\.\d+\.\d+\.\d+.*|"
    r"(?:[A-Z\d]{4,}-){2,}[A-Z\d]{4,}|.*[\da-fA-F]{8}(?:-[\da-fA-F]{4}){3}-[\da-fA-F]{12}.*",
    re.DOTALL,
)
_KINDS = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


def plain_hyperparameters(
    read: Callable[[], Any], asked: Collection[str] = ()
) -> dict[str, bool | int | float | str | list[Any]]:
    """Select the hyperparameters that may be recorded, to distinguish runs.

    These are numbers, booleans, and texts of a few short words. Nested values have dotted names,
    such as `optimizer.lr`. Possible secrets (judged by name and form), addresses, paths and longer
    texts are left out. References and interpolations are not resolved.

    Args:
        read: returns the user's mapping; exceptions are suppressed.
        asked: names of values or mappings that the user wants to record in any case.
    """
    known: dict[str, Any] = {}
    try:
        every = _flat(read(), "", 0)
        for name, value in itertools.islice(every, _MOST_VISITED):
            wanted = any(name == one or name.startswith(f"{one}.") for one in asked)
            found = _attempt(_asked if wanted else _allowed, name, value)
            if found is not None:
                known[name] = found
            if len(known) == _MOST:
                break
    except Exception:
        pass  # the training must not end because of it
    return known


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function; None if it raises, so that one value does not cost the others."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _flat(values: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings into names and values; skip keys that are not text or numbers."""
    for key, value in _items(values):
        own = _attempt(_name, key)
        if own is None:
            continue
        name = prefix + own
        if _attempt(_is_mapping, value):
            if depth < _MOST_DEPTH:
                yield from _flat(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _name(key: Any) -> str | None:
    if isinstance(key, int):
        return int.__repr__(key)
    return str.__str__(key) if isinstance(key, str) else None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping | Namespace)


def _items(values: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a mapping, unresolved."""
    omegaconf: Any = sys.modules.get("omegaconf")
    if omegaconf is not None and isinstance(values, omegaconf.DictConfig):
        # Otherwise `${oc.env:TOKEN}` would be replaced by its value.
        to_plain = functools.partial(omegaconf.OmegaConf.to_container, resolve=False)
        values = _attempt(to_plain, values)
    if isinstance(values, Namespace):
        values = vars(values)
    if isinstance(values, dict):
        yield from dict.items(values)  # bypasses overrides in a user's class
    elif isinstance(values, Mapping):
        keys = iter(values)
        # A lazy mapping may fail to return a value or the next key.
        while (key := _attempt(next, keys)) is not None:
            yield key, _attempt(values.__getitem__, key)


def _allowed(name: str, value: Any) -> bool | int | float | str | None:
    """The value to record if the user did not ask for it; None if it may not be recorded."""
    if len(name) > _MOST_NAME_CHARACTERS:
        return None
    parts = name.split(".")
    words = [word.lower() for part in parts for word in _PARTS.findall(part)]
    is_plain = all(map(_NAME.fullmatch, parts)) and not any(map(_looks_like_key, (name, *parts)))
    if not is_plain or any(map(_SECRET.fullmatch, words)) or "apikey" in "".join(words):
        return None
    found = _scalar(value)
    if isinstance(found, str) and not (
        len(found) <= _MOST_CHARACTERS
        and _WORD.fullmatch(found)
        and not _looks_like_key(found)
        and not any(map(_PLACE.fullmatch, words))
    ):
        return None
    return found


def _looks_like_key(text: str) -> bool:
    return bool(_KEY.fullmatch(text)) or any(map(_looks_random, re.findall(r"[^\W_]+", text)))


def _looks_random(word: str) -> bool:
    """Whether lower case, capitals and digits mix as in keys, and not as in words.

    It detects nine in ten strings of random letters and digits, and a few names, such as
    MobileNetV3Large100, which users have to ask for.
    """
    kinds = _KINDS.findall(word)
    changes, numbers = (len(kinds) - 1) / len(word), sum(kind.isdigit() for kind in kinds)
    return (
        (len(word) >= 12 and changes > 0.3)
        or (len(word) >= 16 and (changes > 0.2 or numbers > 1))
        or len(word) > 30
    )


def _asked(_: str, value: Any) -> bool | int | float | str | list[Any] | None:
    """The value to record if the user asks for it; None if it cannot be recorded."""
    if isinstance(value, list | tuple):
        items = [_scalar(item) for item in value[:_MOST_ITEMS]]
        return None if len(value) > _MOST_ITEMS or None in items else items
    found = _scalar(value)
    return None if isinstance(found, str) and len(found) > _MOST_ASKED_CHARACTERS else found


def _scalar(value: Any) -> bool | int | float | str | None:
    """A value as a built-in type, bypassing overrides in a user's class; None for other types."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__add__(value, 0)
        return number if abs(number) < 2**63 else None  # fits into the integers of tables
    if isinstance(value, float):
        return float.__add__(value, 0.0) if math.isfinite(value) else None
    return str.__str__(value) if isinstance(value, str) else None
