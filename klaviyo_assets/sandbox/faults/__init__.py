"""What goes wrong on purpose: scripts of faults, and what each does to an answer.

`script` decides which request is hit, `replies`, `pages`, `lies`, `records` change what is said,
`wire` says how it is sent. Nothing here answers a request by itself.

Options, all with defaults: `throttle` retry_after (text, null, "http-date"); `error` status, body
(json, html, empty or a text), detail; `redirect` location, status; `text_body` text; `next_link`
url; `next_host` origin; `duplicates` count; lies: count (of the records that stay); `unsorted` sort
(the order answered in); `page_factor` factor; records: at (index or indices), count, field, value;
`slow`, `bandwidth` bytes_per_second; `hang`, `close`, `latency` seconds; `chunks`, `broken_chunks`
size; `date` seconds (how far the header is ahead) or text; `huge_string` bytes; `gzip_bomb`,
`flood` mib; `flood` chunked; `mutate` mutations (as for `/__mutate`).
"""
