"""A verifier: a number near the right one earns part of the reward.

    rewards: {verifier: {name: python, path: "close_enough:close_enough", options: {tolerance: 0.5}}}

Unlike the other parts a verifier may be the function itself; a class would be made once, with the options.
"""

import re


def close_enough(prompt, response, tolerance=0.1):
    """1 for the right number; down to -1 in a straight line where it is off by `tolerance` of the answer, or more."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", response)
    if not numbers:
        return -1.0
    wanted, given = float(prompt.answer), float(numbers[-1])
    off = abs(given - wanted) / max(1.0, abs(wanted))
    return max(-1.0, 1.0 - 2.0 * off / tolerance)
