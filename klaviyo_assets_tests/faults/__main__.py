"""The command: `python -m klaviyo_assets_tests.faults` writes `docs/faults.md` anew."""

from klaviyo_assets_tests.faults.matrix import PAGE, page

PAGE.parent.mkdir(exist_ok=True)
PAGE.write_text(page(), encoding="utf-8")
