"""Runs one dimension of the `vbench` package in the interpreter that has it; `videogen.evaluation.vbench` starts it. Needs nothing of this repository.

Run: `python vbench_runner.py REQUEST.json`, an object with `dimension`, `videos`, `full_info`, `out`, `mode`, `device`. Writes `OUT/result.json`.
Whatever tries to download is refused: a weight that arrives in silence would be a different measurement next time.
"""

import json
import os
import socket
import sys


def _refuse(sock, address, *_):
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        raise ConnectionRefusedError(f"downloading is switched off here (asked for {address})")
    return _connect(sock, address)


_connect = socket.socket.connect


def main(request_file):
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    socket.socket.connect = _refuse
    socket.socket.connect_ex = _refuse
    from vbench import VBench

    dimension = request["dimension"]
    bench = VBench(request["device"], request["full_info"], request["out"])
    bench.evaluate(
        videos_path=request["videos"],
        name=dimension,
        dimension_list=[dimension],
        local=True,
        read_frame=False,
        mode=request["mode"],
        imaging_quality_preprocessing_mode="longer",
    )
    os.replace(
        os.path.join(request["out"], dimension + "_eval_results.json"), os.path.join(request["out"], "result.json")
    )


if __name__ == "__main__":
    main(sys.argv[1])
