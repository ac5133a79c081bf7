"""One of several processes of a run: command_child.py RUN_FOLDER RANK WORLD_SIZE; SIGTERM asks it to stop."""

import json
import signal
import sys
from pathlib import Path

from sweeper.command import run_command
from sweeper.records import read_json
from sweeper.spec import RunSpec


class Silent:
    def metrics(self, member, row):
        pass

    def progress(self, member, step, steps, tokens_per_s):
        pass


def main():
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    run, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    outcome = run_command(
        read_json(run / "spec.json", RunSpec),
        home=run / "attempts" / "1",
        run_folder=run,
        attempt=1,
        rank=rank,
        world_size=world_size,
        observer=Silent(),
        stop=lambda: bool(asked),
        local_rank=rank,
    )
    assert "torch" not in sys.modules
    print(json.dumps({"state": outcome.state, "loss": outcome.loss, "extra": dict(outcome.extra)}))


if __name__ == "__main__":
    main()
