#!/bin/sh
# Takes out of an environment what a running collector or API never loads: tests, headers, debug symbols, and parts of
# libraries for services that this program does not speak to. `docker/check.py` imports and uses what must be left.
set -eu
site="$1" # the environment's site-packages

rm -rf "$site"/pip "$site"/pip-*.dist-info "$site"/setuptools "$site"/setuptools-*.dist-info "$site"/pkg_resources \
    "$site"/_distutils_hack "$site"/distutils-precedence.pth
find "$site" -type d \( -name tests -o -name test -o -name __pycache__ -o -name include \) -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' -o -name '*.a' \) -delete

# Arrow's RPC, S3, ORC and encryption; sources; a library that lies there under three names
(
    cd "$site/pyarrow"
    rm -rf libarrow_flight* libarrow_s3* _substrait.* substrait.py _flight.* _s3fs.* _orc.* ./*_encryption.* \
        flight.py orc.py src includes
    for whole in libarrow_python*.so.*.*.*; do
        for name in "${whole%%.so*}".so "${whole%.*.*}"; do ln -sf "$whole" "$name"; done
    done
)
# ONNX Runtime's tools for making networks; its C library is in the Python module once more
rm -rf "$site"/onnxruntime/transformers "$site"/onnxruntime/tools "$site"/onnxruntime/quantization \
    "$site"/onnxruntime/datasets "$site"/onnxruntime/capi/libonnxruntime.so*
# XGBoost needs scipy's sparse matrices and softmax alone: neither calls BLAS, so scipy's own copy of it goes too
(
    cd "$site/scipy"
    rm -rf cluster constants datasets differentiate fft fftpack integrate interpolate io linalg misc ndimage odr optimize \
        signal spatial stats sparse/linalg sparse/csgraph ../scipy.libs
    find special -mindepth 1 ! -name _logsumexp.py -delete
    echo 'from ._logsumexp import log_softmax, logsumexp, softmax' >special/__init__.py
)
# Colours for other languages than that of Python's tracebacks
(
    cd "$site/pygments/lexers"
    find . -name '*.py' ! -name __init__.py ! -name _mapping.py ! -name python.py ! -name special.py -delete
)
# Databases of others; tools for compiling; names of holidays in other languages (days are asked for, not names)
(
    cd "$site"
    rm -rf sqlalchemy/dialects/mssql sqlalchemy/dialects/mysql sqlalchemy/dialects/oracle sqlalchemy/testing \
        alembic/testing numpy/distutils holidays/locale
)
# The binding for other Pythons than CPython
rm -f "$site"/zstandard/_cffi.* "$site"/zstandard/backend_cffi.py
# Debug symbols. What lies in *.libs was moved about by those who packed it, and does not survive this.
find "$site" -type d -name '*.libs' -prune -o -type f \( -name '*.so' -o -name '*.so.*' \) -exec strip --strip-unneeded {} +
