"""``python -m rmtnet`` is the ``rmtnet`` command."""

from rmtnet.cli import main

if __name__ == "__main__":
    main(prog_name="rmtnet")
