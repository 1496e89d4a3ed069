"Shared by all tests: the folder of real recordings, where there is one."
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    "Folder of recorded Tardis CSV files; the test skips where LOBRESEARCH_REAL_DATA is unset"
    path = os.environ.get("LOBRESEARCH_REAL_DATA")
    if not path: pytest.skip("set LOBRESEARCH_REAL_DATA to a folder of Tardis CSV files")
    assert Path(path).is_dir(), f"LOBRESEARCH_REAL_DATA is {path}, which is not a folder"
    return Path(path)
