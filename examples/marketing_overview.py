"""The questions of the marketing overview, open to change: edit the SQL, see the answer.

    pip install marimo altair
    marimo edit examples/marketing_overview.py

Reads `klaviyo.duckdb` in KLAVIYO_DATA_DIR, read-only; makes no request.
"""

import marimo

app = marimo.App(width="medium", app_title="Marketing overview")


@app.cell
def _():
    import os
    from datetime import UTC, datetime
    from pathlib import Path

    import altair as alt
    import duckdb
    import marimo as mo

    from klaviyo_assets.dashboard.questions import QUESTIONS, OverviewReader, query_parameters

    return OverviewReader, Path, QUESTIONS, UTC, alt, datetime, duckdb, mo, os, query_parameters


@app.cell
def _(mo, os):
    folder = mo.ui.text(
        value=os.environ.get("KLAVIYO_DATA_DIR", "data"), label="KLAVIYO_DATA_DIR", full_width=True
    )
    folder
    return (folder,)


@app.cell
def _(OverviewReader, Path, UTC, datetime, duckdb, folder, mo):
    path = Path(folder.value) / "klaviyo.duckdb"
    mo.stop(not path.is_file(), mo.md(f"There is no `{path}`: name the folder of the lake above."))
    database = duckdb.connect(str(path), read_only=True)
    database.execute("SET TimeZone = 'UTC'")
    reader = OverviewReader(database)
    # What `$zone`, `$since`, `$revenue_metric` and so on stand for: change it to ask about others.
    scope = reader.read_scope(datetime.now(UTC))
    mo.md(
        f"""
        # {scope.account or "Marketing overview"}

        {scope.first_day} to {scope.last_day}, days of {scope.zone}. Revenue is
        {scope.revenue_metric_name} (`{scope.revenue_metric}`), in {scope.currency}.
        """
    )
    return database, reader, scope


@app.cell
def _(database, mo, query_parameters, reader, scope):
    def editor(question):
        """Return a box with a question's SQL, to be changed."""
        return mo.ui.code_editor(question.sql, language="sql", label=question.title)

    def answer(question, box):
        """Run what stands in the box; the rows as a data frame."""
        mo.stop(not reader.has(question), mo.md(question.switch_on))
        return database.execute(box.value, query_parameters(box.value, scope)).df()

    return answer, editor


@app.cell
def _(QUESTIONS, editor):
    revenue_sql = editor(QUESTIONS["revenue_by_day"])
    revenue_sql
    return (revenue_sql,)


@app.cell
def _(QUESTIONS, alt, answer, revenue_sql):
    revenue = answer(QUESTIONS["revenue_by_day"], revenue_sql)
    (
        alt.Chart(revenue)
        .mark_bar()
        .encode(x="day:T", y="revenue:Q", color="source:N", tooltip=list(revenue.columns))
        .properties(width="container")
    )
    return (revenue,)


@app.cell
def _(QUESTIONS, editor):
    campaigns_sql = editor(QUESTIONS["top_campaigns"])
    campaigns_sql
    return (campaigns_sql,)


@app.cell
def _(QUESTIONS, alt, answer, campaigns_sql):
    campaigns = answer(QUESTIONS["top_campaigns"], campaigns_sql)
    alt.Chart(campaigns).mark_bar().encode(x="revenue:Q", y=alt.Y("name:N", sort="-x"))
    return (campaigns,)


@app.cell
def _(QUESTIONS, editor):
    flows_sql = editor(QUESTIONS["top_flows"])
    flows_sql
    return (flows_sql,)


@app.cell
def _(QUESTIONS, alt, answer, flows_sql):
    flows = answer(QUESTIONS["top_flows"], flows_sql)
    alt.Chart(flows).mark_bar().encode(x="revenue:Q", y=alt.Y("name:N", sort="-x"))
    return (flows,)


@app.cell
def _(QUESTIONS, editor):
    campaign_funnel_sql = editor(QUESTIONS["campaign_funnel"])
    campaign_funnel_sql
    return (campaign_funnel_sql,)


@app.cell
def _(QUESTIONS, answer, campaign_funnel_sql):
    campaign_funnel = answer(QUESTIONS["campaign_funnel"], campaign_funnel_sql)
    campaign_funnel
    return (campaign_funnel,)


@app.cell
def _(QUESTIONS, editor):
    flow_funnel_sql = editor(QUESTIONS["flow_funnel"])
    flow_funnel_sql
    return (flow_funnel_sql,)


@app.cell
def _(QUESTIONS, answer, flow_funnel_sql):
    flow_funnel = answer(QUESTIONS["flow_funnel"], flow_funnel_sql)
    flow_funnel
    return (flow_funnel,)


@app.cell
def _(QUESTIONS, editor):
    growth_sql = editor(QUESTIONS["list_growth"])
    growth_sql
    return (growth_sql,)


@app.cell
def _(QUESTIONS, alt, answer, growth_sql):
    growth = answer(QUESTIONS["list_growth"], growth_sql)
    alt.Chart(growth).mark_line().encode(x="day:T", y="members:Q", color="name:N")
    return (growth,)


@app.cell
def _(QUESTIONS, editor):
    consent_sql = editor(QUESTIONS["consent_by_channel"])
    consent_sql
    return (consent_sql,)


@app.cell
def _(QUESTIONS, alt, answer, consent_sql):
    consent = answer(QUESTIONS["consent_by_channel"], consent_sql)
    (
        alt.Chart(consent)
        .mark_bar()
        .encode(x=alt.X("people:Q", stack="normalize"), y="channel:N", color="consent:N")
    )
    return (consent,)


@app.cell
def _(QUESTIONS, editor):
    deliverability_sql = editor(QUESTIONS["deliverability_by_domain"])
    deliverability_sql
    return (deliverability_sql,)


@app.cell
def _(QUESTIONS, answer, deliverability_sql):
    deliverability = answer(QUESTIONS["deliverability_by_domain"], deliverability_sql)
    deliverability
    return (deliverability,)


@app.cell
def _(QUESTIONS, editor):
    engagement_sql = editor(QUESTIONS["engagement"])
    engagement_sql
    return (engagement_sql,)


@app.cell
def _(QUESTIONS, alt, answer, engagement_sql):
    engagement = answer(QUESTIONS["engagement"], engagement_sql)
    alt.Chart(engagement).mark_bar().encode(x="people:Q", y=alt.Y("last_engaged:N", sort=None))
    return (engagement,)


@app.cell
def _(QUESTIONS, editor):
    cohorts_sql = editor(QUESTIONS["cohorts"])
    cohorts_sql
    return (cohorts_sql,)


@app.cell
def _(QUESTIONS, alt, answer, cohorts_sql):
    cohorts = answer(QUESTIONS["cohorts"], cohorts_sql)
    # The share of the people who first ordered in that month.
    size = cohorts[cohorts.months_later == 0].set_index("cohort").customers
    later = cohorts[cohorts.months_later > 0]
    alt.Chart(later.assign(share=later.customers / later.cohort.map(size))).mark_rect().encode(
        x="months_later:O", y="yearmonth(cohort):O", color="share:Q"
    )
    return (cohorts,)


@app.cell
def _(QUESTIONS, editor):
    usage_sql = editor(QUESTIONS["plan_usage"])
    usage_sql
    return (usage_sql,)


@app.cell
def _(QUESTIONS, answer, usage_sql):
    usage = answer(QUESTIONS["plan_usage"], usage_sql)
    usage
    return (usage,)


if __name__ == "__main__":
    app.run()
