"""Which hyperparameters of a model go into its trace: a list of what may, not of what may not.

Traces are passed on. Numbers and short plain words tell runs apart; an address, a path, a long text
or a key does not, and may be nobody else's business.
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

# A table of runs wants names and numbers, not whole configurations.
_MOST, _MOST_VISITED, _MOST_DEPTH = 100, 10_000, 5
# What a user asks for by name may be longer.
_MOST_CHARACTERS, _MOST_ASKED_CHARACTERS, _MOST_ITEMS = 40, 1000, 100

_WORD = re.compile(r"[^\W_]+(?:(?:[-_+ ]|\.(?=\d))[^\W_]+)*\+?")
_NAME = re.compile(r"[^\W_]+(?:[-_+ .][^\W_]+)*|_*[^\W_]+(?:_+[^\W_]+)*_*")
_MOST_NAME_CHARACTERS = 200
# Where a word of a name ends: at what is no letter, and at a capital.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
# Nothing of that name is written down. "max_tokens" is how many, and no secret.
_SECRET = re.compile(
    r".*(?:passw|passphrase|secret|credential|apikey|crypt).*|.*(?:token|pwd|dsn)|"
    r".*(?<!mon)(?<!tur)key(?:file|pair|ring)?|(?:o|un)?auth(?!ors?$|ored).*|"
    r"(?:db|user|my|root|admin|sql|smtp|ftp)?pass|pw|pin|pat|otp|jwt|sas|sid|cookies?|sessions?|"
    r"bearer|private|signature|salt|nonce|[cx]srf|webhooks?|certs?|certificates?|licen[cs]es?|"
    r"logins?|conn|connections?|access|wallet|mnemonic"
)
# Nor text of that name: it says where things are and who somebody is.
_PLACE = re.compile(
    r"tokens|keys|ur[il]s?|.*(?:path|dir|directory|folder|file|filename)s?|root|home|host.*|"
    r"server|endpoint|address|ip|bucket|proxy|user.*|e?mails?|phone|account|owner|author|team|entity|"
    r"prompt"
)
# Text that looks like words, but is how keys begin, or of the form of keys and addresses.
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
    """The hyperparameters that may be written down; runs are told apart by them.

    These are numbers, truth values, and text of a few short words. What lies within mappings has
    the names of all around it, as in `optimizer.lr`. Left out is all that could be a secret, by its
    name or its looks, an address, a path or longer text. Nothing is resolved, from nowhere.

    Args:
        read: gives the mapping, which is the user's: nothing that it raises is passed on.
        asked: names, also of mappings, whose values the user wants to have in any case.
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
        pass  # the training must not end over it
    return known


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives; None where it raises: one value does not cost the others."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _flat(values: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """All names and values within mappings; keys that are no text or number are left out."""
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
    """What a mapping holds, as it holds it."""
    omegaconf: Any = sys.modules.get("omegaconf")
    if omegaconf is not None and isinstance(values, omegaconf.DictConfig):
        # Else `${oc.env:TOKEN}` would become what it stands for.
        to_plain = functools.partial(omegaconf.OmegaConf.to_container, resolve=False)
        values = _attempt(to_plain, values)
    if isinstance(values, Namespace):
        values = vars(values)
    if isinstance(values, dict):
        yield from dict.items(values)  # past what a user's own class would make of them
    elif isinstance(values, Mapping):
        keys = iter(values)
        # One that is lazy may fail to give a value, or the next key.
        while (key := _attempt(next, keys)) is not None:
            yield key, _attempt(values.__getitem__, key)


def _allowed(name: str, value: Any) -> bool | int | float | str | None:
    """What may be written down without being asked for."""
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
    """Whether small letters, capitals and digits mix as they do in keys, and not in words.

    Of random letters and digits, nine in ten are found; so are a few names, such as
    MobileNetV3Large100, for which their users have to ask.
    """
    kinds = _KINDS.findall(word)
    changes, numbers = (len(kinds) - 1) / len(word), sum(kind.isdigit() for kind in kinds)
    return (
        (len(word) >= 12 and changes > 0.3)
        or (len(word) >= 16 and (changes > 0.2 or numbers > 1))
        or len(word) > 30
    )


def _asked(_: str, value: Any) -> bool | int | float | str | list[Any] | None:
    """What may be written down if the user asks for it."""
    if isinstance(value, list | tuple):
        items = [_scalar(item) for item in value[:_MOST_ITEMS]]
        return None if len(value) > _MOST_ITEMS or None in items else items
    found = _scalar(value)
    return None if isinstance(found, str) and len(found) > _MOST_ASKED_CHARACTERS else found


def _scalar(value: Any) -> bool | int | float | str | None:
    """A value as Python's own, past what a user's own class would make of it; None for others."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__add__(value, 0)
        return number if abs(number) < 2**63 else None  # as tables hold them
    if isinstance(value, float):
        return float.__add__(value, 0.0) if math.isfinite(value) else None
    return str.__str__(value) if isinstance(value, str) else None
