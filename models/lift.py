"""An additive lift on a known rate: log P(liked) = log rate + sum over signals of a curve of that signal.

Each curve is piecewise linear between knots at the signal's quantiles (scikit-learn's SplineTransformer). The heights
come from a Poisson regression of liked / rate weighted by rate, which is how scikit-learn takes a rate as offset.
scikit-learn takes seconds of processor time to import, so only `fit_curves` does: what serves needs knots and heights.
"""

import numpy as np

QUANTILES = np.array(
    [0.002, 0.13, 0.26, 0.39, 0.52, 0.65, 0.78, 0.9, 0.95, 0.98, 0.99, 0.997, 0.9995]
)  # dense in the tail, where the movies are that a slate is made of
SAMPLE = 100_000  # rows that place the knots


def fit_curves(
    signals: np.ndarray, liked: np.ndarray, rate: np.ndarray, weight: np.ndarray, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Knots and heights, (signals, knots) float64 each, from rows (n, signals); nan signals say nothing.

    l2 pulls heights towards 0: so many expected likings beside a knot count as much as the pull.
    """
    from sklearn.linear_model import PoissonRegressor
    from sklearn.preprocessing import SplineTransformer

    knots = np.stack([_knots(signals[:: max(len(signals) // SAMPLE, 1), column]) for column in range(signals.shape[1])])
    curves = SplineTransformer(degree=1, knots=knots.T, extrapolation="constant", handle_missing="zeros")
    expected = weight * rate
    model = PoissonRegressor(alpha=l2 / expected.sum(), fit_intercept=False, solver="newton-cholesky")
    model.fit(curves.fit_transform(signals), liked / rate, sample_weight=expected)
    return knots, model.coef_.reshape(knots.shape)


def lift(signals: np.ndarray, knots: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """(...) float64 sum of the curves at signals (..., signals); beyond the last knots a curve stays level."""
    total = np.zeros(signals.shape[:-1])
    for column, (at, height) in enumerate(zip(knots, heights, strict=True)):
        curve = np.interp(signals[..., column], at, height)
        curve[np.isnan(curve)] = 0.0
        total += curve
    return total


def _knots(values: np.ndarray) -> np.ndarray:
    """Quantiles, strictly ascending; 0, 1, 2, ... where a signal is never known."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0:
        return np.arange(len(QUANTILES), dtype=np.float64)
    apart = 1e-6 * max(1.0, float(np.ptp(known))) * np.arange(len(QUANTILES))  # equal quantiles are moved apart
    return np.maximum.accumulate(np.quantile(known, QUANTILES)) + apart
