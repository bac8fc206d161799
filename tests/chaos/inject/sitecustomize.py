"""Python imports this by itself in every process of a `penstock run` under test, since its folder is on PYTHONPATH.

So production code needs no hooks: once the template has imported what a slot is made of, `tests.chaos` changes it.
"""

import importlib.abc
import importlib.util
import sys


class _OnceImported(importlib.abc.MetaPathFinder):
    """Lets `tests.chaos.crash_points` and the mutant in when the last module of a slot has been imported."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "console.slot":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            from tests.chaos import crash_points, mutants

            mutants.mutate()
            crash_points.install()

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, _OnceImported())
