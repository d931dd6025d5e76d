"""What a process that reads files of strangers may do, and how it is held to it.

rules.py      what it may do: pure data
python.py     what an interpreter needs to read
landlock.py   files, TCP, signals and abstract sockets (Linux 5.13; each newer ABI covers more)
seccomp.py    system calls (Linux): no socket, no process, no tracing …
limits.py     resource limits and capabilities
apply.py      all of it, in the process itself, for ever
process.py    a forked process for one piece of work: confined, and watched by the one that forked it
"""

from ggufpack.confinement.apply import Confined, confine, possible
from ggufpack.confinement.rules import OFF_VARIABLE, Confinement

__all__ = ["OFF_VARIABLE", "Confined", "Confinement", "confine", "possible"]
