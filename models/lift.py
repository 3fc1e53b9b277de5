"""An additive lift on a known rate: logit P(liked) = offset + sum over signals of a smooth curve of that signal.

Each curve is piecewise linear between knots at the signal's quantiles; the weights come from penalised logistic
regression with an offset (iteratively reweighted least squares; the penalty is on the curve's bends, as in P-splines,
Eilers and Marx 1996). NumPy alone: boosted trees on the same rows are hardly better (docs/models.md), but their library
takes seconds of processor time to import in every process that serves.
"""

import numpy as np

QUANTILES = np.array(
    [0.002, 0.13, 0.26, 0.39, 0.52, 0.65, 0.78, 0.9, 0.95, 0.98, 0.99, 0.997, 0.9995]
)  # dense in the tail
SAMPLE = 100_000  # rows that place the knots
RIDGE = 1.0  # keeps the curves' common level from drifting
STEPS = 25  # of Newton's method at most; it has converged after about eight
LONGEST = 1.0  # change of a height in one step: from rare to likely a full step overshoots and never comes back
CONVERGED = 1e-3
CHUNK = 50_000  # rows whose basis is held at once


def fit_curves(
    signals: np.ndarray, liked: np.ndarray, offset: np.ndarray, weight: np.ndarray, smoothness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Knots and heights, (signals, knots) float64 each, from rows (n, signals); nan signals say nothing."""
    knots = np.stack([_knots(signals[:: max(len(signals) // SAMPLE, 1), column]) for column in range(signals.shape[1])])
    bend = np.diff(np.eye(knots.shape[1]), 2, axis=0)
    penalty = np.kron(np.eye(len(knots)), smoothness * bend.T @ bend) + RIDGE * np.eye(knots.size)
    heights = np.zeros(knots.size)
    for _ in range(STEPS):
        hessian, gradient = penalty.copy(), -penalty @ heights
        for start in range(0, len(liked), CHUNK):
            part = slice(start, start + CHUNK)
            basis = _basis(signals[part], knots)  # (rows, signals x knots)
            rate = 1.0 / (1.0 + np.exp(-(basis @ heights + offset[part])))
            hessian += (basis * (weight[part] * rate * (1.0 - rate)).astype(np.float32)[:, None]).T @ basis
            gradient += basis.T @ (weight[part] * (liked[part] - rate))
        step = np.linalg.solve(hessian, gradient)
        longest = float(np.abs(step).max())
        heights += step * min(1.0, LONGEST / max(longest, LONGEST))
        if longest < CONVERGED:
            break
    return knots, heights.reshape(knots.shape)


def lift(signals: np.ndarray, knots: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """(...) float64 sum of the curves at signals (..., signals); beyond the last knots a curve stays level."""
    total = np.zeros(signals.shape[:-1])
    for column, (at, height) in enumerate(zip(knots, heights, strict=True)):
        curve = np.interp(signals[..., column], at, height)
        total += np.where(np.isnan(curve), 0.0, curve)
    return total


def _knots(values: np.ndarray) -> np.ndarray:
    """Quantiles, strictly ascending; 0, 1, 2, ... where a signal is never known."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0:
        return np.arange(len(QUANTILES), dtype=np.float64)
    apart = 1e-6 * max(1.0, float(np.ptp(known))) * np.arange(len(QUANTILES))  # equal quantiles are moved apart
    return np.maximum.accumulate(np.quantile(known, QUANTILES)) + apart


def _basis(signals: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(rows, signals x knots) float32: each value is shared between the two knots around it; zero where nan."""
    out = np.zeros((len(signals), *knots.shape), np.float32)
    row = np.arange(len(signals))
    for column, at in enumerate(knots):
        value = np.clip(signals[:, column], at[0], at[-1])
        known = ~np.isnan(value)
        left = np.clip(np.searchsorted(at, np.where(known, value, at[0]), side="right") - 1, 0, len(at) - 2)
        share = (value - at[left]) / (at[left + 1] - at[left])
        out[row, column, left] = np.where(known, 1.0 - share, 0.0)
        out[row, column, left + 1] = np.where(known, share, 0.0)
    return out.reshape(len(signals), -1)
