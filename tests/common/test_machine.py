"""What a process held at most is its own, not what its parent held."""

from __future__ import annotations

import numpy as np

from common.machine import describe, peak_memory
from tests.processes import python


def test_peak_memory_is_that_of_this_process_alone():
    held = np.ones(200 << 20, np.uint8)
    assert peak_memory() >= held.nbytes / 2**20
    code = "from common.machine import peak_memory; print(peak_memory())"
    plain = float(python(code))
    larger = float(python(f"import numpy; held = numpy.ones(100 << 20, numpy.uint8); {code}"))
    assert plain < larger < plain + 200, "the 200 MiB above are not the child's"
    assert larger - plain > 80


def test_a_description_names_processor_and_versions():
    description = describe()
    assert description["processor"] and description["cores"] >= 1 and description["versions"]["numpy"]
