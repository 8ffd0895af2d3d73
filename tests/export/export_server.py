"""Runs `msd` commands in forks of a process that has loaded every library, and ends some of them.

    python export_server.py TESTS RUN FORM...

Loading takes several times as long as exporting a tiny student. So a test starts this program once.
It exports RUN in every form, by which all libraries are loaded, and says so by an empty line.
Then it answers each line, an order (see `obey`), with one that tells how the command ended.
"""

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

Order = dict[str, Any]
EXAMPLES = 8


def load_everything(run: Path, forms: list[str]) -> None:
    from msd_cli import main  # noqa: F401
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_export.config import ExportConfig
    from msd_export.pipeline import export_student

    wanted = tuple(tuple(form.split("-", 1)) for form in forms)
    export_student(RunDirectory(run), ExportConfig(wanted, examples=EXAMPLES))


def become_command(order: Order) -> None:
    """Run a command in this process, its output in a file; does not return."""
    from killing import kill_before

    from msd_cli.main import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count = kill_before(order["operation"], Path(order["exports"]), order["signal"])
    sys.argv = ["msd", *order["arguments"]]
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.write(f"{count()} operations\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def obey(order: Order) -> dict[str, float]:
    """Run a command in a process group of its own, and signal the group if it takes too long.

    An order holds `arguments`, `log` (a file for its output) and `signal`, which is sent before the
    command's n-th `operation` on the folder `exports` (0: it is not), or to the group when so many
    `seconds` have passed (None: it is not).
    """
    reading, writing = os.pipe()  # at its end when every process of the command has ended
    begun = time.monotonic()
    child = os.fork()
    os.setpgid(child, child)  # by both: whichever comes first
    if child == 0:
        os.close(reading)
        become_command(order)
    os.close(writing)
    ended, _, _ = select.select([reading], [], [], order["seconds"])
    if not ended:
        os.killpg(child, order["signal"])
    _, status = os.waitpid(child, 0)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": time.monotonic() - begun}


def serve(run: Path, forms: list[str]) -> None:
    load_everything(run, forms)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints is no answer
    print(file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    serve(Path(sys.argv[2]), sys.argv[3:])
