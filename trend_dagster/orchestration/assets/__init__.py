"""The assets, in the order of computation: each file is one stretch of the way.

What belongs here: load, one call into science, what is worth looking at. What does not: any
computation longer than that (``science``) and the handling of partitions, versions and records
(``production``, ``io_managers``).
"""

import re
from collections.abc import Iterable, Sequence

import dagster as dg

from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.assets import (
    connectivity,
    delivery,
    evidence,
    features,
    individuals,
    inputs,
    parcellation,
)
from trend_dagster.orchestration.partitions import asset_key
from trend_dagster.orchestration.production import GROUPS, StoredAsset, group_in_order, stored
from trend_dagster.project.settings import nearest

_DEFINED: dict[str, dg.AssetsDefinition] = {
    stored(found).name: found
    for module in (
        inputs,
        features,
        connectivity,
        parcellation,
        individuals,
        evidence,
        delivery,
    )
    for found in vars(module).values()
    if isinstance(found, dg.AssetsDefinition)
    and stored(found).compute.__module__ == module.__name__  # not what it imports
}


def _in_order(assets: Iterable[StoredAsset], found: dict[str, StoredAsset]) -> None:
    """Each asset after what it is made from."""
    for asset in assets:
        if asset.name not in found:
            _in_order(asset.inputs, found)
            found[asset.name] = asset


ASSETS: dict[str, StoredAsset] = {}
"""Every asset that these modules define, by name, in an order of computation."""

_in_order(map(stored, _DEFINED.values()), ASSETS)

DEFINITIONS: tuple[dg.AssetsDefinition, ...] = tuple(_DEFINED[name] for name in ASSETS)
"""The same, as Dagster knows them."""


def find_asset(name: str) -> StoredAsset:
    """Find an asset by name.

    Raises
    ------
    SettingsError
        If there is none; the nearest is named.
    """
    if name not in ASSETS:
        raise SettingsError(
            f"asset {name!r}",
            expected=f"one of {', '.join(ASSETS)}",
            found="no such asset" + nearest(name, ASSETS),
            remedy="Correct the name.",
        )
    return ASSETS[name]


_GROUP = re.compile(rf"\bgroup:\"?({'|'.join(GROUPS)})\"?")
_BARE = re.compile(r'(?<![\w:"*])[A-Za-z]\w*(?![\w:"*(])')
_OPERATORS = {"and", "or", "not"}


def _names(word: str) -> list[str]:
    """Assets that a selection calls by their bare name."""
    return [n for n in _BARE.findall(_GROUP.sub("", word)) if n.lower() not in _OPERATORS]


def _selection(word: str) -> dg.AssetSelection:
    """Read a word as the page does; bare names are keys, and a comma is `or`."""
    names = _names(word)
    word = _GROUP.sub(lambda found: f'group:"{group_in_order(found.group(1))}"', word)
    word = _BARE.sub(lambda m: _key(m.group()) if m.group() in names else m.group(), word)
    return dg.AssetSelection.from_string(word.replace(",", " or "))


def _key(name: str) -> str:
    return f'key:"{asset_key(name).to_user_string()}"'


def named_assets(words: Sequence[str]) -> list[str]:
    """Find the assets that a selection names, not those that it reaches from them.

    Parameters
    ----------
    words : sequence of str
        As for `select_assets`.

    Returns
    -------
    list of str
        Such as ``embeddings`` of ``+embeddings``.
    """
    named = {name for word in words for name in re.findall(r"\w+", _GROUP.sub("", word))}
    return [name for name in ASSETS if name in named]


def select_assets(words: Sequence[str]) -> list[str]:
    """Find the assets that are meant by names or by Dagster's selection syntax.

    Parameters
    ----------
    words : sequence of str
        Such as ``embeddings``, ``+embeddings`` (and what it is made from), ``bold+`` (and what is
        made from it), ``embeddings or report``, ``group:parcellation``, ``*``.

    Returns
    -------
    list of str
        Names, in the order of computation.

    Raises
    ------
    SettingsError
        If a word selects nothing; the nearest name is named.

    Notes
    -----
    https://docs.dagster.io/guides/build/assets/asset-selection-syntax/reference
    """
    meant: set[str] = set()
    for word in words:
        for name in _names(word):
            find_asset(name)  # names the nearest
        try:
            keys = _selection(word).resolve(DEFINITIONS)
        except dg.DagsterError:
            keys = set()
        if not keys:
            raise SettingsError(
                f"selection {word!r}",
                expected="an asset, or Dagster's selection syntax: +embeddings, bold+, "
                "'embeddings or report', group:parcellation",
                found="something that selects no asset",
                remedy="Correct it.",
            )
        meant |= {key.path[-1] for key in keys}
    return [name for name in ASSETS if name in meant]
