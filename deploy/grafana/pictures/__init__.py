"""Pictures of the dashboards for the docs, drawn by Grafana's own widgets from what a real Prometheus answered.

No Grafana server can be had where this is made: its widget library draws the panels as the JSON says, and what that
library does not have (the heat map, and the frame around it all) is drawn in page.tsx.

    python -m deploy.grafana.pictures DATA 480    a rehearsal of 480 s, its answers into the file DATA, then pictures
    python -m deploy.grafana.pictures DATA        pictures of what is in DATA

Needs TEST_MYSQL_URL and TEST_REDIS_URL for the rehearsal; npm, Debian's chromium and fonts-inter to draw.
"""
