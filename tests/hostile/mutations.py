"""Offers and JSON that are almost right: mutated by a seed, so that a failure can be had again."""

import json
import random
from collections.abc import Iterator
from typing import Any

HALF_A_CHARACTER = "\ud800"
ODD_TEXTS = (
    *("", "0", "-1", "1e999", "NaN", "null", "٣", " ", "\t", "\x00", "\x85", "\u2028", "\ufeff", "é" * 300, "%n%s"),
    *(
        "4294967296",
        "9" * 400,
        "9" * 5000,
        HALF_A_CHARACTER,
        "a" * 3000,
        "../../x",
        "::1",
        "[::1]",
        "999.0.0.1",
        "x.local",
    ),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *([], {}, [[]], [{}], {"": ""}, [None] * 100, *ODD_TEXTS),
)


def mutated_sdp(sdp: str, chance: random.Random) -> str:
    """An offer with one to five faults."""
    lines = sdp.splitlines()
    for _ in range(chance.randint(1, 5)):
        lines = lines or ["v=0"]
        index = chance.randrange(len(lines))
        match chance.randrange(9):
            case 0:
                del lines[index]
            case 1:
                lines.insert(index, lines[chance.randrange(len(lines))])
            case 2:
                other = chance.randrange(len(lines))
                lines[index], lines[other] = lines[other], lines[index]
            case 3:
                lines[index] = lines[index][: chance.randint(0, len(lines[index]))]
            case 4:
                lines[index] += chance.choice(ODD_TEXTS)
            case 5:
                lines[index] = replaced_word(lines[index], chance)
            case 6:
                name = lines[index].partition(":")[0]
                lines = [line for line in lines if not line.startswith(name)]
            case 7:
                del lines[index : index + chance.randint(1, 40)]
            case 8:
                lines[index] = chance.choice(ODD_TEXTS)
    return chance.choice(("\r\n", "\r\n", "\n")).join(lines) + chance.choice(("\r\n", ""))


def replaced_word(line: str, chance: random.Random) -> str:
    separator = chance.choice((" ", ":", "=", ";", "/"))
    words = line.split(separator)
    words[chance.randrange(len(words))] = chance.choice(ODD_TEXTS)
    return separator.join(words)


def mutated_json(value: dict[str, Any], chance: random.Random) -> bytes:
    """A JSON body with a fault in its values, its keys, its nesting or its bytes."""
    body = json.loads(json.dumps(value))
    keys = list(body) or ["any"]
    match chance.randrange(7):
        case 0 | 1:
            body[chance.choice(keys)] = chance.choice(ODD_VALUES)
        case 2:
            body[chance.choice(ODD_TEXTS)] = chance.choice(ODD_VALUES)
        case 3:
            body.pop(chance.choice(keys), None)
        case 4:
            nested = "[" * (depth := chance.choice((50, 500, 900, 990, 2000, 100_000))) + "]" * depth
            return json.dumps({**body, chance.choice(keys): 0}).replace("0", nested, 1).encode()
        case 5:
            text = json.dumps(body).replace("1", chance.choice(("1e999", "-1e999", "1" * 5000, "NaN")), 1)
            return text.replace(": ", f": {chance.choice(('1e999, ', 'NaN, ', ''))}", 1).encode()
        case 6:
            data = bytearray(json.dumps(body).encode())
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            return bytes(data)
    return json.dumps(body).encode("utf-8", "surrogatepass")


def seeds(count: int) -> Iterator[random.Random]:
    """So many sources of chance, the same ones each time."""
    return (random.Random(index) for index in range(count))
