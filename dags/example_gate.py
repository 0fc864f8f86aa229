"""A gate that holds flights back, and a redrive that lets them pass.

The same topic as the DAG `flights`, landed once for both. The check `known_airport` stops flights to airports that the
contract does not know, and above one in a hundred the gate holds the batch. In January and February of 2013 it does:
flights to Puerto Rico and the Virgin Islands are missing from `MAINLAND`.

1. Trigger the DAG with `eventlog_what` = interval, `eventlog_from` = 2013-01-01T00:00:00Z and `eventlog_to` =
   2013-03-01T00:00:00Z: the task `validate` fails and says how many rows were stopped and where to look at them.
   Nothing is loaded.
2. Correct the contract: `KNOWN = MAINLAND + TERRITORIES`.
3. Trigger it with `eventlog_what` = redrive and a reason: the stopped records, and only they, run again.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_eventlog import Check, DuckDB, Json, Pipeline, Rows, Stream, eventlog_batch

MAINLAND = """
    ABQ ACK ALB ANC ATL AUS AVL BDL BGR BHM BNA BOS BTV BUF BUR BWI BZN CAE CAK CHO CHS CLE CLT CMH CRW CVG DAY DCA
    DEN DFW DSM DTW EGE EYW FLL GRR GSO GSP HDN HNL HOU IAD IAH ILM IND JAC JAX LAS LAX LEX LGA LGB MCI MCO MDW MEM
    MHT MIA MKE MSN MSP MSY MTJ MVY MYR OAK OKC OMA ORD ORF PBI PDX PHL PHX PIT PSP PVD PWM RDU RIC ROC RSW SAN SAT
    SAV SBN SDF SEA SFO SJC SLC SMF SNA SRQ STL SYR TPA TUL TVC TYS XNA
""".split()  # noqa: SIM905 - a list of a hundred quoted names is no easier to read
TERRITORIES = ["BQN", "PSE", "SJU", "STT"]
KNOWN = MAINLAND

checked = Pipeline(
    "flights_checked",
    stream=Stream("flights", start="interval"),
    decode=Json(
        {
            "dep_time": "INTEGER",
            "dep_delay": "INTEGER",
            "carrier": "VARCHAR",
            "flight": "INTEGER",
            "tailnum": "VARCHAR",
            "origin": "VARCHAR",
            "dest": "VARCHAR",
            "time_hour": "TIMESTAMPTZ",
        }
    ),
    event_time="time_hour",
    checks=[
        Check("known_airport", f"dest in ({', '.join(repr(airport) for airport in KNOWN)})", on_fail="quarantine"),
        Check("cancelled_has_no_delay", "(dep_time is null) = (dep_delay is null)"),
        Check("has_tail_number", "tailnum is not null", on_fail="warn"),
    ],
    max_quarantine_ratio=0.01,
    outputs=[Rows(DuckDB("flights_checked.duckdb", table="flights"))],
)

with DAG(
    "flights_gate",
    schedule=None,
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
    tags=["eventlog"],
):
    eventlog_batch(checked)
