"""The C source of a plan: a header with the functions that firmware calls, and all that they do."""

from __future__ import annotations

import re
from importlib import resources

from larq_ensemble.convert.targets.c.constants import Constants, float_literal, wrapped
from larq_ensemble.convert.targets.c.plan import Plan
from larq_ensemble.convert.targets.c.steps import Program, comment, program_of
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.combination import (
    COMBINATIONS,
    mean_of_logits,
    mean_of_softmaxes,
    share_of_votes,
    sum_of_logits,
)
from larq_ensemble.runtime.metadata import EnsembleMetadata

_ALIGNMENT = 8  # of the arena, in bytes
_STATE_BYTES = 8 + 4 + 4 + 4  # of `State` in kernels/api.h, without its sums
_COMBINATIONS = (mean_of_logits, sum_of_logits, mean_of_softmaxes, share_of_votes)
#: C's own headers up to C23, which a file of the same name would hide.
_HEADERS = re.compile(
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|"
    "std(align|arg|atomic|bit|bool|ckdint|def|int|io|lib|noreturn)|string|tgmath|threads|time|"
    "uchar|wchar|wctype"
)
_INCLUDE = re.compile(r'#include "(\w+)\.h"\n')
_SYSTEM_INCLUDE = re.compile(r"#include <\w+\.h>\n")


def c_sources(plan: Plan, metadata: EnsembleMetadata, name: str = "ensemble") -> dict[str, str]:
    """A plan as a header and a source file in C99.

    They need no other file but `<stdint.h>`, `<stddef.h>`, `<string.h>` and `<math.h>`.

    # Arguments
        plan: with all places in the arena.
        metadata: of the file that the plan was made of.
        name: of the files, and what the names of functions and macros begin with.

    # Returns
        The text of each file by its name.

    # Raises
        EnsembleError: if `name` can't begin a name in C, or for what the kernels can't do; it
            names the layer.
    """
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or _HEADERS.fullmatch(name.lower()):
        raise EnsembleError(
            "`name` must be letters, digits and _, begin with a letter, and not be the name of one "
            f"of C's headers, as `stdio` is. Received: {name!r}."
        )
    program = program_of(plan)
    texts = {"h": _header(plan, metadata, program), "c": _source(plan, metadata, program, name)}
    files = {f"{name}.{suffix}": _renamed(text, name) for suffix, text in texts.items()}
    # Last, so that no class is renamed.
    names = "".join(f" \\\n  {_string(text)}," for text in metadata.class_names or ())
    files[f"{name}.h"] = files[f"{name}.h"].replace("@names@", names)
    return files


def flash_bytes(plan: Plan) -> dict[str, int]:
    """Bytes of constants that the C source of a plan has in flash, by purpose."""
    return program_of(plan).constants.bytes_by_purpose()


def arena_bytes(plan: Plan) -> int:
    """Bytes of RAM that the C source of a plan is given: maps, scratch memory and state."""
    return _state_offset(plan) + _state_bytes(plan)


def _sizes(plan: Plan, metadata: EnsembleMetadata, program: Program) -> dict[str, tuple[int, str]]:
    """Values and remarks of the macros in the header, by name."""
    height, width, channels = metadata.input_shape
    return {
        "MEMBERS": (plan.members, ""),
        "CLASSES": (plan.classes, ""),
        "HEIGHT": (height, "of an image, in pixels"),
        "WIDTH": (width, ""),
        "CHANNELS": (channels, "of a pixel, a byte each"),
        "ARENA_BYTES": (arena_bytes(plan), ""),
        "ARENA_ALIGNMENT": (_ALIGNMENT, "bytes"),
        "HAS_CASCADE": (int(metadata.cascade is not None), "1: there is ensemble_predict_adaptive"),
        "KEEPS_IMAGE": (int(program.reads_image), "1: members read the image, too"),
    }


def _header(plan: Plan, metadata: EnsembleMetadata, program: Program) -> str:
    lines = [
        f"#define ENSEMBLE_{macro} {value}" + (f" /* {remark} */" if remark else "")
        for macro, (value, remark) in _sizes(plan, metadata, program).items()
    ]
    if metadata.class_names:
        lines += ["", "/* const char *const names[] = ENSEMBLE_CLASS_NAMES; */"]
        lines.append("#define ENSEMBLE_CLASS_NAMES {@names@}")
    data = f", trained on {comment(metadata.dataset)}" if metadata.dataset else ""
    summary = (
        f"Members: {plan.members}, combined by {comment(metadata.scheme)}; "
        f"classes: {plan.classes}{data}."
    )
    text = _kernel("ensemble").replace("@summary@", summary)
    return text.replace("/* @sizes@ */", "\n".join(lines))


def _source(plan: Plan, metadata: EnsembleMetadata, program: Program, name: str) -> str:
    combination = next(c for c in _COMBINATIONS if c is COMBINATIONS[metadata.scheme])
    kernels = [*program.kernels, combination.__name__]
    if metadata.temperatures is not None:
        votes = combination is share_of_votes
        kernels.append("calibrated_votes" if votes else "calibrated_logits")
    if metadata.cascade is not None:
        kernels.append("log_margin")
    constants = program.constants
    macros = _macros(plan, metadata, constants)
    parts = [
        f"/* See {name}.h. Written by larq-ensemble; don't edit. */\n"
        f'#include "{name}.h"\n\n'
        "#include <math.h>\n#include <stddef.h>\n#include <string.h>",
        _check_of_header(_sizes(plan, metadata, program), name),
        "/* Products are rounded before they are added, as in the file that this was made of. gcc\n"
        " * does so with -std=c99; with -std=gnu99 it needs -ffp-contract=off. */\n"
        "#if defined(__clang__)\n#pragma STDC FP_CONTRACT OFF\n#endif",
        _section("constants"),
        constants.definitions(),
        _section("kernels"),
        _kernels(kernels),
        _section("steps"),
        program.function_definitions(),
        *program.structs,
        _calls("shared_steps", "", program.shared),
        _calls("member_steps", ", size_t member", program.member),
        _section("what firmware calls"),
        macros,
        _kernel("api"),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _check_of_header(sizes: dict[str, tuple[int, str]], name: str) -> str:
    """Stops the compiler where only one of the two files was copied: the arena may be too small."""
    differs = " || \\\n    ".join(
        f"ENSEMBLE_{macro} != {value}" for macro, (value, _) in sizes.items()
    )
    return (
        f"#if {differs}\n"
        f'#error "{name}.h is of another export than {name}.c: copy both files"\n#endif'
    )


def _macros(plan: Plan, metadata: EnsembleMetadata, constants: Constants) -> str:
    """What kernels/api.h takes from the metadata, and the arrays for it."""
    assert plan.logits.offset is not None
    parts = []
    for array, values in (
        ("member_weights", metadata.weights),
        ("temperatures", metadata.temperatures),
        ("thresholds", metadata.cascade and metadata.cascade.thresholds),
    ):
        if values:
            literals = ["INFINITY" if v is None else float_literal(v) for v in values]
            parts += [f"static const float {array}[] = {{", *wrapped(literals, "   "), "};"]
    weight = "member_weights[member]" if metadata.weights else "1.f"
    calibrate = "(void)(p)"
    if metadata.temperatures:
        calibrate = "calibrate(p, temperatures[member], ENSEMBLE_CLASSES)"
    parts.append(f"#define STATE_OFFSET {_state_offset(plan)}")
    parts.append(f"#define LOGITS_OFFSET {plan.logits.offset}")
    parts.append(f"#define WEIGHT_OF(member) {weight}")
    parts.append(f"#define CALIBRATE(p, member) {calibrate}")
    if metadata.cascade is not None:
        after = "thresholds[(count) - 1]" if metadata.cascade.thresholds else "INFINITY"
        parts.append(f"#define THRESHOLD_AFTER(count) {after}")
    return "\n".join(parts)


def _calls(function: str, parameter: str, calls: list[str]) -> str:
    """The function that runs the steps of `begin` or of a member."""
    lines = [f"static void {function}(uint8_t *arena, const uint8_t *image{parameter}) {{"]
    for variable in ("arena", "image", *(["member"] if parameter else [])):
        if not any(re.search(rf"\b{variable}\b", call) for call in calls):
            lines.append(f"  (void){variable};")
    return "\n".join([*lines, *(f"  {call}" for call in calls), "}"])


def _state_offset(plan: Plan) -> int:
    return -(-plan.arena_bytes // _ALIGNMENT) * _ALIGNMENT


def _state_bytes(plan: Plan) -> int:
    return -(-(_STATE_BYTES + 4 * plan.classes) // _ALIGNMENT) * _ALIGNMENT


def _section(title: str) -> str:
    return f"/* -- {title} {'-' * (90 - len(title))} */"


def _kernels(names: list[str]) -> str:
    """The text of kernels, each after those that it includes."""
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in texts:
            return
        text = _kernel(name)
        for included in _INCLUDE.findall(text):
            add(included)
        texts[name] = _SYSTEM_INCLUDE.sub("", _INCLUDE.sub("", text)).strip("\n")

    for name in names:
        add(name)
    return re.sub("\n{3,}", "\n\n", "\n\n".join(texts.values()))


def _kernel(name: str) -> str:
    folder = resources.files("larq_ensemble.convert.targets.c") / "kernels"
    return (folder / f"{name}.h").read_text(encoding="utf-8")


def _renamed(text: str, name: str) -> str:
    """The text with the names of this ensemble."""
    if name == "ensemble":
        return text
    text = re.sub(r"\bensemble(?=_|\.h\b)", name, text)
    return re.sub(r"\bENSEMBLE_", f"{name.upper()}_", text)


def _string(text: str) -> str:
    """A C string in ASCII: bytes of UTF-8 as octal escapes, and no trigraphs."""
    parts = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(parts)}"'
