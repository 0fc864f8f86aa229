"""A world in memory, with everything that happens to real ones; asserts of its modules say what they compared."""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("machine", "invariants", "finishing", "world")))
