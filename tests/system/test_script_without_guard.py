"""A script that trains with workers needs no ``if __name__ == "__main__":`` guard, whatever the start method."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import semiseg
from semiseg.data.stream.main_module import require_guard

SCRIPT = """
import multiprocessing
import sys

import semiseg

multiprocessing.set_start_method(sys.argv[1], force=True)
small = {"encoder": "test_resnet", "weights": "none", "crop_size": 48, "batch_size": 2, "accelerator": "cpu"}
run = semiseg.train("shapes:images=4,val=1,test=1,size=48", "supervised", sys.argv[2], steps=2, workers=1, **small)
mask = semiseg.load(run, accelerator="cpu")(sys.argv[3]).mask
print("size", tuple(mask.shape))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.long)])
def test_readme_snippet_runs_once_as_a_script(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    image = next((tiny_folder / "images").iterdir())
    command = [sys.executable, str(tmp_path / "script.py"), method, str(tmp_path / "run"), str(image)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "size (48, 48)" and done.stdout.count("size (") == 1
    assert "Traceback" not in done.stderr


def test_training_in_a_process_that_imports_its_parents_script_names_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit, match=r'^semiseg: .*below `if __name__ == "__main__":`\.$'):
        semiseg.train("shapes:images=4,val=1,test=1,size=48", "supervised", tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_script_that_defines_its_data_set_needs_a_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("import semiseg\n")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    own = type("Own", (), {"__module__": "__main__"})
    with pytest.raises(SystemExit, match=r'^semiseg: .*script\.py, which defines Own\. .*`if __name__ == "__main__":`'):
        require_guard(own)
    require_guard(Path)  # of another module
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")
    require_guard(own)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    script.write_text('if __name__ == "__main__":\n    pass\n')
    require_guard(own)
