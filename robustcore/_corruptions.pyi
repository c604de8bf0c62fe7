"""The C++ kernels of the corruptions. Tensors arrive as addresses; see corruptions/kernels.py."""

# ids, batch, sample, stream, seed
_Names = tuple[int, int, int, int, int]

def uniforms(names: _Names, elements: int, out: int, threads: int) -> None: ...
def poisson(names: _Names, elements: int, mean: int, out: int, threads: int) -> None: ...
def shuffle_order(
    names: _Names, size: tuple[int, int], reach: int, passes: int, order: int, threads: int
) -> None: ...
def taps(
    x: int,
    sizes: tuple[int, int, int, int, int],
    dy: int,
    dx: int,
    weight: int,
    mirror: bool,
    out: int,
    threads: int,
) -> None: ...
def separable(
    x: int,
    sizes: tuple[int, int, int, int, int, int, int, int],
    row_low: int,
    row_weight: int,
    column_low: int,
    column_weight: int,
    out: int,
    threads: int,
) -> None: ...
def spread(
    x: int,
    sizes: tuple[int, int, int, int, int],
    rows: int,
    columns: int,
    out: int,
    threads: int,
) -> None: ...
def wet_edges(layer: int, sizes: tuple[int, int, int], out: int, threads: int) -> None: ...
def jpeg(
    x: int, sizes: tuple[int, int, int], quality: int, add: float, out: int, threads: int
) -> None: ...
