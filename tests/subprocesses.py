"""Scripts in processes of their own, for what a test cannot do to its own process."""

import os
import subprocess
import sys
import textwrap


def path_to(*folders):
    """PYTHONPATH of a script that imports from these folders, too."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def started(script, *arguments, **environment):
    """Start a script; variables that are None are removed. It imports nothing from the folder that it is started in."""
    variables = {**os.environ, **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, "-P", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, timeout=300):
    """Return what it printed, and what it wrote to stderr; it must end well."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}{err}"
    return out, err


def run_script(script, *arguments, **environment):
    return finished(started(script, *arguments, **environment))
