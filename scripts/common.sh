# shellcheck shell=bash
# What the scripts share; not a script itself. Each is thin over the `velib` command and takes its options.

# The project's folder: scripts work from any directory, and relative paths in the settings mean this one.
PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SYSTEM="${SYSTEM:-velib}"

# help_if_asked TEXT ARGUMENTS: print the help and end, if that is what was asked for.
help_if_asked() {
    local text="$1"
    shift
    for argument in "$@"; do
        case "$argument" in
            -h | --help)
                printf '%s\n' "$text"
                exit 0
                ;;
        esac
    done
}

# absolute PATH: as seen from where the script was called.
absolute() {
    case "$1" in
        /*) printf '%s' "$1" ;;
        *) printf '%s/%s' "$PWD" "$1" ;;
    esac
}

# Run `velib ...`, in the project's folder: the one of the project's environment, else that in PATH.
velib() {
    cd "$PROJECT" || exit 1
    if [ -n "${VELIB:-}" ]; then
        "$VELIB" "$@"
    elif [ -x "$PROJECT/.venv/bin/velib" ]; then
        "$PROJECT/.venv/bin/velib" "$@"
    elif type -P velib >/dev/null; then # a program: `command -v` would find this function
        command velib "$@"
    else
        echo "velib is not installed; run: make -C $PROJECT setup" >&2
        return 1
    fi
}
