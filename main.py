"""The same program as `python -m dq.main`."""

from dq.main import main

if __name__ == "__main__":
    raise SystemExit(main())
