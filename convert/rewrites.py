"""Ways to compute the same with fewer instructions, each applied where it can be.

| name | in place of | is computed |
|---|---|---|
| `threshold_norms` | batch norm, sign | a comparison a channel (`larq_ensemble.convert.thresholds`) |
| `threshold_prelus` | PReLU, batch norm, sign | likewise |
| `folded_scales` | a product behind a binary convolution | its multiplier (`larq_ensemble.convert.folding`) |
| `folded_offsets` | a sum behind a binary convolution | its bias (likewise) |
| `merged_offsets` | a sum | a sum with another (likewise) |
| `long_rows` | a value a channel by pixels | the same by rows of pixels (`larq_ensemble.convert.wide_rows`) |
| `narrow_signs` | LceQuantize of 8 or 16 channels | whole words, then taken apart (likewise) |

What a network doesn't have is left as it was converted; `larq-ensemble inspect` says how often
each applied.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from larq_ensemble.convert.binary_convolutions import bit_pack_convolutions
from larq_ensemble.convert.folding import fold_scales, merge_offsets
from larq_ensemble.convert.packing import drop_unread
from larq_ensemble.convert.wide_rows import widen_rows


def rewrite(model: Any, layout: str, members: int) -> Counter[str]:
    """Makes a `ModelT` cheaper to run, in place.

    # Arguments
        model: with one subgraph, `larq_ensemble.convert.packing.simplify`ed.
        layout: which layout it will get; all but `"indexed"` read members' values from constants.
        members: how many rows its tables have.

    # Returns
        How often each of the ways above applied in the graph of a member.
    """
    done: Counter[str] = Counter()
    one_member = layout != "indexed"
    if one_member:
        bit_pack_convolutions(model)
        done.update(fold_scales(model, members))
    done.update(merge_offsets(model, into_convolutions=one_member))
    done.update(widen_rows(model))
    drop_unread(model)
    return done
