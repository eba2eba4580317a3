"""What a user would otherwise write: two programs that bring one collection into Parquet files.

loop   requests, json and pandas, page by page, one file at the end
dlt    the rest_api source of dlt, into a folder of Parquet files
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import requests

PAGE_SIZES = {"events": 1000, "profiles": 100}


def read_rows(url: str, kind: str) -> Iterator[dict[str, object]]:
    """Yield the records of a collection as flat rows; what is nested is JSON text."""
    session = requests.Session()
    link: str | None = f"{url}/api/{kind}?page[size]={PAGE_SIZES[kind]}"
    while link:
        page = cast("dict[str, Any]", session.get(link, timeout=60).json())
        for record in page["data"]:
            row: dict[str, object] = {"id": record["id"]}
            for name, value in record["attributes"].items():
                is_nested = isinstance(value, (dict, list))
                row[name] = json.dumps(value) if is_nested else value
            for name, related in record["relationships"].items():
                row[f"{name}_id"] = json.dumps(related["data"])
            yield row
        link = page["links"]["next"]


def run_loop(url: str, kind: str, folder: Path) -> None:
    """Read everything into memory and write one file."""
    pd.DataFrame(list(read_rows(url, kind))).to_parquet(folder / f"{kind}.parquet")


def run_dlt(url: str, kind: str, folder: Path) -> None:
    """Run a pipeline of dlt with what is nested as JSON, the quickest that it does."""
    # By name, because only the benchmarks' environment has it.
    tool: Any = importlib.import_module("dlt")
    rest_api: Any = importlib.import_module("dlt.sources.rest_api")
    source = rest_api.rest_api_source(
        {
            "client": {
                "base_url": f"{url}/api/",
                "paginator": {"type": "json_link", "next_url_path": "links.next"},
            },
            "resources": [
                {
                    "name": kind,
                    "endpoint": {
                        "path": kind,
                        "params": {"page[size]": PAGE_SIZES[kind]},
                        "data_selector": "data",
                    },
                }
            ],
        },
        max_table_nesting=0,
    )
    pipeline = tool.pipeline(
        pipeline_name="yardstick",
        pipelines_dir=str(folder / "pipelines"),
        destination=tool.destinations.filesystem(str(folder / "out")),
        dataset_name="klaviyo",
    )
    pipeline.run(source, loader_file_format="parquet")


def main() -> int:
    """Run one of them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("yardstick", choices=("loop", "dlt"))
    options.add_argument("kind", choices=sorted(PAGE_SIZES))
    options.add_argument("url")
    options.add_argument("folder", type=Path)
    wanted = options.parse_args()
    {"loop": run_loop, "dlt": run_dlt}[wanted.yardstick](wanted.url, wanted.kind, wanted.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
