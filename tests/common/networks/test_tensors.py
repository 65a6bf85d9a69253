"""The strict comparison before loading, and bfloat16."""

import numpy as np
import pytest

from common.errors import UserError
from common.networks.tensors import check_dtypes, listing, require_match, widen_bfloat16


def test_what_fits_is_accepted_with_and_without_counters():
    expected = {"conv.weight": (2, 3), "bn.num_batches_tracked": ()}
    require_match(expected, {"conv.weight": np.zeros((2, 3))}, "a.pth")
    require_match(
        {"conv.weight": (2, 3)}, {"conv.weight": np.zeros((2, 3)), "bn.num_batches_tracked": np.array(1)}, "a"
    )


def test_missing_surplus_and_misshapen_names_are_listed_in_one_message():
    expected = {"a.weight": (1,), "b.weight": (2,), "c.weight": (3, 4)}
    tensors = {"b.weight": np.zeros(2), "c.weight": np.zeros((5, 4)), "d.weight": np.zeros(1)}
    with pytest.raises(UserError) as raised:
        require_match(expected, tensors, "runs/best.pth")
    text = str(raised.value)
    assert text.startswith("runs/best.pth does not fit this network, nothing was loaded: ")
    assert "1 missing: a.weight; 1 surplus: d.weight; " in text
    assert "1 of another shape: c.weight [5, 4] in the file, [3, 4] in the network" in text
    assert "\n" not in text


def test_long_lists_are_cut_and_counted():
    text = listing(f"n{index}" for index in range(20))
    assert text.startswith("n0, n1, ") and text.endswith("n11 and 8 more")


def test_bfloat16_is_widened_exactly():
    values = np.array([1.0, -2.5, 3.140625, 0.0, np.inf], np.float32)
    raw = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(widen_bfloat16(raw.tobytes()), values)
    np.testing.assert_array_equal(widen_bfloat16(raw.byteswap().tobytes(), ">"), values)


def test_a_type_that_not_all_formats_hold_is_refused():
    check_dtypes({"a": np.zeros(1, np.int64)}, "x")
    with pytest.raises(UserError, match="a is complex64"):
        check_dtypes({"a": np.zeros(1, np.complex64)}, "x")
