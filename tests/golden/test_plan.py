"""The plan of the quickstart, as a program reads it: ids, sizes and prices change only when somebody means it."""

import json

from sweeper.config import load_sweep
from sweeper.grid import expand
from sweeper.plan import make_plan, plan_json


def test_the_plan_of_the_quickstart(golden):
    # The chain's content is the same everywhere; the standard library's is that of the machine's own Python.
    sweep = load_sweep("quickstart", ["data=synthetic", "model.vocab=256"])
    plan = make_plan(sweep.name, expand(sweep), {}, sweep.cluster, sweep.execution)
    golden("quickstart_plan.json", json.dumps(plan_json(plan), indent=1) + "\n")
