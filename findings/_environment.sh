# Sourced by the findings. `environment 3.11 PACKAGE==VERSION ...` makes a temporary folder, enters it and installs
# the packages into an environment of their own, whose interpreter is then $python. The folder goes when the script
# ends. Where the interpreter or a package cannot be had, the script ends with 2: nothing was seen.

environment() {
    local wanted=$1 name
    shift
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
    unset PYTHONDONTWRITEBYTECODE # several processes start from the environment; the first compiles for all
    for name in "python$wanted" python3; do
        if "$name" -c "import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" 2>/dev/null; then
            "$name" -m venv environment || exit 2
            python="$folder/environment/bin/python"
            "$python" -m pip --disable-pip-version-check install -qqq --no-compile "$@" || exit 2
            return
        fi
    done
    echo "no Python $wanted with venv was found, so nothing could be seen" >&2
    exit 2
}
