"""The README's example prints what the README says, up to a model's own rounding elsewhere."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"\d+\.\d+|\d+")


def test_the_example_prints_what_it_says():
    text = README.read_text()
    code, output = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", text, re.S).groups()
    assert len(code.splitlines()) <= 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), {})
    assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", output)
    got, want = ([float(v) for v in NUMBER.findall(part)] for part in (printed.getvalue(), output))
    np.testing.assert_allclose(got, want, rtol=0.02)


def test_files_that_the_readme_names_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert link.startswith("http") or (README.parent / link).exists(), link
