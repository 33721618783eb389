"""Stands in for `adb`, `ssh` and `scp` on the PATH, by the name that it is called by.

The device is the folder $DEVICE of this machine: its folders for pushed files are in there.
"""

import os
import shutil
import subprocess
import sys

DEVICE = os.environ["DEVICE"]
FOLDERS = ("/data/local/tmp/larq_ensemble", "/tmp/larq_ensemble")


def here(text: str) -> str:
    for folder in FOLDERS:
        if folder in text:
            return text.replace(folder, DEVICE + folder)
    return text


name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.path.join(DEVICE, "calls"), "a", encoding="utf-8") as calls:
    print(name, *arguments, file=calls)
if name == "adb" and arguments[0] == "-s":
    if arguments[1] != "phone":
        sys.exit(f"error: device '{arguments[1]}' not found")
    del arguments[:2]
if name == "scp":
    flag, source, target = arguments
    shutil.copy(source, here(target.removeprefix("pi@board:")))
elif name == "adb" and arguments[0] == "push":
    shutil.copy(arguments[1], here(arguments[2]))
else:
    where, command = arguments
    assert where == {"adb": "shell", "ssh": "pi@board"}[name]
    sys.exit(subprocess.run(here(command), shell=True, check=False).returncode)
