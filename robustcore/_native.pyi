"""The compiled extension: addresses and sizes in, nothing checked but rows."""

_Sizes = tuple[int, ...]

def isas() -> list[str]: ...
def philox(counter: int, n: int, key: tuple[int, int], words: int, isa: str) -> None: ...
def perturb(
    x: int,
    rows: int,
    sigma: int,
    samples: int,
    ids: int,
    out: int,
    sizes: _Sizes,
    channels_last: bool,
    seed: int,
    stream: int,
    law: int,
    levels: tuple[float, float] | None,
    clip: tuple[float, float] | None,
    mean: int,
    inv_std: int,
    threads: int,
    isa: str,
) -> None: ...
def margins_float32(
    logits: int,
    sizes: _Sizes,
    labels: int,
    rows: int,
    margin: int,
    runner_up: int,
    threads: int,
) -> None: ...
def margins_float64(
    logits: int,
    sizes: _Sizes,
    labels: int,
    rows: int,
    margin: int,
    runner_up: int,
    threads: int,
) -> None: ...
def count_errors_float32(
    logits: int, sizes: _Sizes, labels: int, rows: int, counts: int, threads: int
) -> None: ...
def count_errors_float64(
    logits: int, sizes: _Sizes, labels: int, rows: int, counts: int, threads: int
) -> None: ...
def random_start(
    radius: int,
    restarts: int,
    ids: int,
    out: int,
    slots: int,
    elements: int,
    l2: bool,
    seed: int,
    stream: int,
    threads: int,
    isa: str,
) -> None: ...
def ball_step(
    x: int,
    rows: int,
    sizes: _Sizes,
    l2: bool,
    box: tuple[float, float] | None,
    offset: int,
    gradient: int,
    scale: int,
    step: int,
    radius: int,
    points: int,
    sphere: bool,
    usable: int,
    threads: int,
    isa: str,
) -> None: ...
def ball_slope(
    x: int,
    rows: int,
    sizes: _Sizes,
    l2: bool,
    box: tuple[float, float] | None,
    offset: int,
    gradient: int,
    slope: int,
    threads: int,
    isa: str,
) -> None: ...
def update_best(
    x: int,
    rows: int,
    sizes: _Sizes,
    l2: bool,
    points: int,
    margin: int,
    distance: int,
    best: int,
    away: int,
    threads: int,
    isa: str,
) -> None: ...
