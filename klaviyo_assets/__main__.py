"""`python -m klaviyo_assets` is the console command `klaviyo-assets`."""

import sys

from klaviyo_assets.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
