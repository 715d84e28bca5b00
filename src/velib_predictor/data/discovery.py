"""What a discovery document lists: a system's feeds (gbfs.json), or several systems (GBFS 3 manifest.json)."""

import re
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from velib_predictor.data.fields import described, identifier, parse_json, sequence, without_query
from velib_predictor.data.quirks import unwrapped
from velib_predictor.data.raw import DISCOVERY, STATUS, DecodeError

LANGUAGES = ("fr", "en")
"""Preferred where a feed is offered in several (GBFS 1 and 2); the counts are the same in all."""
NEWEST = (3, 1)
"""The newest GBFS version that the decoders know."""


def read_discovery(body: bytes) -> dict[str, Any]:
    """The `data` of a discovery document.

    Raises:
        DecodeError: it is no JSON, or has no data.
    """
    document = unwrapped(parse_json(body, DISCOVERY))
    data = unwrapped(document.get("data")) if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise DecodeError(f"{DISCOVERY} holds no object under data: {described(body)}")
    return data


def dataset_address(data: dict[str, Any], base: str, system_id: str) -> str | None:
    """From a manifest, the address of the system's gbfs.json in the newest version known; None: it is no manifest.

    Raises:
        DecodeError: none of several systems has that id, or none of its versions is known.
    """
    if not isinstance(data.get("datasets"), list):
        return None
    datasets = [entry for entry in data["datasets"] if isinstance(entry, dict)]
    chosen = [entry for entry in datasets if entry.get("system_id") == system_id] or datasets
    if len(chosen) != 1:
        names = ", ".join(sorted(str(entry.get("system_id")) for entry in datasets)) or "none"
        raise DecodeError(f"the manifest at {without_query(base)} has no system {system_id!r}; it lists: {names}")
    versions = {
        _version(entry.get("version")): entry["url"]
        for entry in sequence(chosen[0].get("versions"))
        if isinstance(entry, dict) and isinstance(entry.get("url"), str)
    }
    known = [version for version in versions if version is not None and version <= NEWEST]
    if not known:
        newest = ".".join(map(str, NEWEST))
        raise DecodeError(f"the manifest at {without_query(base)} lists no GBFS version up to {newest}")
    return resolved(versions[max(known)], base)


def _version(text: Any) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None


def listed_feeds(data: dict[str, Any], base: str) -> dict[str, str]:
    """Address of each feed by its name, with the language layer of GBFS 1 and 2 or without (3).

    Of several languages the first preferred one that lists a station status is taken, else any that does.
    """
    offers = [_feeds(data, base)] if isinstance(data.get("feeds"), list) else []
    languages = sorted(data, key=lambda name: LANGUAGES.index(name) if name in LANGUAGES else len(LANGUAGES))
    offers += [_feeds(data[language], base) for language in languages]
    return next((offer for offer in offers if STATUS in offer), next((offer for offer in offers if offer), {}))


def _feeds(layer: Any, base: str) -> dict[str, str]:
    feeds = sequence(layer.get("feeds")) if isinstance(layer, dict) else []
    return {
        name.removesuffix(".json"): resolved(entry["url"], base)
        for entry in feeds
        if isinstance(entry, dict) and isinstance(entry.get("url"), str) and (name := identifier(entry.get("name")))
    }


def resolved(url: str, base: str) -> str:
    """A listed address in full. One with http inside a document that came by https is asked for by https."""
    try:
        full = urlsplit(urljoin(base, url.strip()))
        if full.scheme == "http" and base.startswith("https:"):
            full = full._replace(scheme="https", netloc=full.netloc.removesuffix(":80"))
        return urlunsplit(full)
    except ValueError:  # such as an unclosed bracket in the host
        return url


def siblings(base: str, name: str) -> tuple[str, str]:
    """Where a feed would stand beside its discovery document."""
    return resolved(f"{name}.json", base), resolved(name, base)
