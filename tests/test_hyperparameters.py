"""What of a user's hyperparameters goes into a trace: what may, and nothing else."""

from __future__ import annotations

import enum
import json
import sys
import types
from argparse import Namespace
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from energyest import EnergyMonitor
from energyest.adapters.hyperparameters import plain_hyperparameters
from energyest.errors import ConfigurationError
from tests.support.cost import costs_at_most
from tests.support.each import for_each


def kept(values: Any, *asked: str) -> dict[str, Any]:
    found = plain_hyperparameters(lambda: values, asked)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


WORDS = (
    *("adam", "AdamW", "sgd", "cosine", "cosine_annealing", "OneCycleLR", "ReduceLROnPlateau"),
    *("CosineAnnealingWarmRestarts", "resnet18", "vit_base_patch16_224", "ResNeXt50", "bf16-mixed"),
    *("16-mixed", "imagenet-1k", "CIFAR100", "gpt2", "GPT-2 medium", "v1.5", "1e-3", "true", "max"),
    *(
        "swin_v2_b",
        "DDP",
        "two words",
        "three plain words",
        "日本",
        "Größe",
        "llama 7b",
        "C",
        "8x7b",
    ),
)


@pytest.mark.parametrize("word", WORDS)
def test_words(word: str) -> None:
    assert kept({"arch": word}) == {"arch": word}


LONG = "a b c d e f g h i j k l m n o p q r s t u v w"
TEXTS = (
    # Addresses and paths.
    *("https://a.example/b?c=d", "http://user:pw@host", "s3://bucket/key", "host:5432", "//host/x"),
    *("postgresql://me:pw@db/x", "me@example.com", "10.0.0.1", "example.com", "localhost:80"),
    *("/home/me/data", "data/train", "..", "./x", "~", "~/x", "C:\\Users\\me", "config.yaml"),
    *("model.ckpt", "train.csv", "facebook/opt-125m", "file:///x", "\\\\server\\share"),
    # Long or structured.
    *("x" * 41, LONG, "a sentence.", "a, b", "k=v"),
    *('{"a": 1}', "[1, 2]", "(1, 2)", "<a>", "a\nb", "a\tb", "", " ", " a", "a ", "a  b", "a;b"),
    *("${oc.env:TOKEN}", "$TOKEN", "%TOKEN%", "{{ token }}", "!env TOKEN", "a'b", 'a"b', "\x00"),
    *("\x1b[31m", "a\u202eb", "\ud800", "---BEGIN", "-x", "=1+1", "@x", "???", "--flag"),
    # Keys.
    *("sk-abcdefghijklmnop", "sk-proj-abc", "hf_AbCdEfGhIj", "ghp_abcdef", "github_pat_11AAAA"),
    *("glpat-abcdefgh", "xoxb-123-456", "AKIAIOSFODNN7EXAMPLE", "AIzaSyD-9tSrke72PouQMnMX"),
    *("eyJhbGciOiJIUzI1NiJ9", "Bearer abcdef", "Basic dXNlcjpwYXNz", "npm_abcdefghij"),
    *("550e8400-e29b-41d4-a716-446655440000", "f3a9c04be6d1427f9a55c0de12ab34cd"),
    *("wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "q7Zp2Lm9Xw4Rt8Vb", "4111111111111111"),
    *("ABCDE-12345-FGHIJ", "deadbeef12cafe34babe56", "5f4dcc3b5aa765d61d8327deb882cf99"),
)


# Which look like the name of something within something.
PLAIN_NAMES = ("config.yaml", "model.ckpt", "train.csv", "example.com", LONG)


@for_each(TEXTS)
def test_texts_that_stay_out(text: str) -> None:
    assert kept({"before": 1, "arch": text, "after": 2}) == {"before": 1, "after": 2}


@for_each([text for text in TEXTS if text not in PLAIN_NAMES])
def test_names_that_stay_out(text: str) -> None:
    """Like the weights of a data mixture, by path."""
    assert kept({"before": 1, text: 5, "in": {text: 6, "after": 2}}) == {"before": 1, "in.after": 2}


SECRETS = (
    *(
        "token",
        "Token",
        "TOKEN",
        "api_token",
        "apiToken",
        "hfToken",
        "HFToken",
        "hub.token",
        "tok.token2",
    ),
    *("key", "api_key", "apikey", "API_KEY", "APIKey", "accessKey", "aws_access_key_id", "sshkey"),
    *("password", "passwd", "pwd", "db_pass", "dbpass", "pass", "passphrase", "userPassword1"),
    *("secret", "client_secret", "clientsecret", "secrets", "credential", "aws_credentials"),
    *("auth", "auth_header", "oauth", "authorization", "authentication", "AUTH", "basicAuth"),
    *("dsn", "sentry_dsn", "sentryDSN", "private", "private_value", "cert", "cookie", "session_id"),
    *("webhook", "bearer", "jwt", "pin", "otp", "login", "license", "conn", "connection_string"),
    *("encryption", "api-key", "api key", "token.value", "auth.retries", "secret.a.b", "x.Key.y"),
)


@for_each(SECRETS)
def test_names_of_secrets(name: str) -> None:
    for value in ("abc", 1234, 1.5, True):
        values: Any = {name: value, "lr": 0.1}
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        for one in (values, nested | {"lr": 0.1}, {"a": {"b": nested}, "lr": 0.1}):
            assert kept(one) == {"lr": 0.1}


def test_names_that_are_not_secrets() -> None:
    values = {
        "max_tokens": 5,
        "num_tokens": 7,
        "authors": 3,
        "keep": 0.5,
        "monkey": 1,
        "hotkeys": 2,
    }
    values |= {"bypass": 1, "n_passes": 3, "depth": 4, "optimizer.lr": 0.1, "tokenizer": "bpe"}
    values |= {"weight-decay": 0.1, "beta 1": 0.9, "n_layers_": 2}
    assert kept(values) == values


@pytest.mark.parametrize(
    "name",
    ["data_dir", "dataRoot", "path", "ckpt_path", "url", "host", "hostname", "user", "email"],
)
def test_names_of_places_and_people(name: str) -> None:
    assert kept({name: "plain", "lr": 1}) == {"lr": 1}
    assert kept({name: 3}) == {name: 3}


def test_nothing_else_is_plain() -> None:
    class Kind(enum.Enum):
        A = "a"

    values = {"list": [1], "tuple": (1,), "set": {1}, "none": None, "bytes": b"abc", "enum": Kind.A}
    values |= {"tensor": torch.tensor(1.0), "array": np.ones(2), "complex": 1j, "object": object()}
    values |= {
        "nan": float("nan"),
        "inf": float("inf"),
        "huge": 10**400,
        "type": int,
        "call": print,
    }
    assert kept(values) == {}


def test_numbers_become_pythons_own() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Name(str, enum.Enum):
        ADAM = "adam"

    values = {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "s": np.str_("adam")}
    found = kept(values | {"level": Level.HIGH, "name": Name.ADAM, "t": True})
    assert found == {
        "i": 3,
        "f": 0.5,
        "b": True,
        "s": "adam",
        "level": 3,
        "name": "adam",
        "t": True,
    }
    assert [type(found[name]) for name in ("i", "f", "b", "level", "name")] == [
        *(int, float, bool, int, str)
    ]


# ---------------------------------------------------------------------- what fails or is lazy


class Raising:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class RaisingFloat(float):
    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("not now")

    __repr__ = __str__ = __float__ = __int__ = __abs__ = __add__ = __hash__ = __eq__ = _fail


class RaisingText(str):
    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("not now")

    __repr__ = __str__ = __len__ = __iter__ = __getitem__ = __hash__ = _fail


class RaisingKey:
    def __str__(self) -> str:
        raise RuntimeError("not now")


def test_a_value_that_fails_does_not_lose_the_others() -> None:
    values = {
        "a": 1,
        "raising": Raising(),
        "float": RaisingFloat(2.5),
        "text": RaisingText("x"),
        "b": 2,
    }
    found = plain_hyperparameters(lambda: {**values, RaisingKey(): 3, "c": 4})
    assert {name: found[name] for name in "abc"} == {"a": 1, "b": 2, "c": 4}
    assert found.keys() <= {"a", "b", "c", "float", "text"}


class Lazy(Mapping[str, Any]):
    """Gives some of its values, and perhaps not all of its keys."""

    def __init__(self, last: str = "") -> None:
        self.last = last

    def __iter__(self) -> Iterator[str]:
        for name in ("a", "bad", "b", "c"):
            yield name
            if name == self.last:
                raise KeyError("no more")

    def __len__(self) -> int:
        raise RuntimeError("not now")

    def __getitem__(self, name: str) -> Any:
        if name == "bad":
            raise OSError("not now")
        return ord(name)


def test_containers_that_are_lazy() -> None:
    for holder in (lambda x: x, lambda x: {"in": x}, lambda x: Namespace(**{"in": x})):
        prefix = "" if holder(1) == 1 else "in."
        assert kept(holder(Lazy())) == {f"{prefix}{n}": ord(n) for n in "abc"}
        assert kept(holder(Lazy("b"))) == {f"{prefix}{n}": ord(n) for n in "ab"}
    assert kept({"in": Lazy("a"), "more": 1}) == {"in.a": ord("a"), "more": 1}


def test_a_dictionary_of_the_users_own_resolves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resolving(dict[str, Any]):
        def _fail(self, *_: Any) -> Any:
            raise AssertionError("resolved")

        __getitem__ = get = items = values = keys = __iter__ = _fail  # type: ignore[assignment]

    assert kept(Resolving(lr=0.1, more=Resolving(x=1))) == {"lr": 0.1, "more.x": 1}


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, types.MappingProxyType])
def test_kinds_of_mappings(kind: Any) -> None:
    assert kept(kind({"lr": 0.1, "more": kind({"x": 1})})) == {"lr": 0.1, "more.x": 1}
    assert kept(defaultdict(int, lr=1)) == {"lr": 1}


class FakeConfig(Mapping[str, Any]):
    """As a DictConfig of OmegaConf: reading it resolves it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> Any:
        raise AssertionError("resolved")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("resolved")

    def __len__(self) -> int:
        return len(self.raw)


@pytest.mark.parametrize("asked", [(), ("hub", "lr", "user")])
def test_interpolations_are_not_resolved(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    try:
        from omegaconf import OmegaConf

        create = OmegaConf.create
    except ImportError:
        fake: Any = types.ModuleType("omegaconf")

        class OmegaConf:  # type: ignore[no-redef]
            @staticmethod
            def to_container(config: FakeConfig, *, resolve: bool) -> dict[str, Any]:
                assert not resolve
                return config.raw

        fake.DictConfig, fake.OmegaConf = FakeConfig, OmegaConf
        monkeypatch.setitem(sys.modules, "omegaconf", fake)
        create = FakeConfig
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    raw = {"lr": 0.1, "hub": "${oc.env:MY_TOKEN}", "missing": "???", "user": {"name": "${hub}"}}
    for values in (create(raw), {"in": create(raw)}):
        found = plain_hyperparameters(lambda values=values: values, asked)
        assert "hunter2" not in str(found)
        assert 0.1 in found.values()
    assert kept(create(raw), *asked) == {"lr": 0.1} | (
        {"hub": "${oc.env:MY_TOKEN}", "user.name": "${hub}"} if asked else {}
    )


# ---------------------------------------------------------------------- how many, and what is asked


def test_hyperparameters_that_cannot_be_read() -> None:
    def fail() -> Any:
        raise OSError("not now")

    assert plain_hyperparameters(fail) == {}
    for odd in (None, 5, "text", [1], object(), Raising()):
        assert kept(odd) == {}


def test_not_more_than_a_table_has_room_for() -> None:
    with costs_at_most(0.5):
        assert len(kept({f"a{i}": i for i in range(200_000)})) == 100
    circle: dict[str, Any] = {"x": 1}
    circle["again"] = circle
    with costs_at_most(0.5):
        assert kept(circle)["again.again.x"] == 1


def test_the_costliest_text_is_quick() -> None:
    with costs_at_most(0.5):
        for text in ("a" * 10**6, "a-" * 10**5, "A1" * 10**5, "1." * 10**5, "_" * 10**6):
            assert kept({"arch": text, text: 1, "x": {text: 1}}) == {}


def test_what_is_asked_for() -> None:
    values = {"url": "https://a.b", "betas": (0.9, 0.999), "tags": ["a", "b/c"], "lr": 0.1}
    values |= {"data": {"root": "/data", "token": "abc"}, "long": "x" * 999, "longer": "x" * 1001}
    values |= {"none": None, "nested": [[1]], "many": [1] * 101, "api_token": 5}
    assert kept(values) == {"lr": 0.1}
    asked = ("url", "betas", "tags", "data", "long", "longer", "none", "nested", "many", "absent")
    assert kept(values, *asked) == {
        "url": "https://a.b",
        "betas": [0.9, 0.999],
        "tags": ["a", "b/c"],
        "lr": 0.1,
        "data.root": "/data",
        "data.token": "abc",
        "long": "x" * 999,
    }
    assert kept(values, "data.root") == {"lr": 0.1, "data.root": "/data"}


@pytest.mark.parametrize("hparams", ["name", 5, [1], None])
def test_what_is_not_a_list_of_names(hparams: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hparams=.* must be a list of names"):
        EnergyMonitor(tmp_path, hparams=hparams)
