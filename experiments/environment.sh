# Sourced by the scripts beside it: sets `python` to the interpreter and lets it find the project from any folder. That is PYTHON
# if it is set, else the one of the checkout's .venv, else the active one.
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# choose_framework "torch mindspore" USAGE [FRAMEWORK]: set `framework`, or end with one line saying what is wrong with it.
choose_framework() {
  framework="${3:-}"
  case " $1 " in
    *" $framework "*) ;;
    *)
      echo "error: framework '$framework': expected $2" >&2
      exit 2
      ;;
  esac
  "$python" -c 'import cv2, numpy, yaml' >/dev/null 2>&1 || {
    echo "error: $python lacks this project's packages: run make demo once, or pip install -r requirements/$framework.txt" >&2
    exit 2
  }
}
