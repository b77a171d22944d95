import sys

from libra_d2.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
