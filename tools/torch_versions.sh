#!/usr/bin/env bash
# Run the tests under every supported minor version of torch and of Python.
#
#   tools/torch_versions.sh [--quick] [--torch LIST] [--python LIST] [--jobs N] [FOLDER]
#
#   --quick    run only the tests of torch's private names, core, kernels, layers and session
#   --torch    torch versions such as 2.6,2.13; without --python they run under python3
#   --python   Python versions such as 3.10,3.13; without --torch they use the torch of
#              constraints.txt
#   --jobs     number of torch/Python pairs tested in parallel, one process each (default 1)
#   FOLDER     where to put a virtual environment and a log for each pair (default .venvs/); the
#              next run reuses the environments
#
# Without --torch and --python, test every torch under python3, and the torch of constraints.txt
# under every Python.
#
# Print a table of the results. Exit with an error if a test fails or an environment cannot be
# created. Skip a pair, with a message, if its interpreter or its build of torch is missing.
#
# Builds without CUDA, 1 GB each, come from PyTorch's index. If PIP_EXTRA_INDEX_URL is empty, all
# builds come from pip's default index, which on Linux may mean 5 GB each.
set -uo pipefail
cd "$(dirname "$0")/.."

EVERY_TORCH=2.6,2.7,2.8,2.9,2.10,2.11,2.12,2.13,2.14
EVERY_PYTHON=3.10,3.11,3.12,3.13,3.14
QUICK=(tests/test_torch_private.py tests/{core,kernels,layers,session})
# Leave out the programs, and most tests that start many processes or are slow.
OTHERS='benchmarks|cli|distributed|docs|fixtures|helpers|integrations|plan|recipes|reliability|report|runs|tools'
ALL=(tests/reliability/test_{amp,compile,wrappers}.py tests/test_*.py $(ls -d tests/*/ | grep -vE "/($OTHERS|__pycache__)/"))

export PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL-https://download.pytorch.org/whl/cpu}
export PIP_DISABLE_PIP_VERSION_CHECK=1 SPARSEWRIGHT_REQUIRE_NATIVE=true

tests=("${ALL[@]}") torch='' python='' jobs=1 folder=.venvs
while [ $# -gt 0 ]; do
    case $1 in
        --quick) tests=("${QUICK[@]}"); shift ;;
        --torch) torch=$2; shift 2 ;;
        --python) python=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) folder=$1; shift ;;
    esac
done
mkdir -p "$folder/wheels" "$folder/rows"
folder=$(realpath "$folder")
rm -rf "$folder"/wheels/* "$folder"/rows/*

# Find an interpreter of a minor version on the PATH or in pyenv.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        "$candidate" -c '' 2>/dev/null && echo "$candidate" && return
    done
    return 1
}

# Build the package for one Python. One build serves all versions of torch, as it does not link
# to torch.
build() {
    find_python "$1" >/dev/null || return
    echo "building for Python $1" >&2
    "$(find_python "$1")" -m pip wheel -q --no-deps -w "$folder/wheels/$1" . \
        >"$folder/wheels/$1.log" 2>&1 || tail -5 "$folder/wheels/$1.log" >&2
}

# Create or update one environment; torch and other installed packages stay.
install() {
    local env=$1 torch=$2 python=$3
    [ -x "$env/bin/python" ] || "$(find_python "$python")" -m venv "$env" || return
    "$env/bin/pip" uninstall -q -y sparsewright
    "$env/bin/pip" install -q "torch==$torch.*" 'pytest>=8' 'hypothesis>=6.100' \
        'pytorch-optimizer>=3' "$(echo "$folder/wheels/$python"/*.whl)[cli,tensorboard,plot,report]"
}

# Test one pair and write its row of the table.
check() {
    local torch=$1 python=$2 env="$folder/torch-$1-python-$2" began summary status
    local row="$folder/rows/$1-$2" log="$folder/torch-$1-python-$2.log"
    if ! find_python "$python" >/dev/null; then
        echo "torch $torch, Python $python: skipped, this Python is not installed" >&2
        return
    fi
    if ! install "$env" "$torch" "$python" >"$log" 2>&1; then
        if grep -q 'No matching distribution found for torch' "$log"; then
            echo "torch $torch, Python $python: skipped, the package index has no such torch" >&2
            return
        fi
        echo "torch $torch, Python $python: the environment could not be created, see $log" >&2
        echo "| $torch | $python | - | no environment | - | - |" >"$row"
        return
    fi
    began=$SECONDS
    "$env/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" >"$log" 2>&1
    status=$?
    summary=$(tail -1 "$log")
    count() { grep -oE "[0-9]+ $1" <<<"$summary" | grep -oE '[0-9]+' || echo 0; }
    local failed=$(($(count failed) + $(count error)))
    [ $status -eq 0 ] || [ $failed -gt 0 ] || failed="pytest exit $status"
    torch=$("$env/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')
    python=$("$env/bin/python" -c 'import platform; print(platform.python_version())')
    echo "| $torch | $python | $(count passed) | $failed | $(count skipped) |" \
        "$((SECONDS - began)) |" | tee "$row" >&2
}

# Print every combination of two lists.
pairs() {
    local torch python
    for torch in ${1//,/ }; do for python in ${2//,/ }; do echo "$torch $python"; done; done
}

main_python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
main_torch=$(sed -n 's/^torch==\([0-9]*\.[0-9]*\).*/\1/p' constraints.txt)
if [ -n "$torch$python" ]; then
    list=$(pairs "${torch:-$main_torch}" "${python:-$main_python}")
else
    list=$(pairs "$EVERY_TORCH" "$main_python" && pairs "$main_torch" "$EVERY_PYTHON")
fi
list=$(sort -uV <<<"$list")
for python in $(cut -d' ' -f2 <<<"$list" | sort -uV); do build "$python"; done
while read -r torch python; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    check "$torch" "$python" &
done <<<"$list"
wait

rows=$(cat $(ls "$folder"/rows/* 2>/dev/null | sort -V) </dev/null)
printf '\n| torch | Python | passed | failed | skipped | seconds |\n|---|---|---:|---:|---:|---:|\n'
echo "$rows"
[ -n "$rows" ] && ! grep -qvE '^\| [^|]+ \| [^|]+ \| [0-9]+ \| 0 \|' <<<"$rows"
