"""Names and positions that are broken or missing (cases 14, 18, 19; see `test_bad_input`)."""

from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.decoding import encode, information_of
from velib_predictor.data.information import decode_information

# -- 14, 18, 19: names and places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], None),
        (None, None),
        ("", None),
        ("   ", None),
        (17, None),
        ([{"language": "en"}], None),
        ([None, {"text": "One", "language": "en"}], "One"),
        ("One", "One"),
        ([{"text": "Eins", "language": "de"}, {"text": "Un", "language": "fr-FR"}], "Un"),
        ("  Place   Nelson\tMandela ", "Place Nelson Mandela"),
        ("A\u0000B", "AB"),
        ("Tchaïkovski", "Tchaïkovski"),
        ("TchaÃ¯kovski", "Tchaïkovski"),
        ("TchaÃƒÂ¯kovski", "Tchaïkovski"),
        ("Tcha\u00c3\u0192\u00c6\u2019\u00c3\u201a\u00c2\u00afkovski", "Tchaïkovski"),
        ("Quai de la RÃ¢pÃ©e", "Quai de la Râpée"),
        ("Rue Ã\u00a0 droite", "Rue à droite"),
        ("Port Ã\u0192  l'Anglais", "Port à l'Anglais"),
        ("Château d'Eau", "Château d'Eau"),
        ("IRMÃ LÚCIA", "IRMÃ LÚCIA"),
        ("São João", "São João"),
        ("Łódź Śródmieście", "Łódź Śródmieście"),
        ("东直门", "东直门"),
    ],
)  # fmt: skip
def test_14_19_names(given: Any, expected: str | None) -> None:
    for version in ("2.3", "3.0"):
        assert (
            information_of({**feeds.described(version, "1"), "name": given}, version=version).stations[0].name
            == expected
        )


def test_19_names_in_latin_1_are_shown_with_a_mark_and_cost_nothing_else() -> None:
    body = encode(feeds.information("2.3", [feeds.described("2.3", "1", "NAME"), feeds.described("2.3", "2", "Two")]))
    part = decode_information(body.replace(b"NAME", "Liberté".encode("latin-1")))
    assert [info.name for info in part.stations] == ["Libert\ufffd", "Two"]


def test_19_duplicate_names_are_two_stations() -> None:
    part = information_of(
        feeds.described("2.3", "1", "Place de la Gare"), feeds.described("2.3", "2", "Place de la Gare")
    )
    assert len(part.stations) == 2


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (None, None),
        (None, 2.3),
        (48.8, None),
        (0, 0),
        (0.0, 0),
        (91, 2.3),
        (48.8, 181),
        ("x", 2.3),
        (True, 2.3),
        ([], {}),
    ],
)
def test_18_a_place_that_is_none_is_unknown_in_both_numbers(lat: Any, lon: Any) -> None:
    part = information_of(*near_paris(), {**feeds.described("2.3", "x"), "lat": lat, "lon": lon})
    assert [(info.lat, info.lon) for info in part.stations if info.station_id == "x"] == [(None, None)]
    assert len(part.stations) == 6


def test_18_a_place_may_be_written_as_text() -> None:
    part = information_of({**feeds.described("2.3", "1"), "lat": "48.85", "lon": "2.35"})
    assert (part.stations[0].lat, part.stations[0].lon) == (48.85, 2.35)


def near_paris() -> list[dict[str, Any]]:
    return [feeds.described("2.3", str(n), lat=48.80 + n / 100, lon=2.30 + n / 100) for n in range(5)]


def test_18_latitude_and_longitude_that_were_exchanged_are_swapped_back() -> None:
    part = information_of(*near_paris(), feeds.described("2.3", "x", lat=2.35, lon=48.85))
    assert (part.stations[5].lat, part.stations[5].lon) == (48.85, 2.35)
    assert part.notes == ("latitude and longitude were exchanged, swapped back: 1 station (x)",)


def test_18_an_exchanged_longitude_beyond_90_is_swapped_back_too() -> None:
    tokyo = [feeds.described("2.3", str(n), lat=35.6 + n / 100, lon=139.7) for n in range(5)]
    part = information_of(*tokyo, feeds.described("2.3", "x", lat=139.7, lon=35.6))
    assert (part.stations[5].lat, part.stations[5].lon) == (35.6, 139.7)


def test_18_a_station_that_is_merely_far_away_stays_there() -> None:
    part = information_of(*near_paris(), feeds.described("2.3", "x", lat=43.3, lon=5.4))
    assert (part.stations[5].lat, part.stations[5].lon) == (43.3, 5.4)
    assert part.notes == ()
