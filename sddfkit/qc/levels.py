"""A level of theory is data: method, basis set and, for each program, the keywords that make programs agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from qcelemental.models.v2 import AtomicSpecification

from sddfkit.qc.errors import ProgramBrokenError, ProgramMissingError

RESOURCES: Final = "sddfkit"
"""Key of `AtomicSpecification.extras` that holds threads and memory_gib: what never changes a result."""


class ChosenProgram(NamedTuple):
    """A program that was found, its version, and one printable sentence about why it was taken."""

    program: str
    version: str
    why: str


@dataclass(frozen=True)
class Level:
    """A level of theory.

    Parameters
    ----------
    name : str
        As people write it, for example ``"wB97X/6-31G(d)"``.
    method, basis : str, str or None
    programs : mapping
        Program name, or dotted path of a harness class outside the package, to its keywords, in order of preference.
    program : str
        ``"auto"`` takes the first of `programs` that is found; a name insists on that one.
    timeout_s, memory_gib, threads : float, float, int
        Limits of one calculation. They are no part of its identity.
    """

    name: str
    method: str
    basis: str | None
    programs: Mapping[str, Mapping[str, Any]]
    program: str = "auto"
    timeout_s: float = 600
    memory_gib: float = 2.0
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.programs:
            raise ValueError(f"level {self.name!r} lists no programs")
        if self.program != "auto" and self.program not in self.programs:
            raise ValueError(
                f"level {self.name!r} has no keywords for program {self.program!r}; it knows {', '.join(self.programs)}"
            )
        if self.timeout_s <= 0 or self.memory_gib <= 0 or self.threads < 1:
            raise ValueError(f"{self.timeout_s=}, {self.memory_gib=} and {self.threads=} must be positive")

    def choose(self) -> ChosenProgram:
        """Look for the programs and take one; those that are missing are passed over, and named in ``why``.

        Raises
        ------
        ProgramMissingError
            If none is found, or the one asked for by name is not; the message says how to get it.
        ProgramBrokenError
            If a program that would be taken is there but broken: the next one would give other numbers, so that is
            for a person to choose.
        """
        from sddfkit.qc.harnesses import harness

        wanted = list(self.programs) if self.program == "auto" else [self.program]
        problems: list[str] = []
        for name in wanted:
            candidate = harness(name)
            try:
                problem, broken = candidate.problem(), candidate.broken()
                if problem is None:
                    return ChosenProgram(name, candidate.get_version(), self._why(name, problems))
            except Exception as error:  # a harness from outside may do anything
                problem, broken = f"looking for {name} failed with {type(error).__name__}: {error}.", True
            if broken:
                raise ProgramBrokenError(f"{problem} {self._way_out(name)}")
            problems.append(f"{name}: {problem} {candidate.install_hint}".rstrip())
        raise ProgramMissingError(f"no program for level {self.name!r} – " + "; ".join(problems))

    def specification(self, program: str, driver: Literal["energy", "gradient"] = "gradient") -> AtomicSpecification:
        """The QCSchema specification of this level for one program.

        Raises
        ------
        ValueError
            If the level has no keywords for `program`.
        """
        if program not in self.programs:
            raise ValueError(
                f"level {self.name!r} has no keywords for {program!r}; it knows {', '.join(self.programs)}"
            )
        return AtomicSpecification(
            program=program,
            driver=driver,
            model={"method": self.method, "basis": self.basis},
            keywords=dict(self.programs[program]),
            extras={RESOURCES: {"threads": self.threads, "memory_gib": self.memory_gib, "level": self.name}},
        )

    def _way_out(self, broken: str) -> str:
        others = [name for name in self.programs if name != broken]
        return "Repair it" + (f", or choose another program: level.program={others[0]}" if others else "")

    def _why(self, name: str, problems: list[str]) -> str:
        if self.program != "auto":
            return f"{name} was asked for by name"
        if not problems:
            return f"{name} is the first choice for {self.name} and was found"
        return f"{name} is the next choice for {self.name}: " + "; ".join(problems)
