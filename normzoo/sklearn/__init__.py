"""Estimators of scikit-learn that scale data by this library's statistics.

    from normzoo.sklearn import Standardizer

    Standardizer().fit_transform(X)                       # (N, C), as StandardScaler
    Standardizer(axis=1).fit(images)                      # (N, C, H, W): statistics of each channel
    Standardizer().fit(X, groups=subject).transform(X, groups=subject)    # of each subject
    Standardizer().fit(sequences, lengths=lengths)        # (N, T, C): of what is no padding

They stand in pipelines, column transformers and searches, have feature names, `set_output`, metadata routing and
scikit-learn's fitted attributes, and pass its `check_estimator`. Beyond its own scalers: arrays of any rank, groups,
masks and lengths; float32 without a copy in float64, and exact where a mean is a million times the deviation; Dask and
xarray, lazily; memory maps, where they are. `partial_fit` merges exactly: any split gives the statistics of all data
(quantiles: by `QuantileSketch`, within its bound). `import normzoo` does not import this, nor scikit-learn.
"""

from normzoo.environment.extras import to_install

try:
    from sklearn.utils.validation import validate_data  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"normzoo.sklearn: expected scikit-learn 1.6 or later to be installed ({error}); write {to_install('sklearn')}"
    ) from error

from normzoo.sklearn.moments import MinMaxScaler, Standardizer
from normzoo.sklearn.quantiles import QuantileClipper, RobustScaler

__all__ = ["MinMaxScaler", "QuantileClipper", "RobustScaler", "Standardizer"]
