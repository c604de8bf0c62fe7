"""A file of pytest-benchmark holds the command that made it, as every other file of results does."""

import shlex


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["command"] = shlex.join(["pytest", *config.invocation_params.args])
