"""The pins of the locks, and folders to import from that hold nothing but chosen packages."""

import re
from importlib import metadata

from commands import ROOT


def pins(name):
    """Version by package, as the lock ``name`` has it."""
    lock = (ROOT / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))


def site_of(packages, folder):
    """``folder``, once it holds the ``packages`` of this environment, as links."""
    for name in packages:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder
