"""The published definition of the corruptions, run in an environment of its own.

`corruption_fidelity.py` and `bench_corruptions.py` start this file with the Python of a second
environment that has numpy, scipy, opencv-python-headless, scikit-image, Pillow, setuptools < 81,
imagecorruptions==1.1.2 and, with --no-deps, imagenet_c==0.0.3. It imports nothing of robustcore.

imagecorruptions as released fails in glass_blur and gaussian_blur (skimage has no `multichannel`
any more) and in fog (numpy has no `float_`): both names are given back here. imagenet_c is the
authors' code, whose import needs ImageMagick: its functions alone are taken from the source, the
motion blur of ImageMagick is replaced by imagecorruptions' own, and for images of 32 pixels the
lists of parameters by those of the cifar set, 224 by 32, and frost's pictures by a fifth of them.
"""

import ast
import importlib.metadata
import io
import json
import sys
import time
import types
import warnings
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
import skimage
import skimage.filters
from PIL import Image

warnings.simplefilter("ignore")


def gaussian(image, sigma, multichannel=None, **more):
    if multichannel:
        more["channel_axis"] = -1
    return skimage.filters.gaussian(image, sigma, **more)


def imagecorruptions():
    setattr(np, "float_", np.float64)  # noqa: B010 (the name itself is what the linter removes)
    old = types.ModuleType("scipy.ndimage.interpolation")
    old.map_coordinates = scipy.ndimage.map_coordinates
    sys.modules.setdefault("scipy.ndimage.interpolation", old)
    import imagecorruptions.corruptions as module

    module.gaussian = gaussian
    return module


class Motion:
    """What is used of Wand's image."""

    def __init__(self, blob):
        self.image = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)

    def motion_blur(self, radius, sigma, angle):
        moved = imagecorruptions()._motion_blur(self.image.astype(np.float32), radius, sigma, angle)
        self.image = np.clip(np.round(moved), 0, 255).astype(np.uint8)

    def make_blob(self):
        return cv2.imencode(".png", self.image)[1].tobytes()


class Given:
    """Stands for numpy.random: gives out unit draws that it was handed, in order."""

    def __init__(self, units):
        self.units, self.at = units.astype(np.float64), 0

    def _next(self, size):
        n = int(np.prod(size or 1))
        self.at += n
        if self.at > len(self.units):
            raise ValueError("the published code asks for more draws than it was handed")
        units = self.units[self.at - n : self.at]
        return units.reshape(size) if size else units[0]

    def uniform(self, low=0.0, high=1.0, size=None):
        return low + (high - low) * self._next(size)

    def normal(self, loc=0.0, scale=1.0, size=None):
        return loc + scale * self._next(size)

    def randint(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        return np.int64(np.floor(low + (high - low) * self._next(size)))


class Set(ast.NodeTransformer):
    """Puts another table of parameters and another size of image into a function."""

    def __init__(self, table, size):
        self.table, self.size = table, size

    def visit_Assign(self, node):
        self.generic_visit(node)
        listed = isinstance(node.value, ast.Subscript) and isinstance(node.value.value, ast.List)
        if self.table is not None and getattr(node.targets[0], "id", "") == "c" and listed:
            node.value.value = ast.parse(repr(self.table), mode="eval").body
        return node

    def visit_Constant(self, node):
        sizes = {224: self.size, 256: 1 << (self.size - 1).bit_length()}
        return ast.copy_location(ast.Constant(sizes.get(node.value, node.value)), node)


def published(tables, size):
    """Functions by name; tables: None, or the parameters of each to put in."""
    found = importlib.metadata.distribution("imagenet_c").locate_file("imagenet_c/corruptions.py")
    tree = ast.parse(Path(found).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if tables is not None:
        functions = [Set(tables.get(each.name), size).visit(each) for each in functions]
    folder = Path(imagecorruptions().__file__).parent
    vision = types.ModuleType("cv2")
    vision.__dict__.update(vars(cv2))
    if tables is not None:
        vision.imread = lambda name: cv2.resize(cv2.imread(name), (0, 0), fx=0.2, fy=0.2)
    fromstring = types.ModuleType("numpy")
    fromstring.__dict__.update(vars(np))
    fromstring.fromstring = np.frombuffer
    space = {
        "np": fromstring,
        "cv2": vision,
        "sk": skimage,
        "gaussian": gaussian,
        "scizoom": scipy.ndimage.zoom,
        "map_coordinates": scipy.ndimage.map_coordinates,
        "PILImage": Image,
        "BytesIO": io.BytesIO,
        "MotionImage": Motion,
        "resource_filename": lambda _, name: str(folder / name),
        "__name__": "published",
    }
    module = ast.fix_missing_locations(ast.Module(functions, []))
    exec(compile(module, str(found), "exec"), space)
    return space


def with_draws(functions, name, severity, pictures, draws):
    out, usual = [], functions["np"].random
    for each, units in zip(pictures, draws, strict=True):
        functions["np"].random = given = Given(units)
        out.append(np.uint8(functions[name](each, severity)))
        if given.at != len(units):
            raise ValueError(f"{name} drew {given.at} of {len(units)}")
    functions["np"].random = usual
    return out


def main(folder):
    """Reads images.npy and plan.json in the folder; writes NAME-SEVERITY.npy and seconds.json.

    Where there is draws-NAME-SEVERITY.npy, (N, L), image i draws its row i and nothing else.
    """
    folder = Path(folder)
    plan = json.loads((folder / "plan.json").read_text())
    images = np.load(folder / "images.npy")
    size = images.shape[1]
    package = vars(imagecorruptions())
    functions = package
    if plan["source"] == "published":
        functions = published(plan["tables"], size)
    seconds = {}
    for name in plan["names"]:
        for severity in plan["severities"]:
            np.random.seed(plan["seed"])  # noqa: NPY002 (what the peer draws from)
            pictures = [Image.fromarray(each) for each in images]
            start = time.perf_counter(), time.process_time()
            given = folder / f"draws-{name}-{severity}.npy"
            if given.exists():
                out = with_draws(functions, name, severity, pictures, np.load(given, mmap_mode="r"))
            else:
                out = [np.uint8(functions[name](each, severity)) for each in pictures]
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            seconds[f"{name}-{severity}"] = spent
            if plan["keep"]:
                np.save(folder / f"{name}-{severity}.npy", np.stack(out))
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1])
