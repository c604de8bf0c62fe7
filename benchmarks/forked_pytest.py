"""Pytest in forks of one process, which has imported once what takes long.

Reads a request a line, {"arguments", "limit", "said", "record"}: arguments of pytest, seconds, a
file for what it says, and a file for {"code", "seconds", "failed"}: its exit code, the processor
seconds of each test, and the tests that failed in their order. Answers "done", or "late" where the
limit was reached.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import matplotlib.axes  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401


class Watch:
    """What the tests took and which failed."""

    def __init__(self):
        self.seconds, self.failed = {}, []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = sum(os.times()[:4])
        answer = yield
        self.seconds[item.nodeid] = round(sum(os.times()[:4]) - before, 3)
        return answer

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


def run(request):
    os.setsid()
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    watch = Watch()
    code = int(pytest.main(request["arguments"], plugins=[watch]))
    Path(request["record"]).write_text(json.dumps({"code": code, **vars(watch)}))
    sys.stdout.flush()
    os._exit(0)


def waited(child, limit):
    end = time.monotonic() + limit
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late"
        time.sleep(0.05)
    return "done"


def main():
    sys.path.insert(0, str(Path.cwd()))
    for line in sys.stdin:
        request = json.loads(line)
        Path(request["record"]).unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                run(request)
            finally:
                os._exit(1)
        print(waited(child, request["limit"]), flush=True)


if __name__ == "__main__":
    main()
