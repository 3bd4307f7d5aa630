#!/usr/bin/env bash
#
# Runs everything in this repository, and first makes what is needed to run it.
# `./run.sh --help` says what there is; CONTRIBUTING.md says how it works.
#
# The file can also be sourced, which defines the functions and does nothing.

set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
VENV="${PARALLEL_AR_VENV:-$ROOT/.venv}"
# Holds 'unfinished' from the first moment of .venv, and its key at the end.
STAMP="$VENV/parallel_ar.stamp"
DOCS_VENV="$ROOT/.venv-docs"
# Extras of setup.py for an accelerator, such as tpu or cuda13.
EXTRAS="${PARALLEL_AR_EXTRAS:-}"
# Bytes of compiled programs that are kept, of all versions together.
CACHE_BYTES=$((4 << 30))

say() { printf 'run.sh: %s\n' "$*" >&2; }

die() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

# ---------------------------------------------------------------- experiments

# Prints the path of each module that can be run, one a line.
experiment_files() {
  (cd -- "$ROOT" && grep -lE "^if __name__ == ['\"]__main__['\"]" \
    experiments/*.py experiments/*/*.py 2>/dev/null) || true
}

# Prints `name  first line of its docstring` for each experiment.
list_experiments() {
  local path name
  experiment_files | while IFS= read -r path; do
    name="${path#experiments/}"
    name="${name%.py}"
    awk -v name="$name" '/^r?"""/ {
      sub(/^r?"""/, ""); sub(/""".*/, "")
      printf "  %-12s %s\n", name, $0; exit
    }' "$ROOT/$path"
  done
}

help() {
  cat <<EOF
Usage: ./run.sh COMMAND [arguments]

  quickstart   train on real digits, evaluate, sample; a few minutes
  test         ruff, mypy and pytest; with arguments: only pytest, with them
  docs         build the site of docs/ and the docstrings into site/, strictly
  dist         build the sdist and the wheel into dist/, and check them
  EXPERIMENT   run experiments/EXPERIMENT.py with the flags that follow
  env          print the settings below for your own shell:
               eval "\$(./run.sh env)"
  --help       this text

Experiments (\`./run.sh EXPERIMENT --help\` lists the flags of one):
$(list_experiments)

The first call makes .venv (about 1 GB) with python3.13, 3.12 or 3.11, or with
the one that PYTHON names; it is made again when setup.py or requirements.lock
changes. Paths in flags are relative to the repository. What is set on the way
to make XLA fast on a CPU (the allocator's MALLOC_*, XLA_FLAGS,
JAX_COMPILATION_CACHE_DIR and two more of JAX) never overrides your own
environment, and PARALLEL_AR_SETTINGS=off leaves all of it out.

PARALLEL_AR_EXTRAS=tpu, cuda12 or cuda13 installs JAX's plugin for it too, and
\`--platform=tpu\` or \`cuda\` ends a script where there is none. The CPU's
settings are then left out. \`tpu-compile\` installs the compiler of TPUs alone,
\`datasets\` and \`tfds\` readers of data, \`wandb\` that service's client.
EOF
}

# ---------------------------------------------------------------- environment

# Prints the version of a Python, as 3.13.
python_version() {
  "$1" -c 'import sys
print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# find_python [VERSION...]: prints the first Python that fits, the newest JAX
# first, on PATH or among pyenv's, or says what to install.
find_python() {
  local candidates=() python version others='' bare=''
  local pyenv="${PYENV_ROOT:-${HOME:-}/.pyenv}/versions"
  local wanted=("$@")
  if (($# == 0)); then wanted=(3.13 3.12 3.11); fi
  for version in "${wanted[@]}"; do
    candidates+=("python$version")
    for python in "$pyenv/$version".*/bin/python; do
      if [[ -x $python ]]; then candidates+=("$python"); fi
    done
  done
  if (($# == 0)); then candidates+=(python3); fi
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for python in "${candidates[@]}"; do
    version="$(python_version "$python")" || continue
    case "$version" in
      3.11 | 3.12 | 3.13) ;;
      *) others+=" $python is $version;" && continue ;;
    esac
    if "$python" -I -c 'import ensurepip, venv' >/dev/null 2>&1; then
      printf '%s\n' "$python"
      return
    fi
    bare="${bare:-$version}"
  done
  if [[ -n $bare ]]; then
    die "Python $bare is here, but without the module that makes virtual" \
      "environments. Install it (Debian, Ubuntu: apt-get install" \
      "python$bare-venv), or set PYTHON to a Python that has it."
  elif [[ -n ${PYTHON:-} ]]; then
    die "PYTHON=$PYTHON cannot be used:${others:- it does not run.} Set it to" \
      "a Python 3.11, 3.12 or 3.13, or unset it to have one searched."
  fi
  die "no Python 3.11, 3.12 or 3.13 was found on PATH;${others} Install one" \
    "(Debian 12: apt-get install python3 python3-venv), or set PYTHON to" \
    "where it is: PYTHON=/path/to/python3.13 ./run.sh ..."
}

# Prints what .venv depends on as one hash: the kind of Python, the place of
# the repository, and what is to be installed.
venv_key() {
  "$1" -I - "$ROOT" ${EXTRAS:+"$EXTRAS"} <<'EOF'
import hashlib
import os
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
facts = [sys.implementation.cache_tag, os.uname().machine, *sys.argv[1:]]
digest = hashlib.sha256(repr(facts).encode())
for name in ('setup.py', 'requirements.lock'):
  digest.update((root / name).read_bytes())
print(digest.hexdigest())
EOF
}

# True if .venv is whole, and is what the pins and PYTHON ask for.
venv_is_current() {
  [[ -x $VENV/bin/python && -f $STAMP ]] || return 1
  local key
  key="$(venv_key "${PYTHON:-$VENV/bin/python}" 2>/dev/null)" || return 1
  [[ $(cat -- "$STAMP") == "$key" ]]
}

# Measures once which of XLA's two sets of CPU kernels suit this machine.
choose_kernels() {
  say "measuring which of XLA's CPU kernels suit this machine (about 20 s)"
  (cd -- "$ROOT" && "$VENV/bin/python" -m experiments.cpu_libraries \
    --out="$VENV/parallel_ar.xla_flags") >>"$1" 2>&1 \
    || say "they could not be measured (log: $1); XLA's own choice stays"
}

# Ends with what pip said, and with what to do about it.
die_of_pip() {
  local log="$1"
  tail -n 12 -- "$log" >&2
  if grep -qiE 'connection (broken|refused|reset|error)|name resolution|'\
'timed out|network is unreachable|max retries|proxyerror|versions: none' \
    "$log"; then
    die "pip could not reach the package registry (the end of $log is above)." \
      "Check the network and the proxy (HTTPS_PROXY), or name a mirror" \
      "(PIP_INDEX_URL), and run the same command again."
  fi
  if grep -qi 'do not match the hashes' "$log"; then
    die "a package is not the one that requirements.lock names (the end of" \
      "$log is above): it was damaged on its way, or somebody changed it." \
      "Install it from nowhere; try another index (PIP_INDEX_URL)."
  fi
  die "pip could not install what requirements.lock asks for (the" \
    "end of $log is above). If a version is missing for this Python, try" \
    "another: PYTHON=python3.12 ./run.sh ...; every call starts afresh."
}

# Refuses extras that are none, before anything is made.
check_extras() {
  local extra extras
  IFS=, read -ra extras <<<"$EXTRAS"
  for extra in "${extras[@]}"; do
    case "$extra" in
      tpu | cuda12 | cuda13 | tpu-compile | datasets | tfds | wandb) ;;
      *) die "PARALLEL_AR_EXTRAS=$EXTRAS: expected tpu, cuda12 or cuda13," \
        "tpu-compile, datasets, tfds, wandb; with commas between, no blanks." ;;
    esac
  done
}

make_venv() {
  local python="$1" log="$VENV/install.log"
  if [[ -d $VENV && -n $(ls -A -- "$VENV") && ! -f $STAMP ]]; then
    die "$VENV exists, but run.sh did not make it. Move it away, or set" \
      "PARALLEL_AR_VENV to a directory that run.sh may make and replace."
  elif [[ -f $STAMP && $(cat -- "$STAMP") == unfinished ]]; then
    say "$VENV was left unfinished; making it afresh"
  elif [[ -f $STAMP ]]; then
    say "the pins, the Python or the place changed; making $VENV afresh"
  fi
  say "making $VENV with $("$python" -V) (about 1 GB, 1 to 5 minutes, once)"
  rm -rf -- "$VENV"
  mkdir -p -- "$VENV"
  printf 'unfinished\n' >"$STAMP"
  "$python" -m venv "$VENV" >"$log" 2>&1 || {
    tail -n 12 -- "$log" >&2
    die "$python -m venv failed (its words are above). On Debian and Ubuntu" \
      "install python3-venv; on a full disk make room; then try again."
  }
  say "installing the pinned packages with pip (log: $log)"
  # Only files whose sha256 is in the lock, and no code of theirs runs here:
  # wheels are unpacked, and what builds the project itself is pinned as well.
  (
    # No `set -e` holds on the left of `||`, so each one is asked.
    cd -- "$ROOT" || exit
    install=("$VENV/bin/python" -m pip install --no-input
      --disable-pip-version-check)
    "${install[@]}" --require-hashes --only-binary :all: -r requirements.lock \
      || exit
    "${install[@]}" --no-deps --no-build-isolation --no-index -e . || exit
    # The plugin of an accelerator is as large as all else, and no part of the
    # lock: it is of the version that the pinned JAX asks for. What tfds needs
    # of `promise` is on the index as source alone.
    if [[ -n $EXTRAS ]]; then
      "${install[@]}" --only-binary :all: --no-binary promise \
        --no-build-isolation -c constraints.txt -e ".[$EXTRAS]" || exit
    fi
  ) >>"$log" 2>&1 || die_of_pip "$log"
  choose_kernels "$log"
  venv_key "$VENV/bin/python" >"$STAMP.new"
  mv -f -- "$STAMP.new" "$STAMP"
  say "$VENV is ready"
}

# Tells other calls, for as long as this process and those it becomes live, that
# .venv is used. Waits where another call is making it.
hold_venv() {
  if ! command -v flock >/dev/null 2>&1; then return; fi
  exec 8>>"$VENV.used"
  flock -n -s 8 || {
    say "another run.sh is at work on $VENV; waiting for it"
    flock -s 8
  }
}

# Makes .venv unless it is current. Calls at the same time wait in turn, and
# none is removed while it is used.
ensure_venv() {
  check_extras
  mkdir -p -- "$(dirname -- "$VENV")"
  if venv_is_current && hold_venv && venv_is_current; then return; fi
  exec 8>&-
  local python
  python="$(find_python)"
  (
    if command -v flock >/dev/null 2>&1; then
      flock -n 9 || {
        say "another run.sh is at work on $VENV; waiting for it"
        flock 9
      }
      if ! venv_is_current; then
        flock -n -x 8 || die "$VENV has to be made again (the pins, the Python" \
          "or the place changed), but a process that run.sh started still" \
          "uses it. Wait for its end, or set PARALLEL_AR_VENV to another" \
          "directory."
      fi
    fi
    if ! venv_is_current; then make_venv "$python"; fi
  ) 9>"$VENV.lock" 8>>"$VENV.used"
  hold_venv
}

# ------------------------------------------------------------------- settings

# set_default NAME VALUE: exports it unless the caller's environment has NAME.
set_default() {
  local name="$1"
  if [[ -z ${!name+set} ]]; then export "$name=$2"; fi
}

# Prints where compiled programs are kept: apart by jaxlib and by CPU, since a
# program of another CPU can end in an illegal instruction.
cache_directory() {
  local base="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}" cpu
  if [[ -z $base ]]; then return 1; fi
  cpu="$({ grep -E '^(model name|flags|Features|CPU part)' /proc/cpuinfo \
    || sysctl -n machdep.cpu.brand_string || uname -m; } 2>/dev/null | sort -u)"
  "$1" -I - "$base" "$cpu" <<'EOF'
import hashlib
import importlib.metadata
import sys

base, cpu = sys.argv[1:]
version = importlib.metadata.version('jaxlib')
cpu = hashlib.sha256(cpu.encode()).hexdigest()[:12]
print(f'{base}/parallel_ar/jaxlib-{version}-cpu-{cpu}')
EOF
}

# on_cpu [FLAG...]: whether a script with these flags computes on the CPU, as
# far as one can know before JAX starts.
on_cpu() {
  local word before='' wanted="${JAX_PLATFORMS:-}"
  for word in "$@"; do
    case "$before" in --platform | -platform) wanted="$word" ;; esac
    case "$word" in --platform=* | -platform=*) wanted="${word#*=}" ;; esac
    before="$word"
  done
  if [[ -z $wanted && ,$EXTRAS, == *,@(tpu|cuda12|cuda13),* ]]; then
    wanted="$EXTRAS"
  fi
  [[ ${wanted:-cpu} == cpu* ]]
}

# export_settings PYTHON [FLAG...]: exports what makes XLA fast on a CPU, and on
# an accelerator only where compiled programs are kept.
export_settings() {
  local python="$1" cache flag cpu=no
  shift
  if [[ ${PARALLEL_AR_SETTINGS:-on} == off ]]; then return; fi
  if on_cpu "$@"; then cpu=yes; fi
  if [[ $cpu == yes ]] && getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
    # XLA takes one large block a step. By default glibc returns it to the
    # kernel, and every step faults its pages in again; this keeps it. The
    # price: the resident memory never shrinks, and can be several times larger.
    set_default MALLOC_MMAP_MAX_ 0
    set_default MALLOC_TRIM_THRESHOLD_ -1
    set_default MALLOC_TOP_PAD_ 67108864
    set_default MALLOC_ARENA_MAX 1
  fi
  if cache="$(cache_directory "$python" 2>/dev/null)" \
    && mkdir -p -- "$cache" 2>/dev/null; then
    if [[ -z ${JAX_COMPILATION_CACHE_DIR+set} ]]; then
      # Removes torn entries and the oldest; that it failed is no failure.
      "$python" -I "$ROOT/parallel_ar/compilation_cache.py" "$cache" \
        "$CACHE_BYTES" 2>/dev/null || true
    fi
    set_default JAX_COMPILATION_CACHE_DIR "$cache"
    set_default JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS 0.1
    set_default JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES -1
  fi
  flag="$(kernels_file "$python")"
  if [[ $cpu == yes && -f $flag ]]; then
    flag="$(head -n 1 -- "$flag")"
    if [[ -n $flag && ${XLA_FLAGS:-} != *"${flag%%=*}"* ]]; then
      export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$flag"
    fi
  fi
}

# Prints where the choice of kernels is stored: the flag, and why, as comments.
kernels_file() {
  printf '%s\n' "$(dirname -- "$(dirname -- "$1")")/parallel_ar.xla_flags"
}

# Prints the settings in force as lines that a shell can evaluate.
print_settings() {
  local name
  if [[ ${PARALLEL_AR_SETTINGS:-on} != off ]]; then
    grep '^#' -- "$(kernels_file "$1")" 2>/dev/null || true
  fi
  for name in MALLOC_MMAP_MAX_ MALLOC_TRIM_THRESHOLD_ MALLOC_TOP_PAD_ \
    MALLOC_ARENA_MAX JAX_COMPILATION_CACHE_DIR \
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS \
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES XLA_FLAGS; do
    if [[ -n ${!name+set} ]]; then
      printf 'export %s=%q\n' "$name" "${!name}"
    fi
  done
}

# ------------------------------------------------------------------- commands

# Prints how many tests to run at once: one more than the cores, since some wait
# for processes that they start, but up to 5, and each with 4 GB of memory: the
# least of what is free, what a container may take, and what a Mac has.
test_workers() {
  local cores workers memory group="${1:-/sys/fs/cgroup}"
  cores="$({ nproc || getconf _NPROCESSORS_ONLN || echo 1; } 2>/dev/null)"
  workers=$((cores < 4 ? cores + 1 : 5))
  memory="$({
    awk '/^MemAvailable/ {printf "%.0f\n", 1024 * $2}' /proc/meminfo
    cat -- "$group/memory.max" "$group/memory/memory.limit_in_bytes"
    sysctl -n hw.memsize
  } 2>/dev/null | awk '/^[0-9]+$/ && (!least || $1 < least) {least = $1}
    END {if (least) print int(least / 4e9)}')" || true
  if [[ -n $memory ]] && ((memory < workers)); then workers=$memory; fi
  if ((cores < 2 || workers < 2)); then workers=0; fi
  printf '%s\n' "$workers"
}

# Runs one check by its name, says so, and keeps the names of those that fail.
FAILED=''
check() {
  local name="$1"
  shift
  say "$name"
  "$@" || FAILED+=", $name"
}

run_tests() {
  local python="$VENV/bin/python"
  ensure_venv
  export_settings "$python"
  if (($# > 0)); then
    say "pytest $*"
    exec "$python" -m pytest "$@"
  fi
  check 'ruff check' "$python" -m ruff check .
  check 'ruff format --check' "$python" -m ruff format --check .
  check 'mypy' "$python" -m mypy
  set -- -n "$(test_workers)" --dist worksteal --durations=10
  if [[ -z $FAILED ]]; then
    say 'pytest'
    exec "$python" -m pytest "$@"
  fi
  check 'pytest' "$python" -m pytest "$@"
  die "failed: ${FAILED#, }"
}

# Makes the environment of the site and the packages. It needs no JAX: what
# makes them reads the sources.
ensure_docs_venv() {
  local lock="$ROOT/docs/requirements.lock" key python log="$DOCS_VENV.log"
  key="$(cksum <"$lock")"
  if [[ $(cat -- "$DOCS_VENV/lock" 2>/dev/null) == "$key" ]]; then return; fi
  python="$(find_python)"
  say "making $DOCS_VENV with $("$python" -V) (once; log: $log)"
  "$python" -m venv "$DOCS_VENV" --clear >"$log" 2>&1 \
    || die "$python -m venv failed; $log has its words."
  "$DOCS_VENV/bin/python" -m pip install --no-input \
    --disable-pip-version-check --require-hashes --only-binary :all: \
    -r "$lock" >>"$log" 2>&1 || die_of_pip "$log"
  printf '%s\n' "$key" >"$DOCS_VENV/lock"
}

# Any warning ends it: a page in no place, a link to nothing, a wrong docstring.
build_docs() {
  ensure_docs_venv
  say "mkdocs build --strict $*"
  NO_MKDOCS_2_WARNING=1 "$DOCS_VENV/bin/python" -m mkdocs build --strict "$@"
}

# The wheel is built from the sdist, so that one is whole too.
build_packages() {
  ensure_docs_venv
  rm -rf -- "$ROOT/dist" "$ROOT/build"
  "$DOCS_VENV/bin/python" -m build --no-isolation --outdir "$ROOT/dist" "$ROOT"
  "$DOCS_VENV/bin/python" -m twine check --strict "$ROOT"/dist/*
}

run_experiment() {
  local name="${1%.py}" python="$VENV/bin/python"
  shift
  name="${name#experiments/}"
  if ! experiment_files | grep -qxF "experiments/$name.py"; then
    say "there is no command and no experiment named '$name'." \
      "The commands are test, docs, dist and env; the experiments are:"
    list_experiments >&2
    exit 2
  fi
  ensure_venv
  export_settings "$python" "$@"
  say "python -m experiments.${name//\//.} $*"
  exec "$python" -m "experiments.${name//\//.}" "$@"
}

main() {
  cd -- "$ROOT"
  case "${1:-}" in
    '' | help | -h | --help) help ;;
    test)
      shift
      run_tests "$@"
      ;;
    docs)
      shift
      build_docs "$@"
      ;;
    dist) build_packages ;;
    env)
      ensure_venv
      export_settings "$VENV/bin/python"
      print_settings "$VENV/bin/python"
      ;;
    *) run_experiment "$@" ;;
  esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
