"""The Python API: its names, and the deprecated module of 0.1.0."""

from __future__ import annotations

import pytest

import semiseg
from semiseg import api


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(semiseg, name) is not None for name in semiseg.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = semiseg.trian


def test_the_module_of_0_1_0_still_works_with_a_warning() -> None:
    for name in api.__all__:
        with pytest.warns(DeprecationWarning, match=r"semiseg\.api is deprecated\. Use semiseg"):
            assert callable(getattr(api, name)), name
    with pytest.warns(DeprecationWarning):
        assert api.train is semiseg.train
