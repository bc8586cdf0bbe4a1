"""`python -m ops` is `dingbridge`."""

from ops.cli import main

if __name__ == "__main__":
    main()
