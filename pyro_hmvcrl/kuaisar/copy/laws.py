"""The laws by which the generated copy's events come about: window, rates, and their slopes on the covariates."""

from __future__ import annotations

from datetime import date

FIRST_DATE = (date(2023, 5, 22) - date(1970, 1, 1)).days
OPENS, CLOSES = 14.5, 9.5  #: hours of the first and the last date
SLOTS = 19  #: days of presence: 18 whole dates, and the window's two parts of dates as one
WINDOW_DAYS = 18 + (24 - OPENS + CLOSES) / 24
PULL = 0.6  #: correlation of a delivery's scores with the user's covariates
SPREAD = (
    0.6,
    0.6,
    0.5,
)  #: how far categories' scores of popularity, duration and age lie from the middle, at most
# Intercepts, and slopes on the standardised covariate:
CADENCE = (1.9, 0.5)  #: of the logarithm of batches a day
BATCH_SIZE = (1.5, 0.35)  #: of the logarithm of the items of a batch after the first
NIGHT_SHARE = (-1.0, 0.7)  #: of its log odds
QUERY_RATE = (0.867, 0.3)  #: of the logarithm of 1 + queries a day
QUERY_BREADTH = (-0.7, 0.25)  #: of the logarithm of distinct keywords a query
CLICK_FROM = 7_000  #: ms: the watching time that makes a click, of longer items
VOCABULARY = 100_000
MOST_RESULTS = 12
