"""Which runs a study measures."""

from __future__ import annotations

import pytest

from megaent.config.composition import compose_config
from megaent.errors import ConfigError
from megaent.scale.series import BASE, all_series, chosen_series


def test_every_series_holds_the_base_and_varies_one_thing() -> None:
    for series in all_series(2):
        assert BASE in series.points.values(), series.name
        for point in series.points.values():
            assert point.ranks % (point.tp * point.pp * point.cp) == 0
            assert point.ranks <= 2
            assert point.prompts % point.ranks == 0, "every replica gets as many"


def test_points_that_differ_have_other_names() -> None:
    points = {point for series in all_series(8) for point in series.points.values()}
    assert len({point.name for point in points}) == len(points)


@pytest.mark.full
@pytest.mark.parametrize("series", all_series(8), ids=lambda series: series.name)
def test_every_point_is_a_run_that_composes(series) -> None:
    for point in series.points.values():
        compose_config([*point.words, "model.path=somewhere"])


def test_series_are_asked_for_by_name() -> None:
    assert [series.name for series in chosen_series("tp,length", 2)] == ["tp", "length"]
    assert chosen_series("all", 2) == all_series(2)
    with pytest.raises(ConfigError, match="no series 'tq'; known are strong, weak, tp"):
        chosen_series("tp,tq", 2)
