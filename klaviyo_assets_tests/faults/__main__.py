"""The command: `python -m klaviyo_assets_tests.faults` writes `docs/faults.md` anew."""

from klaviyo_assets_tests.faults.matrix import PAGE_PATH, render_page

PAGE_PATH.parent.mkdir(exist_ok=True)
PAGE_PATH.write_text(render_page(), encoding="utf-8")
