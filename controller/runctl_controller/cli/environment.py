"""Which of the user's environment variables a training on this computer gets.

It starts in the background, perhaps long after the command, so it cannot inherit them. These are what makes
programs start and compute as they do in the user's shell. Everything else is given with --env, secrets
with --secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOUSE = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME"}
_CODE = {"VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH"}
_THREADS = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"}
_DATA = {"HF_HOME", "HF_DATASETS_CACHE", "TORCH_HOME", "KERAS_HOME", "TFDS_DATA_DIR"}
_NETWORK = {
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
}
NAMES = frozenset(_HOUSE | _CODE | _THREADS | _DATA | _NETWORK)
PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "TORCH_", "PYTORCH_", "XLA_", "JAX_", "TF_")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(^|_)(KEY|KEYS|PWD|AUTH)(_|$)", re.IGNORECASE)
_LOGIN_IN_URL = re.compile(r"://[^/@\s]+@")


def looks_secret(name: str, value: str = "") -> bool:
    """Whether a variable seems to hold a secret: by its name, or a login within a URL."""
    return _SECRET.search(name) is not None or _LOGIN_IN_URL.search(value) is not None


def captured(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a training gets without being asked."""
    return {
        name: value
        for name, value in environ.items()
        if (name in NAMES or name.startswith(PREFIXES)) and not looks_secret(name, value)
    }
