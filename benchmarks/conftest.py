"""Files of pytest-benchmark hold the command that made them, as all other results do."""

import shlex


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["command"] = shlex.join(["pytest", *config.invocation_params.args])
