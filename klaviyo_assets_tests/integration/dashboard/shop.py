"""A shop in New York as DuckDB tables, small enough to count by hand. It is 10 August 2026, noon.

The period is 12 May to 9 August 2026. 21 people, p1 to p21, and what they did:

* p1 to p5 have addresses at big.example, p6 to p9 at small.example, p10 at p10.example;
* all ten were emailed on 1 August; p1 clicked on 2 August, p2 opened on 1 June, p3 only by machine;
* p1 ordered in May, June and August, p2 in June, p20 and p21 in August.
"""

from datetime import UTC, datetime
from pathlib import Path

import duckdb

NOW = datetime(2026, 8, 10, 16, tzinfo=UTC)
EVIL_NAME = "<script>alert('a \"name\"')</script> & co"
ADDRESS = "p10@p10.example"

EMPTY_SHOP = """
CREATE TABLE accounts(id VARCHAR, timezone VARCHAR, preferred_currency VARCHAR,
    contact_information_organization_name VARCHAR);
CREATE TABLE metrics(id VARCHAR, name VARCHAR, integration VARCHAR);
CREATE TABLE mapped_metrics(id VARCHAR, metric_id VARCHAR, deleted_at TIMESTAMPTZ);
CREATE TABLE campaigns(id VARCHAR, name VARCHAR);
CREATE TABLE flows(id VARCHAR, name VARCHAR);
CREATE TABLE events(datetime TIMESTAMPTZ, metric_id VARCHAR, profile_id VARCHAR, value DOUBLE,
    value_currency VARCHAR, attributed_campaign_id VARCHAR, attributed_flow_id VARCHAR,
    event_properties VARCHAR, is_machine_open BOOLEAN, synced_at TIMESTAMPTZ);
CREATE TABLE lists(id VARCHAR, name VARCHAR, deleted_at TIMESTAMPTZ);
CREATE TABLE lists_detailed(id VARCHAR, name VARCHAR, profile_count BIGINT, deleted_at TIMESTAMPTZ);
CREATE TABLE lists_detailed_history(id VARCHAR, profile_count BIGINT, valid_from TIMESTAMPTZ,
    valid_to TIMESTAMPTZ);
CREATE TABLE list_members(list_id VARCHAR, joined_group_at TIMESTAMPTZ, left_at TIMESTAMPTZ);
CREATE TABLE profiles(id VARCHAR, email VARCHAR, deleted_at TIMESTAMPTZ,
    subscriptions_email_marketing_consent VARCHAR, subscriptions_sms_marketing_consent VARCHAR,
    subscriptions_mobile_push_marketing_consent VARCHAR,
    subscriptions_whatsapp_marketing_consent VARCHAR);
CREATE TABLE campaign_values_reports(date DATE, conversion_metric_id VARCHAR, send_channel VARCHAR,
    recipients DOUBLE, opens_unique DOUBLE, clicks_unique DOUBLE, conversion_uniques DOUBLE);
CREATE TABLE flow_series_reports AS FROM campaign_values_reports;
CREATE TABLE billing_usage(id VARCHAR, usage_used DOUBLE, usage_max BIGINT, unit VARCHAR,
    period_start TIMESTAMPTZ, period_end TIMESTAMPTZ, deleted_at TIMESTAMPTZ);
"""

FILLED_SHOP = """
INSERT INTO accounts VALUES ('A1', 'America/New_York', 'EUR', 'A shop');
INSERT INTO metrics VALUES
    ('own', 'Placed Order', '{"category": "API"}'),
    ('order', 'Placed Order', '{"category": {"name": "eCommerce"}}'),
    ('sent', 'Received Email', NULL), ('open', 'Opened Email', NULL),
    ('click', 'Clicked Email', NULL), ('bounce', 'Bounced Email', NULL),
    ('spam', 'Marked Email as Spam', NULL);
INSERT INTO campaigns VALUES ('c1', $evil_name), ('c2', 'Summer');
INSERT INTO flows VALUES ('f1', 'Welcome');

-- Orders. The first and the last count on the days of New York, the 3rd and 4th lie outside.
INSERT INTO events BY NAME SELECT * FROM (VALUES
    ('2026-05-12 04:00:00+00', 'p1', 100.25, 'EUR', 'c1', NULL),
    ('2026-08-10 03:59:59+00', 'p1',  50.00, 'EUR', NULL, 'f1'),
    ('2026-05-12 03:59:59+00', 'p2',   7.00, 'EUR', 'c1', NULL),
    ('2026-08-10 04:00:00+00', 'p3',   8.00, 'EUR', 'c1', NULL),
    ('2026-06-10 12:00:00+00', 'p1',  20.00, NULL,  'c2', 'f1'),
    ('2026-06-10 13:00:00+00', 'p2',  30.00, 'EUR', NULL, NULL),
    ('2026-08-01 12:00:00+00', 'p20', 40.00, 'EUR', 'gone', NULL),
    ('2026-08-02 12:00:00+00', 'p21', 999.0, 'USD', 'c1', NULL)
) AS t(datetime, profile_id, value, value_currency, attributed_campaign_id, attributed_flow_id);
UPDATE events SET metric_id = 'order';
INSERT INTO events BY NAME SELECT '2026-06-01 12:00:00+00' AS datetime, 'own' AS metric_id,
    'p9' AS profile_id, 5000 AS value, 'EUR' AS value_currency;

-- Email.
INSERT INTO events BY NAME SELECT
    '2026-08-01 12:00:00+00' AS datetime, 'sent' AS metric_id, 'p' || n AS profile_id,
    json_object('Email Domain', CASE WHEN n <= 5 THEN 'BIG.example' WHEN n <= 9 THEN 'small.example'
        ELSE $address END)::VARCHAR AS event_properties
FROM range(1, 11) AS r(n);
INSERT INTO events BY NAME SELECT
    datetime, metric_id, profile_id, is_machine_open, '{"Email Domain": "big.example"}'
        AS event_properties
FROM (VALUES
    ('2026-08-02 12:00:00+00', 'click', 'p1', NULL),
    ('2026-08-02 11:00:00+00', 'open', 'p1', false),
    ('2026-06-01 12:00:00+00', 'open', 'p2', NULL),
    ('2026-08-01 13:00:00+00', 'open', 'p3', true),
    ('2026-03-01 12:00:00+00', 'open', 'p4', false),
    ('2026-08-01 12:00:00+00', 'bounce', 'p5', NULL),
    ('2026-08-01 14:00:00+00', 'spam', 'p5', NULL)
) AS t(datetime, metric_id, profile_id, is_machine_open);
UPDATE events SET synced_at = '2026-08-10 15:30:00+00';

INSERT INTO lists VALUES ('l1', 'Newsletter', NULL), ('l2', NULL, NULL);
INSERT INTO lists_detailed VALUES ('l1', 'Newsletter', 12, NULL);
INSERT INTO lists_detailed_history VALUES
    ('l1', 10, '2026-07-18 12:00:00+00', '2026-08-02 12:00:00+00'),
    ('l1', 11, '2026-08-02 12:00:00+00', '2026-08-02 13:00:00+00'),
    ('l1', 12, '2026-08-02 13:00:00+00', NULL),
    ('l2', 9, '2026-07-18 12:00:00+00', '2026-08-09 12:00:00+00'),
    ('l2', 4, '2026-08-09 12:00:00+00', NULL),
    ('l3', 99, '2026-07-18 12:00:00+00', '2026-08-01 12:00:00+00');
INSERT INTO list_members VALUES ('l1', '2025-01-01 12:00:00+00', NULL),
    ('l1', '2026-08-01 12:00:00+00', NULL), ('l1', '2026-08-02 12:00:00+00', NULL),
    ('l1', '2025-01-01 12:00:00+00', '2026-07-01 12:00:00+00'),
    ('l2', '2026-08-09 12:00:00+00', NULL);
INSERT INTO profiles SELECT 'p' || n, 'p' || n || '@big.example',
    CASE WHEN n = 21 THEN TIMESTAMPTZ '2026-08-01 00:00:00+00' END,
    CASE WHEN n <= 8 THEN 'SUBSCRIBED' WHEN n <= 12 THEN 'UNSUBSCRIBED'
        ELSE 'NEVER_SUBSCRIBED' END, NULL, NULL, NULL
FROM range(1, 22) AS r(n);
INSERT INTO campaign_values_reports VALUES
    ('2026-07-01', 'order', 'email', 1000, 400, 50, 10),
    ('2026-07-02', 'order', 'sms', 99, 0, 9, 9),
    ('2026-07-02', 'own', 'email', 1000, 400, 50, 99),
    ('2026-08-01', 'order', 'email', 500, 0, 0, 0);
INSERT INTO flow_series_reports VALUES ('2026-07-05', 'order', 'email', 1000, 500, 100, 30);
INSERT INTO billing_usage VALUES ('email', 8200, 10000, 'messages', '2026-08-01 04:00:00+00',
    '2026-09-01 04:00:00+00', NULL);
"""


def open_empty_shop(path: Path | str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Return a shop whose relations are all there, and have no row."""
    opened = duckdb.connect(str(path))
    opened.execute("SET TimeZone = 'UTC'")
    opened.execute(EMPTY_SHOP)
    return opened


def open_shop(path: Path | str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Return the shop of the module's docstring."""
    opened = open_empty_shop(path)
    texts = {"$evil_name": EVIL_NAME, "$address": ADDRESS}
    sql = FILLED_SHOP
    for name, text in texts.items():
        sql = sql.replace(name, "'" + text.replace("'", "''") + "'")
    opened.execute(sql)
    return opened
