"""PyTorch's layouts by hand: where one number of a small layer goes."""

import numpy as np
import pytest

from maskrcnn_jax.convert.pytorch import conv, linear, norm, resnet_depth, transposed_conv


def made(rules, **arrays):
    """What the rules make of arrays by name, whose shapes they must have asked for."""
    parameters = {}
    for rule in rules:
        sources = [np.asarray(arrays[name.replace(".", "_")], np.float64) for name in rule.sources]
        assert [source.shape for source in sources] == list(rule.sources.values())
        parameters |= dict(zip(rule.targets, rule.make(*sources), strict=True))
    return parameters


def test_convolution():
    weight = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    wanted = {"ours.kernel": (5, 7, 3, 2), "ours.bias": (2,)}
    ours = made(conv(wanted, "ours", "theirs"), theirs_weight=weight, theirs_bias=[8, 9])
    assert ours["ours.kernel"].shape == wanted["ours.kernel"]
    assert ours["ours.kernel"][4, 6, 2, 1] == weight[1, 2, 4, 6]
    assert ours["ours.bias"].tolist() == [8, 9]
    reversed_ = made(conv(wanted, "ours", "theirs", reverse_inputs=True), theirs_weight=weight, theirs_bias=[8, 9])
    assert reversed_["ours.kernel"][4, 6, 0, 1] == weight[1, 2, 4, 6]


def test_a_convolution_without_bias_asks_for_none():
    assert [list(r.sources) for r in conv({"ours.kernel": (1, 1, 2, 2)}, "ours", "theirs")] == [["theirs.weight"]]


def test_transposed_convolution():
    weight = np.arange(3 * 5 * 4).reshape(3, 5, 2, 2)  # [in, out, row, column]
    wanted = {"ours.kernel": (2, 2, 3, 5)}
    ours = made(transposed_conv(wanted, "ours", "theirs"), theirs_weight=weight, theirs_bias=np.zeros(5))
    assert ours["ours.kernel"][1, 0, 2, 4] == weight[2, 4, 1, 0]


def test_a_linear_layer_over_a_flattened_roi():
    """Two channels of 3x3 bins: (channel, row, column) there, (row, column, channel) here."""
    weight = np.arange(4 * 18).reshape(4, 18)
    ours = made(
        linear({"ours.kernel": (18, 4)}, "ours", "theirs", bins=3), theirs_weight=weight, theirs_bias=np.zeros(4)
    )
    assert ours["ours.kernel"][(1 * 3 + 2) * 2 + 1, 3] == weight[3, 1 * 9 + 1 * 3 + 2]


def test_rows_may_be_put_elsewhere_or_added():
    wanted = {"ours.kernel": (2, 4)}
    weight, bias = np.arange(6).reshape(3, 2), np.array([5, 6, 7])

    def first_zero(rows):
        return np.concatenate([np.zeros_like(rows[:1]), rows])

    ours = made(linear(wanted, "ours", "theirs", outputs=3, reorder=first_zero), theirs_weight=weight, theirs_bias=bias)
    assert ours["ours.kernel"].tolist() == [[0, 0, 2, 4], [0, 1, 3, 5]]
    assert ours["ours.bias"].tolist() == [0, 5, 6, 7]


def test_norm():
    ours = made(
        norm({"ours.scale": (1,)}, "ours", "theirs", 0.5),
        theirs_weight=[3],
        theirs_bias=[1],
        theirs_running_mean=[2],
        theirs_running_var=[3.5],
    )
    assert ours["ours.scale"] == pytest.approx([1.5])
    assert ours["ours.shift"] == pytest.approx([-2.0])


@pytest.mark.parametrize(("blocks", "depth"), [(6, 50), (23, 101), (36, 101), (0, 101)])
def test_depth_is_read_off_the_names(blocks, depth):
    names = {f"body.layer3.{block}.conv{i}.weight": None for block in range(blocks) for i in (1, 2, 3)}
    assert resnet_depth(names, "body.layer3.") == depth


@pytest.mark.parametrize(("blocks", "depth"), [(2, 18), (6, 34), (3, 34)])
def test_depth_of_basic_blocks(blocks, depth):
    names = {f"body.layer3.{block}.conv{i}.weight": None for block in range(blocks) for i in (1, 2)}
    assert resnet_depth(names, "body.layer3.", basic=True) == depth
