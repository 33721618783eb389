"""The number of members that stored energy allows, for devices that live on harvested energy.

```python
from larq_ensemble.runtime import PowerPolicy, stored_energy_nj

policy = PowerPolicy(members=8, begin_nj=400_000, member_nj=3_000_000, savings_nj=350_000_000)
while True:  # at each image
    stored_nj = stored_energy_nj(100_000, read_millivolts(), brown_out_mv=1800)
    members = policy.start(stored_nj)
    if members:
        ensemble.members = members
        ensemble.predict(camera())
```

The same policy in C99 is `power_policy.c` in `examples/microcontroller`: for equal numbers both
decide equally, because all are whole. `benchmarks/harvesting.py` simulates it.

# References
    - Balsamo et al. 2015, [Hibernus](https://doi.org/10.1109/LES.2014.2371494): to act before the
      supply fails.
    - Colin, Ruppel and Lucia 2018, [A reconfigurable energy storage architecture for
      energy-harvesting devices](https://doi.org/10.1145/3173162.3173210): to start only tasks that
      stored energy pays for.
    - Kansal et al. 2007, [Power management in energy harvesting sensor
      networks](https://doi.org/10.1145/1274858.1274870): to consume what is harvested.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from larq_ensemble.errors import check_whole

_MOST = {"members": 2**32 - 1, "last": 2**32 - 1}  # unsigned in C
_MOST_ENERGY = 2**64 - 1  # uint64_t


@dataclass
class PowerPolicy:
    """Decides for each image how many members run on it, and before each member whether it may.

    With the stored energy E,

        left = E - reserve - begin
        n(E) = 0                                               if left < member
               min(members, max(1, floor((left - savings) / member)))   otherwise

    An image gets n(E) members. More than the last image got only if they would be paid for with
    `hysteresis` less energy, too. So

    - nothing starts that stored energy doesn't pay for, whatever is harvested meanwhile;
    - as long as there is little, images get one member, for which a joule buys most correct
      answers, and the more is stored above `savings`, the more members run: the level settles where
      images consume what is harvested, and a full store need not turn energy away;
    - the number goes down at once, but up only with a surplus: it doesn't flap.

    All energies are whole numbers of nanojoules. E counts from the voltage at which the supply
    browns out: `stored_energy_nj`.

    # Arguments
        members: at most so many run: M, or fewer.
        begin_nj: what an image takes before its first member: the camera, `begin`, sending the
            answer.
        member_nj: what a member takes.
        reserve_nj: is never planned with: errors of measurement, and what leaks meanwhile.
        savings_nj: is kept for the first members of later images: further members are paid with
            what is above it. What a full store holds beyond an image by all members and the
            hysteresis is a good choice.
        hysteresis_nj: the surplus with which the number of members may rise; as much as what a
            member takes is a good choice.
        last: the number of members of the last image. It starts at 0, also after a power cut.

    # Raises
        EnsembleError: if a number is not whole or out of the range of C's `unsigned` (members) or
            `uint64_t` (energies).
    """

    members: int
    begin_nj: int
    member_nj: int
    reserve_nj: int = 0
    savings_nj: int = 0
    hysteresis_nj: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name in ("members", "member_nj") else 0
            most = _MOST.get(field.name, _MOST_ENERGY)
            value = check_whole(field.name, getattr(self, field.name), least, most)
            setattr(self, field.name, value)

    def start(self, stored_nj: int) -> int:
        """How many members to run on an image that is there now.

        # Arguments
            stored_nj: E, the stored energy in nanojoules.

        # Returns
            From 0 (sleep on) to `members`.

        # Raises
            EnsembleError: if `stored_nj` is no whole number from 0 on.
        """
        stored_nj = check_whole("stored_nj", stored_nj, 0, _MOST_ENERGY)
        members = self._affordable(stored_nj)
        if members > self.last:
            members = max(self.last, self._affordable(stored_nj - self.hysteresis_nj))
        self.last = members
        return members

    def proceed(self, stored_nj: int) -> bool:
        """Whether a member may start now: E >= reserve + member.

        Members may take more than they were measured to. So ask before each, and if it may not,
        deliver the answer of those before it, which is there.

        # Arguments
            stored_nj: E, the stored energy in nanojoules.

        # Raises
            EnsembleError: if `stored_nj` is no whole number from 0 on.
        """
        stored_nj = check_whole("stored_nj", stored_nj, 0, _MOST_ENERGY)
        return stored_nj - self.reserve_nj >= self.member_nj

    def _affordable(self, stored_nj: int) -> int:
        left = stored_nj - self.reserve_nj - self.begin_nj
        if left < self.member_nj:
            return 0
        return min(self.members, max(1, (left - self.savings_nj) // self.member_nj))


def stored_energy_nj(capacitance_uf: int, voltage_mv: int, brown_out_mv: int) -> int:
    r"""What a capacitor can give before the supply browns out, in nanojoules.

    \\( E = C (V^2 - V_\mathrm{brown\text{-}out}^2) / 2 \\), rounded down; 0 below that voltage.

    # Arguments
        capacitance_uf: C, in microfarads.
        voltage_mv: V of the capacitor, in millivolts, at most 65,535.
        brown_out_mv: the lowest voltage of the capacitor at which the supply works, in millivolts.

    # Raises
        EnsembleError: for a number that is not whole or out of range.
    """
    capacitance_uf = check_whole("capacitance_uf", capacitance_uf, 1, 2**32 - 1)
    voltage_mv = check_whole("voltage_mv", voltage_mv, 0, 2**16 - 1)
    brown_out_mv = check_whole("brown_out_mv", brown_out_mv, 0, 2**16 - 1)
    # uF * mV^2 = 1e-12 J
    return max(0, capacitance_uf * (voltage_mv**2 - brown_out_mv**2) // 2000)
