"""Faults on purpose: rules that select requests, and what each fault does to a response.

`rules` selects the requests, `documents` changes what a response says, `transport` how it is sent;
`injector` applies them. Nothing here answers a request by itself.

Options, all with defaults: `throttle` retry_after (text, null, "http-date"); `error` status, body
(json, html, empty or a text), detail; `redirect` location, status; `text_body` text; `next_link`
url; `next_host` origin; `duplicates` count; false documents: count (of the
records that stay); `unsorted` sort (the order answered in); `page_factor` factor; records: at
(index or indices), count, field, value;
`slow`, `bandwidth` bytes_per_second; `hang`, `close`, `latency` seconds; `chunks`, `broken_chunks`
size; `date` seconds (how far the header is ahead) or text; `huge_string` bytes; `gzip_bomb`,
`flood` mib; `flood` chunked; `mutate` mutations (as for `/__mutate`).
"""
