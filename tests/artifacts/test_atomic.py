"""Folders that appear whole or not at all: replaced, killed, and built by several processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msd_deploy.artifacts.atomic import new_folder, remove_stale_folders, unfinished_writes

ROOT = Path(__file__).parents[2]
# Dies before the n-th operation on files in a folder that it replaces with an ever newer one. The
# system call that exchanges two folders is not announced; what comes before and after it is.
_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from msd_deploy.artifacts import atomic
final, last, can_exchange = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
if not can_exchange:
    atomic.exchange_folders = lambda first, second: False
done = 0

def count(event, args):
    global done
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        done += 1
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
with atomic.new_folder(final) as folder:
    for name in "abc":
        (folder / name).write_text("new")
"""


def replace_and_die(final: Path, operation: int, *, can_exchange: bool) -> bool:
    """Replace a folder in a process that is killed; return whether it was before it ended."""
    arguments = [ROOT, final, operation, can_exchange]
    command = [sys.executable, "-S", "-c", _CHILD, *map(str, arguments)]
    code = subprocess.run(command, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def write(final: Path, text: str) -> None:
    with new_folder(final) as folder:
        for name in "abc":
            (folder / name).write_text(text)


def content(final: Path) -> list[str]:
    return [path.read_text() for path in sorted(final.iterdir())]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_replacement_killed_at_any_operation_leaves_the_old_or_the_new_folder(
    tmp_path: Path, can_exchange: bool
) -> None:
    """Without an exchange the old one may lie aside, until the next command puts it back."""
    final, operation, seen = tmp_path / "thing", 0, []
    was_killed = True
    while was_killed:
        operation += 1
        write(final, "old")
        was_killed = replace_and_die(final, operation, can_exchange=can_exchange)
        if can_exchange and sys.platform == "linux":
            assert final.exists()
        remove_stale_folders(tmp_path)
        seen.append(content(final)[0])
        assert content(final) == seen[-1:] * 3
        assert list(tmp_path.iterdir()) == [final]
    assert seen == sorted(seen, reverse=True)
    assert seen.count("new") > 1  # one was killed after it was there
    assert seen.count("old") > 3


def test_a_folder_that_another_process_is_building_stays(tmp_path: Path) -> None:
    with new_folder(tmp_path / "thing") as folder:
        command = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
            "from msd_deploy.artifacts.atomic import remove_stale_folders as remove;"
            "remove(Path(sys.argv[2]))"
        )
        subprocess.run([sys.executable, "-S", "-c", command, ROOT, tmp_path], check=True)
        assert unfinished_writes(tmp_path) == [folder]
    assert unfinished_writes(tmp_path) == []


def test_a_link_to_a_folder_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "old")
    (tmp_path / "thing").symlink_to("elsewhere")
    write(tmp_path / "thing", "new")
    assert not (tmp_path / "thing").is_symlink()
    assert content(tmp_path / "thing") == ["new"] * 3
    assert content(tmp_path / "elsewhere") == ["old"] * 3
    assert unfinished_writes(tmp_path) == []


def test_what_is_put_aside_does_not_replace_what_came_since(tmp_path: Path) -> None:
    write(tmp_path / "thing", "new")
    write(tmp_path / ".thing.retired-1" / "thing", "old")
    remove_stale_folders(tmp_path)
    assert content(tmp_path / "thing") == ["new"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
