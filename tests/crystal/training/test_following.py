"""Settings that nobody fixed follow the data; those that somebody did, do not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from crystal.data.dataset import Instance, Record
from crystal.training.config import TrainConfig, override
from crystal.training.following import FEWEST, MOST, MOST_SLOTS, fixed_by, follow, in_words, views_of_all


def records(count: int, objects: int = 5, side: float = 64) -> list[Record]:
    instances = [Instance(1, (9.0, 9.0, 9.0 + side, 9.0 + side), [], False, k) for k in range(objects)]
    return [Record(k, Path("a.png"), "a.png", 1024, 1280, tuple(instances)) for k in range(count)]


def test_views_are_the_mean_of_zooms_drawn_on_a_logarithmic_scale():
    drawn = 3 ** np.random.default_rng(0).random(100_000)
    assert views_of_all(records(7), (1.0, 3.0)) == pytest.approx(7 * (drawn**2).mean(), rel=0.01)


def test_four_times_the_images_are_twice_the_steps():
    few, many = (follow(TrainConfig.tiny(), records(n), ()) for n in (50, 200))
    assert many.steps == pytest.approx(2 * few.steps, abs=1)
    assert few.model.image.zooms == many.model.image.zooms == (1.0, 2.12)
    assert [c.warmup for c in (few, many)] == [few.steps // 10, 100]
    assert few.validate_every == -(-few.steps // 4)
    assert follow(TrainConfig.tiny(), records(1), ()).steps == FEWEST
    assert follow(TrainConfig.tiny().with_steps(MOST), records(1000), ()).steps == MOST


@pytest.mark.parametrize(("objects", "slots"), [(0, 16), (5, 16), (17, 32), (475, MOST_SLOTS)])
def test_slots_hold_the_fullest_image(objects, slots):
    assert follow(TrainConfig.tiny(), [*records(3), *records(1, objects)], ()).slots == max(slots, 16)


def test_what_is_fixed_stays():
    sets = ["slots=7", "warmup=3", "validate_every=11", "image.zooms=(1, 5)", "phases.0.steps=90"]
    config = follow(override(TrainConfig.tiny(), sets), records(100), fixed_by(sets))
    assert (config.slots, config.warmup, config.validate_every, config.steps) == (7, 3, 11, 90)
    assert config.model.image.zooms == (1.0, 5.0)
    assert fixed_by(["phases.0.learning_rate=3e-4"]) == {"phases"}, "the steps go on following the data"
    assert "steps" in fixed_by(["phases=((...),)"])
    steps = follow(TrainConfig.tiny().with_steps(50), records(100), fixed_by((), 50))
    assert (steps.steps, steps.warmup, steps.validate_every) == (50, 5, 13)


def test_the_papers_preset_shows_whole_images():
    config = follow(TrainConfig.paper(), records(1000), ())
    assert config.model.image.zooms == (1.0, 1.0)
    assert (config.steps, config.slots) == (16_000, 100)
    assert [phase.steps for phase in config.phases] == [4000, 8000, 4000]
    assert "whole images at 512 x 512 pixels" in in_words(config)
    none = dataclasses.replace(config, validate_every=0)
    assert follow(none, records(10), ()).validate_every == 0
