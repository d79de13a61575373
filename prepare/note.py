# Runs a program and writes down each source file that Python would have
# written bytecode for, so that this can be done by somebody trustworthy.
# Arguments: the list to write to, then a file and its arguments, or -m and a
# module and its arguments.
import runpy
import sys
from importlib.machinery import SourceFileLoader

_list = open(sys.argv[1], "a", buffering=1, encoding="utf-8", errors="replace")


def _note(self, source_path, bytecode_path, data):
    try:
        if "\n" not in source_path:
            _list.write(source_path + "\n")
    except (OSError, ValueError):
        pass  # the program closed every file it could find; its own affair


SourceFileLoader._cache_bytecode = _note
if sys.argv[2] == "-m":
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
