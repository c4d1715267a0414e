"""What the name of a metric implies: whether higher is better, and whether it is a share."""

from __future__ import annotations

import re
from typing import Literal

from energyest.errors import RunsError

Mode = Literal["max", "min"]
# Names of metrics, matched against single words of a column's name.
_MORE_IS_BETTER = re.compile(
    r"acc\w*|f\d?|fscore|auc|auroc|auprc|roc|ap|map|mrr|ndcg|hits?|precision|recall|sensitivity|"
    r"specificity|iou|miou|jaccard|dice|bleu|rouge\w?|meteor|r|psnr|ssim|kappa|mcc|corr\w*|pearson|"
    r"spearman|top|exact|em|score|quality|reward|return|success|fitness"
)
_LESS_IS_BETTER = re.compile(
    r"loss|err\w*|mse|rmse|rmsle|msle|mae|mape|smape|nll|perplexity|ppl|bpc|bpb|bpd|wer|cer|ter|eer|"
    r"ece|fid|kid|crps|brier|lpips|kl|divergence|distance|deviation|regret|fpr|fnr"
)
_SHARE = re.compile(r"acc\w*|f\d|auc|auroc|precision|recall|iou|miou|dice|map|top|quality")


def check_mode(mode: Mode | None) -> None:
    """Raise an error for an unknown mode.

    Raises:
        RunsError: `mode` is neither "max", "min" nor None.
    """
    if mode not in ("max", "min", None):
        raise RunsError(f"mode={mode!r} must be 'max' or 'min'")


def direction(name: str, mode: Mode | None) -> Mode:
    """Whether a higher or lower metric is better, from `mode` or else from its name.

    Raises:
        RunsError: as `check_mode`; or `mode` is None and the name is ambiguous.
    """
    check_mode(mode)
    if mode is not None:
        return mode
    more = any(map(_MORE_IS_BETTER.fullmatch, _words(name)))
    less = any(map(_LESS_IS_BETTER.fullmatch, _words(name)))
    if more == less:
        raise RunsError(
            f"the name {name!r} does not show whether a higher value is better: pass mode='max' or "
            "mode='min'"
        )
    return "max" if more else "min"


def is_share(name: str) -> bool:
    """Whether a metric with this name lies between 0 and 1, or 0 and 100 %."""
    return any(map(_SHARE.fullmatch, _words(name)))


def _words(name: str) -> list[str]:
    """The words of a name in lower case: `val_AccTop5` gives val, acc, acctop5, top5, top."""
    whole = re.split(r"[^A-Za-z0-9]+", name)
    parts = [
        word for part in whole for word in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*", part)
    ]
    words = [word.lower() for word in (*whole, *parts)]
    return [form for word in words for form in (word, word.rstrip("0123456789")) if form]
